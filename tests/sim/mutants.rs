//! Planted faults: each is one small change of the product, and some seed must catch it. One that none does is
//! a hole in this world.
//!
//! A copy of the tree gets all of them, each behind a switch, and is built once. The product's own sources hold
//! none of this; that each change still finds its place in them is a test.
#![allow(clippy::disallowed_methods, reason = "it makes a copy of the sources")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::sweep;
use super::system::real_time;

/// What the switch is called in the environment.
const SWITCH: &str = "FERROLOG_MUTANT";
/// What is asked for at each place that can be changed.
const ASKS: &str = r#"
/// Which planted fault is on.
#[doc(hidden)]
pub mod mutant {
    pub fn is(name: &str) -> bool {
        std::env::var_os("FERROLOG_MUTANT").is_some_and(|on| on == name)
    }
}
"#;
/// What the build reads.
const TREE: [&str; 8] = [
    "Cargo.toml",
    "Cargo.lock",
    "proto",
    "src",
    "tests",
    "benches",
    "examples",
    "README.md",
];
/// Seeds that each mutant may take, and the time: some take 300 seeds, and a machine may be busy with others.
const SEEDS: (u64, u64) = (1, 2001);
const TIME_MAX: Duration = Duration::from_secs(300);

/// A change: what stands in one place of the sources, and what stands there instead. `IT` is whether it is on.
struct Mutant {
    name: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn mutant(name: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { name, from, to }
}

const MUTANTS: [Mutant; 35] = [
    mutant(
        "no sync before an answer",
        "store.sync()?;\n            let took",
        "if !IT { store.sync()?; }\n            let took",
    ),
    mutant(
        "a vote is not saved",
        "let result = stable.save_vote(&saved);",
        "let result = if IT { Ok(()) } else { stable.save_vote(&saved) };",
    ),
    mutant(
        "what a start finds is not synced",
        "        self.sync_data()?;\n        self.forget_cached()",
        "        if IT { return Ok(()); }\n        self.sync_data()?;\n        self.forget_cached()",
    ),
    mutant(
        "names of a segment's files are not synced",
        "self.disk.sync_dir(dir).map_err(Error::io(\"sync\", dir))\n    }\n\n    fn make_now",
        "if IT { return Ok(()); }\n        self.disk.sync_dir(dir).map_err(Error::io(\"sync\", dir))\n    }\n\n    fn make_now",
    ),
    mutant(
        "rows are not synced before a checkpoint",
        "self.log.sync_index()?;",
        "if !IT { self.log.sync_index()?; }",
    ),
    mutant(
        "a checkpoint is ahead of the log on disk",
        "applied.index >= *covered && Index(applied.index) < durable;",
        "applied.index >= *covered && (Index(applied.index) < durable || IT);",
    ),
    mutant(
        "a strong read asks nobody",
        "while !is_majority_of_each(&reign.configs, &held) {",
        "while !is_majority_of_each(&reign.configs, &held) && !IT {",
    ),
    mutant(
        "a new leader reads before its first entry is committed",
        "committed.filter(|id| id.leader_id.term == term)",
        "committed.filter(|id| id.leader_id.term == term || IT)",
    ),
    mutant(
        "a strong read does not wait until it is applied",
        "let caught_up = |applied: &Applied| applied.index >= index;",
        "let caught_up = |applied: &Applied| applied.index >= index || IT;",
    ),
    mutant(
        "a bounded read is not held to its bound",
        "staleness: confirmed.map(|told| told.began.elapsed()),",
        "staleness: confirmed.map(|told| if IT { Default::default() } else { told.began.elapsed() }),",
    ),
    mutant(
        "a read at an offset does not wait for it",
        "let there = applied.wait_for(|_| self.log.offsets(log).1 >= next);",
        "let there = applied.wait_for(|_| self.log.offsets(log).1 >= next || IT);",
    ),
    mutant(
        "what is sent again is new",
        "if behind == 0 {\n            return Ok(Verdict::new_batch());",
        "if behind == 0 || IT {\n            return Ok(Verdict::new_batch());",
    ),
    mutant(
        "what is sent again is answered with another offset",
        "Retold::Known(known) => Ok(Verdict { known, skip }),",
        "Retold::Known(mut known) => {\n                if IT { known.iter_mut().for_each(|range| range.first.0 += 1); }\n                Ok(Verdict { known, skip })\n            }",
    ),
    mutant(
        "sessions are not in checkpoints",
        "Row::Session(session) => fsm.sessions.restore(&session)?,",
        "Row::Session(session) => if !IT { fsm.sessions.restore(&session)? },",
    ),
    mutant(
        "fences hold nobody off",
        "if epoch != fence.epoch {",
        "if epoch != fence.epoch && !IT {",
    ),
    mutant(
        "an epoch is given twice",
        "held.map_or(self.deleted_epoch, |_| 0)) + 1;",
        "held.map_or(self.deleted_epoch, |_| 0)) + u64::from(!IT || held.is_none());",
    ),
    mutant(
        "fences are not in checkpoints",
        "Row::Fence(fence) => fsm.fences.restore(fence)?,",
        "Row::Fence(fence) => if !IT { fsm.fences.restore(fence)? },",
    ),
    mutant(
        "a conditional append has no condition",
        "Some(expected) if expected != next => Err",
        "Some(expected) if expected != next && !IT => Err",
    ),
    mutant(
        "a cursor is set from anywhere",
        "commit.expected.is_none_or(|offset| current == Some(offset));",
        "commit.expected.is_none_or(|offset| current == Some(offset) || IT);",
    ),
    mutant(
        "an answer tells the offset after",
        "ranges.push(OffsetRange { first, count });",
        "let first = Offset(first.0 + u64::from(IT));\n            ranges.push(OffsetRange { first, count });",
    ),
    mutant(
        "a trim takes one record more",
        "ends.first = ends.first.max(trim.first.min(ends.next));",
        "let wanted = Offset(trim.first.0 + u64::from(IT));\n        ends.first = ends.first.max(wanted.min(ends.next));",
    ),
    mutant(
        "memory gives up what is not written",
        "self.tail.pop_front_if(|held| held.entry.index < durable)",
        "self.tail.pop_front_if(|held| held.entry.index < durable || IT)",
    ),
    mutant(
        "who follows rewrites nothing",
        "due.retain(|plan| log.can_rewrite(plan) || log.may_take_over(plan));",
        "due.retain(|plan| log.can_rewrite(plan) || log.may_take_over(plan));
        due.retain(|_| !IT || self.node.view().leader == Some(self.node.id()));",
    ),
    mutant(
        "a read takes from the disk what is in memory alone",
        "is_cached = !is_rewritten && self.cached(part.row.index).is_some();
                on_disk = self.tail.front().filter(|_| !is_cached && !is_rewritten);",
        "is_cached = !IT && !is_rewritten && self.cached(part.row.index).is_some();
                on_disk = self.tail.front().filter(|_| !IT && !is_cached && !is_rewritten);",
    ),
    mutant(
        "a start reads the first entry",
        "let is_it = is_applied && from == first",
        "let is_it = !IT && is_applied && from == first",
    ),
    mutant(
        "a snapshot's segments stay as they were",
        "adopt_files(&*self.0.disk, from, &self.0.dir, names)?;",
        "if !IT { adopt_files(&*self.0.disk, from, &self.0.dir, names)?; }",
    ),
    mutant(
        "compaction keeps the first record of a key",
        "self.mark(before);",
        "self.mark(if IT { spot } else { before });",
    ),
    mutant(
        "a rewriting gives up a record that lives",
        "log != LogId::GONE && first.is_none_or(|first| end > first.0)",
        "log != LogId::GONE && first.is_none_or(|first| end > first.0.saturating_add(u64::from(IT)))",
    ),
    mutant(
        "of a call the first condition alone is judged",
        "for (number, batch) in (0..).zip(bundle) {",
        "for (number, batch) in (0..).zip(bundle).take(if IT { 1 } else { usize::MAX }) {",
    ),
    mutant(
        "of a call the first batch alone is appended",
        "for batch in bundle.iter().filter(|_| !duplicate) {",
        "for batch in bundle.iter().filter(|_| !duplicate).take(if IT { 1 } else { usize::MAX }) {",
    ),
    mutant(
        "a log is deleted by its name, whatever its id",
        "let is_it = self.by_name.get(&delete.name) == Some(&delete.log);",
        "let is_it = IT || self.by_name.get(&delete.name) == Some(&delete.log);",
    ),
    mutant(
        "a reader of several logs goes on behind what it did not read",
        "Some(last) if next < last.next => next,",
        "Some(last) if !IT && next < last.next => next,",
    ),
    mutant(
        "a start goes on in a segment that the log ended",
        "            segment.roll = Some(since);\n            self.rolled = next;",
        "            if !IT { segment.roll = Some(since); }\n            self.rolled = next;",
    ),
    mutant(
        "a checkpoint does not say from where on a segment counts",
        "rolled: Index(checkpoint.rolled),",
        "rolled: Index(if IT { 0 } else { checkpoint.rolled }),",
    ),
    mutant(
        "a node that lags believes the name that it knows",
        "Err(status) if is_gone(&status) => {",
        "Err(status) if !IT && is_gone(&status) => {",
    ),
];

/// The sources of the product, without its tests.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.ends_with("tests") {
                continue;
            }
            sources(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Puts every change into the sources of a tree, or says which finds no place, or two.
fn planted(tree: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut paths = Vec::new();
    sources(&tree.join("src"), &mut paths).map_err(|error| error.to_string())?;
    paths.sort();
    let read = |path: PathBuf| fs::read_to_string(&path).map(|text| (path, text));
    let texts: Result<Vec<_>, _> = paths.into_iter().map(read).collect();
    let mut texts = texts.map_err(|error| error.to_string())?;
    for Mutant { name, from, to } in &MUTANTS {
        let places = texts.iter().map(|(_, text)| text.matches(from).count());
        let places: usize = places.sum();
        if places != 1 {
            return Err(format!(
                "the mutant {name:?} finds {places} places: {from:?}"
            ));
        }
        let to = to.replace("IT", &format!("crate::mutant::is({name:?})"));
        for (_, text) in &mut texts {
            *text = text.replace(from, &to);
        }
    }
    for (path, text) in &mut texts {
        if path.ends_with("src/lib.rs") {
            text.push_str(ASKS);
        }
    }
    Ok(texts)
}

/// Whether every change still finds its place.
pub fn check() -> Result<usize, String> {
    planted(Path::new(env!("CARGO_MANIFEST_DIR"))).map(|_| MUTANTS.len())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    fs::copy(from, to).map(drop)
}

/// The copy with all changes, built.
fn built(target: &Path) -> Result<PathBuf, String> {
    let tree = target.join("mutants");
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let failed = |error: io::Error| error.to_string();
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).map_err(failed)?;
    for name in TREE {
        copy(&home.join(name), &tree.join(name)).map_err(failed)?;
    }
    for (path, text) in planted(&tree)? {
        fs::write(path, text).map_err(failed)?;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "test",
        "--no-run",
        "--profile",
        "sim",
        "--locked",
        "--test",
        "sim",
    ]);
    cargo.current_dir(&tree).env("CARGO_TARGET_DIR", target);
    let output = cargo.output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Executable "));
    let path = line.and_then(|line| line.split_once('('));
    let Some(path) = path.and_then(|(_, path)| path.strip_suffix(')')) else {
        return Err(said.into_owned());
    };
    // Out of the way of builds of the sources themselves, whose program has the same name.
    let program = tree.join("sim");
    fs::copy(tree.join(path), &program).map_err(failed)?;
    Ok(program)
}

/// Builds all mutants, and has seeds catch each.
pub fn main(only: Option<&str>) -> ExitCode {
    let target = std::env::current_exe().ok();
    let target = target.as_ref().and_then(|path| path.ancestors().nth(3));
    let program = match built(target.unwrap_or(Path::new("target"))) {
        Ok(program) => program,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:>6} {:>6}  mutant, and how it was seen", "seed", "s");
    let mut missed = 0;
    for mutant in MUTANTS
        .iter()
        .filter(|one| only.is_none_or(|only| one.name.contains(only)))
    {
        let began = real_time();
        let caught = sweep::first_failure(&program, (SWITCH, mutant.name), SEEDS, TIME_MAX);
        let took = (real_time() - began).as_secs_f64();
        match caught {
            Some((seed, how)) => println!("{seed:>6} {took:>6.1}  {}: {how}", mutant.name),
            None => {
                missed += 1;
                println!("{:>6} {took:>6.1}  {}", "NONE", mutant.name);
            }
        }
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
