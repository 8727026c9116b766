//! Commands that are cut short: what they print, what they leave behind, and that they claim no more than is known.
#![allow(clippy::disallowed_methods, reason = "it looks at processes")]

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::harness::command::{Ended, Lone, alone_args, command, ended, json, run, runs, signal};
use crate::harness::{BINARY, PATIENCE, until};

const LINES: u64 = 20_000;

/// A cluster of one node, and its directory.
async fn alone() -> (tempfile::TempDir, Lone) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Lone::start(&alone_args(dir.path())).await;
    until("it is a cluster", async || {
        let told = run(&node.plain(&["cluster", "status"])).await;
        (told.code == Some(0)).then_some(())
    })
    .await;
    (dir, node)
}

/// Appends the input. Returns how the command ended.
async fn produce(node: &Lone, words: &[&str], input: &[u8]) -> Ended {
    let words = [&["produce"], words].concat();
    let mut child = command(&node.plain(&words));
    let mut child = child.stdin(Stdio::piped()).spawn().expect("the binary");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that has seen enough reads no more.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    ended(child).await
}

fn lines(count: u64) -> Vec<u8> {
    let lines: String = (0..count).map(|number| format!("{number}\n")).collect();
    lines.into_bytes()
}

async fn next_offset(node: &Lone) -> u64 {
    let words = ["cluster", "status", "--output", "json"];
    let told = run(&node.plain(&words)).await;
    json(&told.expect_success())["next_offset"]
        .as_u64()
        .expect("a number")
}

/// Where a cursor stands.
async fn stands(node: &Lone, name: &str) -> Option<u64> {
    let told = run(&node.plain(&["cursor", "list", "--output", "json"])).await;
    let told = json(&told.expect_success());
    let mut cursors = told["cursors"].as_array().expect("a list").iter();
    let cursor = cursors.find(|cursor| cursor["name"] == name)?;
    cursor["offset"].as_u64()
}

#[tokio::test]
async fn a_producer_that_is_told_to_end_says_how_far_it_came() {
    let (_dir, node) = alone().await;
    for (number, (told, code)) in [(Signal::INT, 130), (Signal::TERM, 143)]
        .into_iter()
        .enumerate()
    {
        let before = 10 * number as u64;
        let mut child = command(&node.plain(&["produce", "--output", "json"]));
        let mut child = child.stdin(Stdio::piped()).spawn().expect("the binary");
        // The input goes on: it is held open.
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&lines(10)).await.expect("it reads");
        until("all is appended", async || {
            (next_offset(&node).await == before + 10).then_some(())
        })
        .await;
        signal(child.id().expect("it runs"), told);
        let ended = ended(child).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let said = json(&ended.err);
        assert_eq!(
            (&said["acknowledged"], &said["in_doubt"], &said["exit_code"]),
            (&10.into(), &0.into(), &code.into()),
            "{ended:?}"
        );
        let offsets = (said["first_offset"].as_u64(), said["last_offset"].as_u64());
        assert_eq!(offsets, (Some(before), Some(before + 9)));
    }
}

#[tokio::test]
async fn a_producer_that_gets_no_answer_ends_and_claims_nothing() {
    let (_dir, node) = alone().await;
    let mut child = command(&node.plain(&["produce"]));
    let mut child = child.stdin(Stdio::piped()).spawn().expect("the binary");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&lines(3)).await.expect("it reads");
    until("all is appended", async || {
        (next_offset(&node).await == 3).then_some(())
    })
    .await;
    signal(node.pid(), Signal::STOP);
    stdin.write_all(&lines(5)).await.expect("it reads");
    signal(child.id().expect("it runs"), Signal::INT);
    let ended = ended(child).await;
    signal(node.pid(), Signal::CONT);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let said = "only the first 3 records were acknowledged (offsets 0 to 2)";
    assert!(ended.err.contains(said), "{ended:?}");
    assert!(ended.err.contains("interrupted"), "{ended:?}");
}

#[tokio::test]
async fn a_line_that_is_too_long_is_named() {
    let (_dir, node) = alone().await;
    let mut input = b"short\n".to_vec();
    input.resize(input.len() + (5 << 20), b'x');
    input.extend(b"\nnever read\n");
    let ended = produce(&node, &[], &input).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = [
        "the record of line 2 has 5242880 bytes",
        "only the first record was acknowledged",
    ];
    ended.expect_refusal(&said);
    assert_eq!(next_offset(&node).await, 1);
}

#[tokio::test]
async fn a_cursor_stands_behind_what_was_taken_and_no_further() {
    let (_dir, node) = alone().await;
    produce(&node, &[], &lines(LINES)).await.expect_success();
    let set = ["cursor", "set", "c", "0", "--create"];
    run(&node.plain(&set)).await.expect_success();
    let consume = node.plain(&["consume", "--cursor", "c"]);

    // As `| head -1` does it.
    let mut child = command(&consume).spawn().expect("the binary");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).await.expect("a line");
    assert_eq!(line, "0\n");
    drop(out);
    let cut = ended(child).await;
    assert_eq!(
        (cut.code, cut.err.as_str()),
        (Some(0), ""),
        "it ends quietly"
    );
    assert_eq!(stands(&node, "c").await, Some(0));

    // As `>&-` does it.
    let mut shell = tokio::process::Command::new("sh");
    let shell = shell
        .args(["-c", "exec \"$0\" \"$@\" >&-", BINARY])
        .args(&consume);
    let closed = shell.stderr(Stdio::piped()).spawn().expect("a shell");
    ended(closed)
        .await
        .expect_refusal(&["standard output is closed"]);
    assert_eq!(stands(&node, "c").await, Some(0));

    // And by who reads all.
    let mut child = command(&consume).spawn().expect("the binary");
    let mut out = child.stdout.take().expect("a pipe");
    let mut all = Vec::new();
    out.read_to_end(&mut all).await.expect("all");
    assert_eq!(all, lines(LINES));
    assert_eq!(ended(child).await.code, Some(0));
    assert_eq!(stands(&node, "c").await, Some(LINES));
}

#[tokio::test]
async fn a_cursor_is_made_where_it_is_asked_for_and_stands_at_a_record() {
    let (_dir, node) = alone().await;
    produce(&node, &[], &lines(10)).await.expect_success();
    let run = async |words: &[&str]| run(&node.plain(words)).await;

    let unknown = run(&["consume", "--cursor", "c"]).await;
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    unknown.expect_refusal(&["there is no cursor c", "--create"]);
    let unknown = run(&["cursor", "set", "c", "1"]).await;
    unknown.expect_refusal(&["there is no cursor c", "--create"]);
    assert_eq!(stands(&node, "c").await, None);

    // It is there though nothing was read: the next read goes on from here.
    let latest = ["consume", "--cursor", "c", "--create", "--from", "latest"];
    assert_eq!(run(&latest).await.expect_success(), "");
    assert_eq!(stands(&node, "c").await, Some(10));
    produce(&node, &[], b"10\n").await.expect_success();
    let again = run(&latest).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), "10\n"));
    assert!(
        again.err.contains("c stands at 10"),
        "--from is not used, and it says so: {again:?}"
    );
    let json = [&latest[..], &["--output", "json"]].concat();
    let again = run(&json).await;
    assert!(self::json(&again.err)["note"].is_string(), "{again:?}");

    for words in [
        &["cursor", "set", "c", "12"][..],
        &["cursor", "set", "d", "12", "--create"],
    ] {
        let past = run(words).await;
        assert_eq!(past.code, Some(1), "{past:?}");
        past.expect_refusal(&["offset 12 is past the end", "next offset is 11"]);
    }
    assert_eq!(
        (stands(&node, "c").await, stands(&node, "d").await),
        (Some(11), None)
    );
    run(&["cursor", "set", "c", "3", "--expected", "11"])
        .await
        .expect_success();
    assert_eq!(stands(&node, "c").await, Some(3));
}

/// Whether a process has a handler of its own for a signal.
fn hears(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = u64::from_str_radix(mask.expect("a mask").trim(), 16).expect("a number");
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[tokio::test]
async fn a_read_with_a_cursor_that_is_told_to_end_is_no_success() {
    let (_dir, node) = alone().await;
    produce(&node, &[], &lines(10)).await.expect_success();
    let set = ["cursor", "set", "c", "3", "--create"];
    run(&node.plain(&set)).await.expect_success();
    // Nothing comes from it any more.
    signal(node.pid(), Signal::STOP);
    for (told, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let child = command(&node.plain(&["consume", "--cursor", "c"])).spawn();
        let child = child.expect("the binary");
        let pid = child.id().expect("it runs");
        until("it hears signals", async || hears(pid, told).then_some(())).await;
        signal(pid, told);
        let ended = ended(child).await;
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (Some(code), ""),
            "{ended:?}"
        );
    }
    signal(node.pid(), Signal::CONT);
    assert_eq!(stands(&node, "c").await, Some(3));
}

#[tokio::test]
async fn a_cluster_whose_command_is_killed_ends_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().to_str().expect("UTF-8");
    let args = ["dev", "--dir", at, "--nodes", "2", "--output", "json"].map(str::to_owned);
    let mut child = command(&args).spawn().expect("the binary");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let read = tokio::time::timeout(PATIENCE, out.read_line(&mut line)).await;
    read.expect("in time").expect("a line");
    let told = json(&line);
    let nodes = told["nodes"].as_array().expect("a list").iter();
    let pids: Vec<_> = nodes
        .map(|node| node["pid"].as_u64().expect("a number"))
        .collect();
    assert!(
        pids.len() == 2 && pids.iter().all(|&pid| runs(pid)),
        "{pids:?}"
    );
    signal(child.id().expect("it runs"), Signal::KILL);
    child.wait().await.expect("its end");
    until("no node runs", async || {
        pids.iter().all(|&pid| !runs(pid)).then_some(())
    })
    .await;
    // Each has said why.
    for node in ["n1.log", "n2.log"] {
        let log = fs::read_to_string(dir.path().join(node)).expect("a log");
        assert!(log.contains("whoever started it"), "{log}");
    }
}
