//! Commands that are cut short: what they say, what they leave, and what they do not claim.

mod harness;

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use harness::command::{Ended, Lone, alone_args, command, run};
use harness::{PATIENCE, until};

/// A node alone, and its directory.
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

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("it runs");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn ended(child: Child) -> Ended {
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.expect("it ends").expect("its output");
    Ended {
        code: ended.status.code(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

/// Appends what is given; gives how that ended.
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
