//! Many seeds, each in a process of its own: on all cores, in bounded time, and told in one table.
//!
//! A process each, since what a library keeps for the life of a process (a counter of its runtimes, a map's
//! keys) is a part of the history.
#![allow(clippy::disallowed_methods, reason = "its threads wait for processes")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::events::SOMETIMES;
use super::mutants;
use super::plan::FAULTS_MAX;
use super::run::Leak;
use super::system::real_time;

/// The seeds of `make test`.
const SEEDS: (u64, u64) = (1, 201);
/// The seeds of those that are run twice there.
const TWICE: (u64, u64) = (1, 51);
/// How often a sweep says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What a run prints at its end: one line, each fact with its name.
#[derive(Debug, Default, Clone)]
pub struct Line {
    pub digest: u64,
    pub events: u64,
    pub simulated_ms: u64,
    pub acked: u64,
    pub faults: BTreeMap<String, u64>,
    pub seen: Vec<u64>,
}

impl Line {
    pub fn shown(&self) -> String {
        let faults = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind}={count}"));
        let seen: Vec<_> = self.seen.iter().map(u64::to_string).collect();
        format!(
            "sound {:016x} {} {} {} [{}] [{}]",
            self.digest,
            self.events,
            self.simulated_ms,
            self.acked,
            faults.collect::<Vec<_>>().join(","),
            seen.join(",")
        )
    }

    fn parsed(text: &str) -> Option<Self> {
        let line = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("sound "))?;
        let (numbers, lists) = line.split_once(" [")?;
        let (faults, seen) = lists.strip_suffix(']')?.split_once("] [")?;
        let mut numbers = numbers.split(' ');
        let digest = u64::from_str_radix(numbers.next()?, 16).ok()?;
        let mut number = || numbers.next()?.parse().ok();
        let fault = |text: &str| {
            let (kind, count) = text.split_once('=')?;
            Some((kind.to_owned(), count.parse().ok()?))
        };
        Some(Self {
            digest,
            events: number()?,
            simulated_ms: number()?,
            acked: number()?,
            faults: faults.split(',').filter_map(fault).collect(),
            seen: seen.split(',').filter_map(|at| at.parse().ok()).collect(),
        })
    }
}

/// Runs a seed; an error is what it printed.
fn run(seed: u64) -> Result<Line, String> {
    run_with(seed, &[])
}

/// The same without some of its faults.
fn run_without(seed: u64, without: &[usize]) -> Result<Line, String> {
    match without {
        [] => run(seed),
        _ => run_with(seed, &["--without", &list(without)]),
    }
}

fn run_with(seed: u64, args: &[&str]) -> Result<Line, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut program = Command::new(program);
    program.args(args);
    run_in(program, seed)
}

fn list(numbers: &[usize]) -> String {
    let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
    numbers.join(",")
}

/// The faults without which a seed still fails, left out one by one, and what it says then.
fn shrunk(seed: u64, said: &str) -> (Vec<usize>, String) {
    let (mut without, mut last) = (Vec::new(), said.to_owned());
    for fault in 0..FAULTS_MAX {
        without.push(fault);
        match run_without(seed, &without) {
            Ok(_) => drop(without.pop()),
            Err(said) => last = said,
        }
    }
    (without, last)
}

fn run_in(mut program: Command, seed: u64) -> Result<Line, String> {
    program.args(["--run", &seed.to_string()]);
    let output = program.stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    match Line::parsed(&said).filter(|_| output.status.success()) {
        Some(line) => Ok(line),
        None => Err(format!(
            "{said}{}{}",
            String::from_utf8_lossy(&output.stderr),
            output.status
        )),
    }
}

/// The first of these seeds, as they come, that fails in another program, and how it did.
pub fn first_failure(
    program: &Path,
    switch: (&str, &str),
    seeds: (u64, u64),
    time_max: Duration,
) -> Option<(u64, String)> {
    let (next, first) = (AtomicU64::new(seeds.0), Mutex::new(None));
    let began = real_time();
    on_all_cores(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.1 || real_time() - began >= time_max {
                return;
            }
            let mut command = Command::new(program);
            command.env(switch.0, switch.1);
            if let Err(said) = run_in(command, seed) {
                next.store(seeds.1, Ordering::Relaxed);
                let mut how = said
                    .lines()
                    .filter_map(|line| line.strip_prefix("VIOLATION: "));
                let how = how
                    .next()
                    .or(said.lines().find(|line| line.contains("panicked")));
                let how = how.unwrap_or_default().chars().take(200).collect();
                first
                    .lock()
                    .expect("no panic before")
                    .get_or_insert((seed, how));
            }
        }
    });
    first.into_inner().expect("no panic before")
}

fn on_all_cores(work: impl Fn() + Sync) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&work);
        }
    });
}

/// Several runs: what they came to, and what failed.
#[derive(Default)]
struct Sum {
    lines: BTreeMap<u64, Line>,
    failed: Vec<(u64, String)>,
    /// How often it was said how far this is.
    told: u32,
}

impl Sum {
    /// Says how far this is, if it is time to.
    fn tell_progress(&mut self, seeds: (u64, u64), took: Duration) {
        if took >= TELL_EVERY * (self.told + 1) {
            self.told += 1;
            let (sound, failed, of) = (self.lines.len(), self.failed.len(), seeds.1 - seeds.0);
            let seconds = took.as_secs();
            eprintln!("after {seconds} s: {sound} of {of} seeds sound, {failed} failed");
        }
    }
}

/// Runs these seeds on all cores until the time is over.
fn sweep(seeds: (u64, u64), time_max: Duration, fail_fast: bool) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.0), Mutex::new(Sum::default()));
    let began = real_time();
    on_all_cores(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.1 || real_time() - began >= time_max {
                return;
            }
            let ended = run(seed);
            let mut sum = sum.lock().expect("no panic before");
            match ended {
                Ok(line) => drop(sum.lines.insert(seed, line)),
                Err(said) => {
                    println!("seed {seed} FAILED: {}", repro(seed));
                    sum.failed.push((seed, said));
                    if fail_fast {
                        next.store(seeds.1, Ordering::Relaxed);
                    }
                }
            }
            sum.tell_progress(seeds, real_time() - began);
        }
    });
    sum.into_inner().expect("no panic before")
}

fn repro(seed: u64) -> String {
    let program = std::env::current_exe().map(|path| path.display().to_string());
    format!("{} --run {seed}", program.unwrap_or_default())
}

fn tell(sum: &Sum, took: Duration) {
    let count = sum.lines.len();
    let lines = || sum.lines.values();
    let hours = lines().map(|line| line.simulated_ms).sum::<u64>() as f64 / 3_600_000.0;
    let seconds = took.as_secs_f64();
    println!(
        "{count} seeds without a violation, {} with one, in {seconds:.1} s ({:.1} a second): {hours:.2} simulated \
         hours, {} events, {} records acknowledged",
        sum.failed.len(),
        count as f64 / seconds,
        lines().map(|line| line.events).sum::<u64>(),
        lines().map(|line| line.acked).sum::<u64>(),
    );
    let mut faults = BTreeMap::<&str, u64>::new();
    for (kind, count) in lines().flat_map(|line| &line.faults) {
        *faults.entry(kind).or_default() += count;
    }
    println!("faults: {}", faults.values().sum::<u64>());
    for (kind, count) in faults {
        println!("  {count:>8}  {kind}");
    }
    println!("sometimes, in so many seeds:");
    for (at, what) in SOMETIMES.iter().enumerate() {
        let seeds = lines()
            .filter(|line| line.seen.contains(&(at as u64)))
            .count();
        println!("  {seeds:>8}  {what}");
    }
}

/// Whether two runs of the same seeds have the same histories; gives how many they were.
fn same(one: &Sum, other: &Sum) -> Result<usize, String> {
    if let Some((seed, said)) = one.failed.iter().chain(&other.failed).next() {
        return Err(format!("seed {seed}: {said}"));
    }
    for (seed, second) in &other.lines {
        let Some(first) = one.lines.get(seed) else {
            return Err(format!("seed {seed} was run once"));
        };
        if first.digest != second.digest {
            return Err(format!(
                "seed {seed} has two histories, {:016x} and {:016x}: {} --events FILE writes one",
                first.digest,
                second.digest,
                repro(*seed)
            ));
        }
    }
    Ok(other.lines.len())
}

/// Whether the comparison sees what it is there for: the machine's chance, or its clock, in a history.
fn sees_leaks() -> Result<(), String> {
    for (_, leak) in Leak::ALL {
        let one = || run_with(SEEDS.0, &["--leak", leak]);
        if one()?.digest == one()?.digest {
            return Err(format!(
                "the machine's {leak} is let into seed {}, and no digest tells",
                SEEDS.0
            ));
        }
    }
    Ok(())
}

fn range(text: &str) -> (u64, u64) {
    let (from, to) = text.split_once("..").unwrap_or((text, ""));
    let from = from.parse().expect("SEEDS=A..B");
    (from, to.parse().unwrap_or(from + 1))
}

/// `--seeds A..B` runs these, `--twice A..B` these twice; without either, the seeds of `make test`.
pub fn main(args: &[String]) -> ExitCode {
    let value = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    if args.iter().any(|arg| arg == "--mutants") {
        return mutants::main(value("--mutants").as_deref());
    }
    let seconds = value("--seconds").and_then(|text| text.parse().ok());
    let asked = value("--seeds").map(|text| range(&text));
    let time_max = seconds.map_or(Duration::MAX, Duration::from_secs);
    if let Some(seeds) = value("--twice").map(|text| range(&text)) {
        let run = || sweep(seeds, time_max, true);
        return told_twice(same(&run(), &run()));
    }
    if asked.is_none() {
        if args
            .iter()
            .any(|arg| !arg.starts_with('-') && !"simulation".contains(arg.as_str()))
        {
            return ExitCode::SUCCESS;
        }
        match mutants::check() {
            Ok(count) => println!("{count} mutants find their places"),
            Err(error) => {
                println!("{error}");
                return ExitCode::FAILURE;
            }
        }
        if let Err(error) = sees_leaks() {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    let began = real_time();
    let sum = sweep(asked.unwrap_or(SEEDS), time_max, asked.is_none());
    tell(&sum, real_time() - began);
    for (seed, said) in sum.failed.iter().take(3) {
        let (without, said) = shrunk(*seed, said);
        let without = list(&without);
        println!("seed {seed}, with the faults that it takes:\n{said}");
        println!("again: {} --without {without}", repro(*seed));
    }
    match sum.failed.is_empty() && !sum.lines.is_empty() {
        true if asked.is_none() => told_twice(same(&sum, &sweep(TWICE, time_max, true))),
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn told_twice(told: Result<usize, String>) -> ExitCode {
    match told {
        Ok(count) => {
            println!("{count} seeds run twice, each with one history");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
