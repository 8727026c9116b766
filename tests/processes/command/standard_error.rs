//! Standard error that nobody reads, that is closed, or that has no room: nothing stops for it.

use std::io::PipeReader;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout};

use crate::harness::command::{Ended, command, run};
use crate::harness::until;

/// More than two segments of the node's.
const LINES: usize = 3_000;
const LINE_BYTES: usize = 1_000;

/// A node alone, whose standard error is the caller's.
struct Node {
    child: Child,
    addr: String,
    /// Held: the node may print.
    _out: BufReader<ChildStdout>,
}

impl Node {
    async fn start(dir: &Path, err: Stdio, level: &str) -> Self {
        let dir = dir.to_str().expect("UTF-8");
        let args = [
            "serve",
            "--name",
            "n1",
            "--data-dir",
            dir,
            "--listen",
            "127.0.0.1:0",
            "--bootstrap",
            "--insecure",
            "--segment-bytes-max",
            "1048576",
            "--disk-reserve-bytes",
            "1000000",
        ];
        let mut command = command(&args.map(str::to_owned));
        let mut child = command
            .env("FERROLOG_LOG_LEVEL", level)
            .stderr(err)
            .spawn()
            .expect("the binary");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).await.expect("a line");
        let addr = line.trim().strip_prefix("listening ");
        let addr = addr.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self {
            child,
            addr,
            _out: out,
        }
    }

    fn args(&self, words: &[&str]) -> Vec<String> {
        let rest = ["--servers", &self.addr, "--insecure", "--timeout", "10"];
        let words = words.iter().copied().chain(rest);
        words.map(str::to_owned).collect()
    }

    async fn client(&self, words: &[&str]) -> Ended {
        run(&self.args(words)).await
    }

    async fn first_offset(&self) -> Option<u64> {
        let told = self
            .client(&["cluster", "status", "--output", "json"])
            .await;
        let told: Value = serde_json::from_str(&told.out).ok()?;
        told["first_offset"].as_u64()
    }

    /// Appends lines from standard input; `err` is the command's standard error.
    async fn produce(&self, err: Stdio) -> Ended {
        let mut command = command(&self.args(&["produce", "--output", "text"]));
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(err)
            .spawn()
            .expect("the binary");
        let mut input = child.stdin.take().expect("a pipe");
        let line = [&[b'x'; LINE_BYTES - 1][..], b"\n"].concat();
        input.write_all(&line.repeat(LINES)).await.expect("taken");
        drop(input);
        let ended = child.wait_with_output().await.expect("its end");
        Ended {
            code: ended.status.code(),
            out: String::from_utf8_lossy(&ended.stdout).into_owned(),
            err: String::from_utf8_lossy(&ended.stderr).into_owned(),
        }
    }

    /// Appends and trims by retention twice: what trims must have outlived its own first line.
    async fn keeps_its_retention(&mut self) {
        let set = self
            .client(&["log", "retention", "--max-bytes", "1MiB"])
            .await;
        assert_eq!(set.code, Some(0), "{set:?}");
        let mut trimmed = 0;
        for _ in 0..2 {
            let appended = self.produce(Stdio::piped()).await;
            assert_eq!(appended.code, Some(0), "{appended:?}");
            trimmed = until("the log is trimmed", async || {
                self.first_offset().await.filter(|first| *first > trimmed)
            })
            .await;
        }
        assert_eq!(self.child.try_wait().expect("a child of ours"), None);
    }
}

/// A pipe that nobody reads any more.
fn dead_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A pipe that somebody holds and does not read.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (reader, writer.into())
}

/// A file on a disk that is full.
#[allow(clippy::disallowed_methods, reason = "a device of the test's own")]
fn full_disk() -> Stdio {
    let full = std::fs::File::options().write(true).open("/dev/full");
    full.expect("a device that every Linux has").into()
}

#[tokio::test]
async fn a_node_goes_on_when_its_standard_error_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), dead_pipe(), "info").await;
    node.keeps_its_retention().await;
}

#[tokio::test]
async fn a_node_goes_on_when_its_standard_error_has_no_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), full_disk(), "info").await;
    node.keeps_its_retention().await;
}

#[tokio::test]
async fn a_node_waits_for_no_reader_and_tells_what_was_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let (reader, writer) = full_pipe();
    let mut node = Node::start(dir.path(), writer, "trace").await;
    node.keeps_its_retention().await;
    // Somebody reads at last.
    let mut lines = BufReader::new(
        tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).expect("a pipe"),
    );
    let mut line = String::new();
    until("the lines that were lost are told", async || {
        line.clear();
        lines.read_line(&mut line).await.expect("a line");
        line.contains("lines were lost here").then_some(())
    })
    .await;
}

/// A terminal that is closed is no reason to stop.
#[tokio::test]
async fn a_hangup_ends_no_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), Stdio::null(), "info").await;
    let pid = i32::try_from(node.child.id().expect("it runs")).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("a signal");
    let ended = node.produce(Stdio::piped()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(node.child.try_wait().expect("a child of ours"), None);
}

#[tokio::test]
async fn produce_succeeds_whatever_becomes_of_its_standard_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), Stdio::null(), "info").await;
    for err in [dead_pipe(), full_disk()] {
        let ended = node.produce(err).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    // A failure stays one.
    let mut command = command(&node.args(&["consume", "--from", "999999999"]));
    let ended = command.stderr(dead_pipe()).output().await.expect("its end");
    assert_eq!(ended.status.code(), Some(1));
    // And the program says nothing of its own troubles where somebody listens.
    let ended = node.produce(Stdio::piped()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.starts_with("appended 3,000 records"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
}
