//! The examples, run as processes against three nodes, and what each one promises: no line lost or doubled, no
//! update lost, no result from a runner that was taken over, no lock held twice.
#![allow(
    clippy::disallowed_methods,
    reason = "it looks at the files of its examples"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ferrolog::client::{Consistency, ConsumeOptions, ConsumedRecord, Record};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::harness::{Stage, rounds, until};

/// A run that takes longer hangs.
const END_MAX: Duration = Duration::from_secs(60);

/// Where cargo puts the examples: beside the directory of this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("a directory");
    let path = deps.parent().expect("a directory").join("examples");
    let path = path.join(name);
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// A running example, whose output goes to files: a paused one would not empty a pipe.
struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Running {
    fn start(stage: &Stage, name: &str, words: &[&str]) -> Self {
        let files = stage.cluster.client_tls_files().expect("TLS");
        let output = |kind: &str| {
            let file = tempfile::Builder::new()
                .prefix(kind)
                .tempfile_in(stage.path());
            let (file, path) = file.and_then(|file| Ok(file.keep()?)).expect("a file");
            (Stdio::from(file), path)
        };
        let ((out_file, out), (err_file, err)) = (output("out"), output("err"));
        let child = Command::new(example(name))
            .args(words)
            .env("FERROLOG_SERVERS", stage.cluster.addrs().join(","))
            .env("FERROLOG_TLS_CA", files.ca)
            .env("FERROLOG_TLS_CERT", files.cert)
            .env("FERROLOG_TLS_KEY", files.key)
            .env_remove("FERROLOG_INSECURE")
            .stdin(Stdio::null())
            .stdout(out_file)
            .stderr(err_file)
            .kill_on_drop(true)
            .spawn()
            .expect("the example");
        Self { child, out, err }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, signal).expect("a signal");
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.err).expect("a file")
    }

    /// Waits until it has said this on standard error.
    async fn says(&self, words: &str) {
        let said = async || self.said().contains(words).then_some(());
        until(&format!("it says {words:?}"), said).await;
    }

    async fn end(mut self) -> Ended {
        let status = tokio::time::timeout(END_MAX, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end: {}", self.said()));
        Ended {
            status: status.expect("its end"),
            out: fs::read_to_string(&self.out).expect("a file"),
            err: self.said(),
        }
    }
}

impl Ended {
    fn expect_success(self) -> String {
        assert!(self.status.success(), "{}: {}", self.status, self.err);
        self.out
    }
}

async fn run(stage: &Stage, name: &str, words: &[&str]) -> Ended {
    Running::start(stage, name, words).end().await
}

async fn all_records(stage: &Stage) -> Vec<ConsumedRecord> {
    let options = ConsumeOptions {
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = stage.client().consume(options).expect("a consumer");
    let mut records = Vec::new();
    while let Some(record) = consumer.next().await {
        records.push(record.expect("a record"));
    }
    records
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| header.name == name)?;
    Some(std::str::from_utf8(&header.value).expect("text"))
}

/// Appends lines to a file, each unlike all others.
fn write_lines(path: &PathBuf, numbers: std::ops::Range<u32>) {
    let mut file = fs::OpenOptions::new();
    let mut file = file.create(true).append(true).open(path).expect("a file");
    let lines: String = numbers.map(|number| format!("line {number}\n")).collect();
    file.write_all(lines.as_bytes()).expect("written");
}

#[tokio::test]
async fn a_tail_that_is_killed_goes_on_where_the_log_says() {
    let stage = Stage::start().await;
    let path = stage.path().join("growing");
    let file = path.to_str().expect("UTF-8");
    let (kills, lines) = (u32::try_from(rounds(5)).expect("few"), 20_000);
    for kill in 0..kills {
        write_lines(&path, kill * lines..(kill + 1) * lines);
        let run = Running::start(&stage, "tail_file", &[file]);
        let before = stage.status(0).await.next_offset;
        // Somewhere on the way, with much in flight.
        let moved = async || (stage.status(0).await.next_offset > before).then_some(());
        until("some lines are in the log", moved).await;
        run.signal(Signal::KILL);
        run.end().await;
        let there = stage.status(0).await.next_offset;
        println!(
            "killed with {there} of {} lines in the log",
            (kill + 1) * lines
        );
    }
    // The end of the file is no line yet: it stays out.
    let mut file_end = fs::OpenOptions::new();
    let mut file_end = file_end.append(true).open(&path).expect("a file");
    file_end.write_all(b"half a line").expect("written");
    let last = run(&stage, "tail_file", &[file, "--once"]).await;
    last.expect_success();
    let records = all_records(&stage).await;
    for (number, consumed) in records.iter().enumerate() {
        assert_eq!(consumed.record.value, format!("line {number}"));
    }
    assert_eq!(records.len(), (kills * lines) as usize);
    let again = run(&stage, "tail_file", &[file, "--once"]).await;
    again.expect_success();
    assert_eq!(all_records(&stage).await.len(), records.len());

    fs::write(&path, "cut\n").expect("written");
    let cut = run(&stage, "tail_file", &[file, "--once"]).await;
    assert!(cut.err.contains("cut or replaced"), "{}", cut.err);
}

#[tokio::test]
async fn concurrent_updates_of_a_key_are_not_lost() {
    let stage = Stage::start().await;
    let times = rounds(50);
    let words = ["add", "visits", "1", "--times", &times.to_string()];
    let writers = [0, 1].map(|_| Running::start(&stage, "kv", &words));
    for writer in writers {
        writer.end().await.expect_success();
    }
    let visits = run(&stage, "kv", &["get", "visits"]).await;
    assert_eq!(visits.expect_success().trim(), (2 * times).to_string());

    let code = async |words: &[&str]| run(&stage, "kv", words).await.status.code();
    assert_eq!(code(&["cas", "colour", "red", "blue"]).await, Some(1));
    assert_eq!(code(&["cas", "--absent", "colour", "red"]).await, Some(0));
    assert_eq!(code(&["cas", "--absent", "colour", "red"]).await, Some(1));
    assert_eq!(code(&["cas", "colour", "red", "blue"]).await, Some(0));
    let colour = run(&stage, "kv", &["get", "colour"]).await;
    assert_eq!(colour.expect_success(), "blue\n");
    assert_eq!(code(&["delete", "colour"]).await, Some(0));
    assert_eq!(code(&["get", "colour"]).await, Some(1));
}

#[tokio::test]
async fn a_runner_that_was_taken_over_writes_no_more() {
    let stage = Stage::start().await;
    let runner = |name: &str| {
        let words = ["run", "--name", name, "--patience", "3000"];
        Running::start(&stage, "jobs", &words)
    };
    let old = runner("old");
    old.says("leads as epoch 1 ").await;
    let new = runner("new");
    new.says("stands by").await;
    // The first one is under way when its runner stops.
    let submit = ["submit", "sleep 1; echo one", "echo two"];
    run(&stage, "jobs", &submit).await.expect_success();
    old.says("begins").await;
    old.signal(Signal::STOP);
    new.says("leads as epoch 2 ").await;
    new.says("begins").await;
    old.signal(Signal::CONT);
    let old = old.end().await;
    assert!(!old.status.success(), "it must not go on: {}", old.err);
    assert!(old.err.contains("is fenced"), "{}", old.err);

    let listed = async || {
        let listed = run(&stage, "jobs", &["list"]).await.expect_success();
        (!listed.contains("waiting")).then_some(listed)
    };
    let listed = until("both jobs are done", listed).await;
    assert!(
        listed.contains("exit 0\tsleep 1; echo one\tone"),
        "{listed}"
    );
    assert!(listed.contains("exit 0\techo two\ttwo"), "{listed}");

    let said = new.said();
    let claimed = said.split("from offset ").nth(1).expect("its claim");
    let claimed = claimed.lines().next().and_then(|line| line.parse().ok());
    let claimed: u64 = claimed.expect("an offset");
    let mut done = BTreeSet::new();
    for consumed in all_records(&stage).await {
        let epoch = header(&consumed.record, "jobs.epoch");
        let is_old = epoch == Some("1");
        assert!(
            !is_old || consumed.offset < claimed,
            "offset {} is of the old epoch, and the new one begins at {claimed}",
            consumed.offset
        );
        if header(&consumed.record, "jobs.act") == Some("done") {
            let job = header(&consumed.record, "jobs.job").expect("a job");
            assert!(done.insert(job.to_owned()), "job {job} has two results");
        }
    }
    assert_eq!(done.len(), 2);
    new.signal(Signal::INT);
    new.end().await.expect_success();
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time() {
    let stage = Stage::start().await;
    let held = stage.path().join("held");
    let tokens = stage.path().join("tokens");
    let times = rounds(25).to_string();
    // The directory is there while somebody holds the lock: to make it again fails.
    let script = "mkdir \"$0\" && echo $LOCK_TOKEN >> \"$1\" && rmdir \"$0\"";
    let (held, tokens_file) = (
        held.to_str().expect("UTF-8"),
        tokens.to_str().expect("UTF-8"),
    );
    let contender = |owner: &str| {
        let lock = ["with", "press", "--owner", owner, "--times", &times];
        let command = ["--", "sh", "-c", script, held, tokens_file];
        Running::start(&stage, "lock_server", &[&lock[..], &command].concat())
    };
    let contenders = [contender("ann"), contender("bob")];
    for contender in contenders {
        contender.end().await.expect_success();
    }
    let tokens = fs::read_to_string(&tokens).expect("a file");
    let tokens: Vec<u64> = tokens.lines().map(|t| t.parse().expect("one")).collect();
    assert_eq!(tokens.len(), 2 * rounds(25));
    assert!(tokens.is_sorted_by(|a, b| a < b), "they grow: {tokens:?}");

    let code = async |words: &[&str]| run(&stage, "lock_server", words).await.status.code();
    let token = run(
        &stage,
        "lock_server",
        &["acquire", "press", "--owner", "ann"],
    )
    .await;
    let token = token.expect_success();
    assert_eq!(code(&["acquire", "press", "--owner", "bob"]).await, Some(1));
    let waiting = ["acquire", "press", "--owner", "bob", "--wait"];
    let waiting = Running::start(&stage, "lock_server", &waiting);
    assert_eq!(code(&["release", "press", "--token", "0"]).await, Some(1));
    let release = ["release", "press", "--token", token.trim()];
    assert_eq!(code(&release).await, Some(0));
    let next: u64 = waiting
        .end()
        .await
        .expect_success()
        .trim()
        .parse()
        .expect("a token");
    assert!(next > token.trim().parse().expect("a token"));
}

#[tokio::test]
async fn transfers_at_once_lose_no_money_and_make_none() {
    const EACH: u64 = 8;
    let stage = Stage::start().await;
    for account in ["ann", "bob"] {
        run(&stage, "transfer", &["open", account, "100"])
            .await
            .expect_success();
    }
    // Both give to each other at once, and ann gives more than she gets.
    let give = async |from: &str, to: &str, amount: &str| {
        for _ in 0..EACH {
            run(&stage, "transfer", &["move", from, to, amount])
                .await
                .expect_success();
        }
    };
    tokio::join!(give("ann", "bob", "9"), give("bob", "ann", "4"));
    let too_much = run(&stage, "transfer", &["move", "ann", "bob", "61"]).await;
    assert!(
        !too_much.status.success() && too_much.err.contains("ann has 60"),
        "{}",
        too_much.err
    );
    for (account, has) in [("ann", "60\n"), ("bob", "140\n")] {
        let shown = run(&stage, "transfer", &["show", account]).await;
        assert_eq!(shown.expect_success(), has, "{account}");
    }
}
