//! What people do with a command line: pipe it into `head`, close the terminal, look before they delete, try again.
#![allow(clippy::disallowed_methods, reason = "it looks at files and processes")]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use crate::harness::command::{
    Ended, Lone, alone_args, command, command_of_terminal, ended, json, run, runs, signal,
};
use crate::harness::{PATIENCE, until};

/// A node alone, its directory, and three records in it.
async fn three_records() -> (tempfile::TempDir, Lone) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Lone::start(&alone_args(&dir.path().join("n1"))).await;
    let mut child = command(&node.plain(&["produce"]));
    let mut child = child.stdin(Stdio::piped()).spawn().expect("the binary");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"one\ntwo\nthree\n").await.expect("input");
    drop(stdin);
    let ended = ended(child).await;
    assert!(ended.err.contains("offsets 0 to 2"), "{ended:?}");
    (dir, node)
}

/// `consume --follow | head -1`: nothing more comes, and the command ends all the same.
#[tokio::test]
async fn a_command_that_follows_ends_with_its_reader() {
    let (_dir, node) = three_records().await;
    for words in [&["consume", "--follow"][..], &["log", "watch"]] {
        let mut child = command(&node.plain(words)).spawn().expect("the binary");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).await.expect("a line");
        assert!(line == "one\n" || line.contains("default"), "{line}");
        drop(out);
        let ended = ended(child).await;
        assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{words:?}");
    }
}

/// A terminal: what is typed there, and the end that a process has.
fn terminal() -> (File, OwnedFd) {
    let typed = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&typed)
        .and_then(|()| unlockpt(&typed))
        .expect("its other end");
    let name = ptsname(&typed, Vec::new()).expect("its name");
    let name = name.to_str().expect("UTF-8").to_owned();
    let other = File::options()
        .read(true)
        .write(true)
        .open(name)
        .expect("opened");
    (typed.into(), other.into())
}

/// Runs a command on a terminal where this is typed.
async fn at_a_terminal(args: &[String], types: &str) -> Option<i32> {
    let (mut typed, other) = terminal();
    let mut child = command(args);
    let theirs = other.try_clone().expect("a second one");
    child.stdin(Stdio::from(other)).stderr(Stdio::from(theirs));
    let child = child.spawn().expect("the binary");
    typed.write_all(types.as_bytes()).expect("typed");
    ended(child).await.code
}

#[tokio::test]
async fn what_cannot_be_undone_is_asked_on_a_terminal_and_looked_at_before() {
    let (_dir, node) = three_records().await;
    let first = async || {
        let told = run(&node.plain(&["log", "show", "default", "--output", "json"])).await;
        json(&told.expect_success())["first_offset"].as_u64()
    };
    let trim = |rest: &[&str]| node.plain(&[&["log", "trim", "2"], rest].concat());
    let looked = run(&trim(&["--dry-run"])).await.expect_success();
    let would = "it would give up 2 records, offsets 0 to 1 of the log default, and keep 1 record; nothing was done\n";
    assert_eq!(looked, would);
    assert_eq!(at_a_terminal(&trim(&[]), "n\n").await, Some(1));
    assert_eq!(first().await, Some(0), "neither has done anything");
    assert_eq!(at_a_terminal(&trim(&[]), "y\n").await, Some(0));
    assert_eq!(first().await, Some(2));
    let nothing = run(&trim(&["--dry-run"])).await.expect_success();
    assert!(nothing.starts_with("no record would go"), "{nothing}");

    run(&node.plain(&["log", "create", "orders"]))
        .await
        .expect_success();
    let delete = |rest: &[&str]| node.plain(&[&["log", "delete", "orders"], rest].concat());
    let looked = run(&delete(&["--dry-run"])).await.expect_success();
    assert!(
        looked.contains("it would delete the log orders (id "),
        "{looked}"
    );
    assert_eq!(at_a_terminal(&delete(&[]), "\n").await, Some(1));
    // Who says so before is not asked, and neither is a script.
    assert_eq!(at_a_terminal(&delete(&["--yes"]), "").await, Some(0));
    let gone = run(&delete(&[])).await.expect_success();
    assert!(gone.contains("there is no log orders"), "{gone}");
}

#[tokio::test]
async fn a_fence_is_claimed_shown_and_used_by_the_command_line_alone() {
    let (dir, node) = three_records().await;
    let of = async |words: &[&str]| run(&node.plain(words)).await;
    let shown = of(&["fence", "show", "nightly"]).await.expect_success();
    assert!(shown.contains("ferrolog fence claim nightly"), "{shown}");
    let claim = [
        "fence", "claim", "nightly", "--holder", "ann", "--output", "json",
    ];
    let claimed = json(&of(&claim).await.expect_success());
    assert_eq!(
        (&claimed["epoch"], &claimed["next_offset"]),
        (&1.into(), &3.into())
    );
    let input = dir.path().join("input");
    fs::write(&input, "four\n").expect("a file");
    let input = input.to_str().expect("UTF-8");
    let append = ["produce", "--fence", "nightly:1", input];
    of(&append).await.expect_success();
    let late = ["fence", "claim", "nightly", "--expected", "0"];
    of(&late).await.expect_refusal(&["another claimed it"]);
    let taken = of(&["fence", "claim", "nightly", "--expected", "1"])
        .await
        .expect_success();
    assert!(taken.contains("--fence nightly:2"), "{taken}");
    of(&append).await.expect_refusal(&["nightly"]);
    let shown = of(&["fence", "show", "nightly"]).await.expect_success();
    assert!(shown.contains("epoch 2"), "{shown}");
}

#[tokio::test]
async fn the_program_says_what_it_is_and_writes_its_manual() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("man");
    let at = out.to_str().expect("UTF-8");
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let told = run(&words(&["version", "--output", "json"]))
        .await
        .expect_success();
    assert!(json(&told)["format_version"].is_u64(), "{told}");
    let script = run(&words(&["completions", "bash"])).await.expect_success();
    assert!(
        script.contains("--retention-bytes"),
        "no option is completed"
    );
    run(&words(&["man", "--out", at])).await.expect_success();
    for page in ["ferrolog.1", "ferrolog-serve.1", "ferrolog-log-trim.1"] {
        let page = fs::read_to_string(out.join(page)).expect("a page");
        assert!(
            page.starts_with(".ie") && page.contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
}

/// A `ferrolog dev` that runs, and what it printed.
struct Dev {
    child: Child,
    told: Value,
}

impl Dev {
    async fn start(rest: &[&str]) -> Self {
        let args: Vec<_> = [&["dev", "--output", "json"], rest].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        let mut child = command_of_terminal(&args).spawn().expect("the binary");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let read = tokio::time::timeout(PATIENCE, out.read_line(&mut line)).await;
        read.expect("in time").expect("a line");
        let told = json(&line);
        Self { child, told }
    }

    fn pid(&self, place: usize) -> u64 {
        self.told["nodes"][place]["pid"].as_u64().expect("a number")
    }

    async fn end_by(self, with: Signal) -> Ended {
        signal(self.child.id().expect("it runs"), with);
        ended(self.child).await
    }
}

#[tokio::test]
async fn a_cluster_to_try_ends_with_its_terminal() {
    let dev = Dev::start(&["--nodes", "1"]).await;
    let (pid, data) = (dev.pid(0), dev.told["nodes"][0]["data_dir"].clone());
    let data = data.as_str().expect("a path").to_owned();
    assert!(runs(pid) && fs::exists(&data).expect("seen"));
    let ended = dev.end_by(Signal::HUP).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        !runs(pid) && !fs::exists(&data).expect("seen"),
        "it left {data}"
    );
}

#[tokio::test]
async fn a_cluster_to_try_has_a_node_started_again_and_goes_on_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("a cluster");
    let at = at.to_str().expect("UTF-8");
    let dev = Dev::start(&["--dir", at, "--nodes", "3"]).await;
    let exports = dev.told["exports"].as_array().expect("a list").clone();
    assert_eq!(exports.len(), 3, "{exports:?}");

    signal(dev.pid(2), Signal::KILL);
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let restart = words(&["dev", "restart", "n3", "--dir", at, "--output", "json"]);
    let told = json(&run(&restart).await.expect_success());
    assert_eq!(told["addr"], dev.told["nodes"][2]["addr"], "where it was");
    // What was printed reaches the cluster, as a shell takes it.
    let lines: Vec<_> = exports.iter().filter_map(Value::as_str).collect();
    let status = format!("{}\n\"$0\" cluster status --output json", lines.join("\n"));
    until("three voters", async || {
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", &status, crate::harness::BINARY]);
        let seen = shell.output().await.expect("a shell");
        let seen: Value = serde_json::from_slice(&seen.stdout).ok()?;
        (seen["nodes"].as_array()?.len() == 3).then_some(())
    })
    .await;
    let nobody = words(&["dev", "restart", "n9", "--dir", at]);
    run(&nobody).await.expect_refusal(&["n1 to n3"]);
    let second = words(&["dev", "--dir", at]);
    run(&second)
        .await
        .expect_refusal(&["another `ferrolog dev` runs"]);
    assert_eq!(dev.end_by(Signal::TERM).await.code, Some(0));

    run(&restart)
        .await
        .expect_refusal(&["no `ferrolog dev` runs in"]);
    let more = words(&["dev", "--dir", at, "--nodes", "5"]);
    run(&more)
        .await
        .expect_refusal(&["holds a cluster of 3 nodes", "--nodes"]);
    let moved = words(&["dev", "--dir", at, "--base-port", "7401"]);
    run(&moved).await.expect_refusal(&["leave --base-port out"]);
    let again = Dev::start(&["--dir", at]).await;
    assert_eq!(again.told["nodes"].as_array().expect("a list").len(), 3);
    again.end_by(Signal::TERM).await;
}
