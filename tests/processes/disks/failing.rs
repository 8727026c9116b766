//! Disks that fail under running nodes: every write refused by the filesystem, a sync that fails, a write that
//! fails. The node ends by itself, in words, before it acknowledges what it could not keep; the others go on.
#![allow(
    clippy::disallowed_methods,
    reason = "strace is a process of its own, made to fail one node's calls"
)]

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::harness::checker::{self, History};
use crate::harness::load::Load;
use crate::harness::loop_disk::{DISK_BYTES, Filesystem, can_cut_power};
use crate::harness::{Stage, wire};

const NODES: [usize; 3] = [0, 1, 2];
const PRODUCERS: usize = 2;
const SOME: u64 = 5;
/// How long after the failure the process must have ended, and the others must acknowledge again.
const SOON: Duration = Duration::from_secs(10);

/// Waits for a node whose disk fails to end, and holds its end and its last words against what was promised.
async fn judge_end(stage: &mut Stage, place: usize) -> String {
    let log = stage.log_len(place);
    let ended = stage.cluster.wait_exit(place, SOON).await;
    let status = ended.unwrap_or_else(|error| panic!("{error:#}:\n{}", stage.log_since(place, 0)));
    let said = stage.log_since(place, log.saturating_sub(8_000));
    assert_eq!(status.code(), Some(1), "{status:?}:\n{said}");
    let last = said.lines().rfind(|line| line.starts_with("error: "));
    let last = last.expect("an error on standard error").to_owned();
    let dir = stage.cluster.data_dir(place);
    // Which file, what the operating system said, and what to do.
    for hint in [
        dir.to_str().expect("UTF-8"),
        "Input/output error",
        "start this node again",
    ] {
        assert!(last.contains(hint), "no {hint:?} in:\n{said}");
    }
    last
}

async fn judge(stage: &Stage, history: &History, line: &str) {
    let checked = history.check(stage, &NODES).await;
    let found = checked.err().unwrap_or_default();
    println!(
        "{line}; {} records, {} violations",
        history.appends.len(),
        found.len()
    );
    assert!(found.is_empty(), "{}", checker::shown(&found));
}

/// Whether strace can attach to a process; says so if not. In CI it must be there.
fn can_inject() -> bool {
    let found = std::process::Command::new("strace")
        .args(["-e", "inject=fdatasync:error=EIO", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = found.as_ref().is_ok_and(std::process::ExitStatus::success);
    if !works {
        let absent = found.is_err();
        let ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(
            !(absent && ci),
            "strace is missing, and in CI it must be there: see .ci/run"
        );
        println!(
            "SKIPPED: calls are made to fail by strace, and here it is missing or may not trace"
        );
    }
    works
}

/// Makes a call of a running node fail with EIO from now on. Dropping it lets the node go.
struct Injection(#[expect(dead_code, reason = "held until its end")] Child);

impl Injection {
    async fn into(stage: &Stage, place: usize, call: &str) -> Self {
        let pid = stage.cluster.pid(place).expect("it runs").to_string();
        let inject = format!("inject={call}:error=EIO");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-p", &pid, "-e", &inject, "-o", "/dev/null"]);
        strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = strace.kill_on_drop(true).spawn().expect("strace");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let attached = async {
            loop {
                match lines.next_line().await.expect("a line") {
                    Some(line) if line.contains(" attached") => return,
                    Some(_) => {}
                    None => panic!("strace ended before it was attached"),
                }
            }
        };
        tokio::time::timeout(SOON, attached)
            .await
            .expect("attached");
        // Its pipe stays read, or it would wait for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self(child)
    }
}

/// The disk of one node refuses every write.
async fn every_write_fails(leads: bool) {
    if !can_cut_power(Filesystem::Ext4) {
        return;
    }
    let mut stage = Stage::start_on_small_disks(DISK_BYTES, &[]).await;
    let load = Load::start(&stage, PRODUCERS);
    load.progress(SOME).await;
    let leader = stage.leader().await;
    let place = if leads {
        leader
    } else {
        stage.others(leader)[0]
    };
    let pid = stage.cluster.pid(place).expect("it runs");
    stage.disks[place].fail(pid).await;
    let failed = Instant::now();
    let words = judge_end(&mut stage, place).await;
    let ended = failed.elapsed();
    load.progress(SOME).await;
    let on = failed.elapsed();
    assert!(on < SOON, "{on:?}");

    stage.disks[place].power_on().await;
    stage
        .cluster
        .restart(place)
        .await
        .expect("its disk is well again");
    stage.ready().await;
    load.progress(SOME).await;
    let history = load.finish().await;
    let who = if leads { "leader" } else { "follower" };
    let line = format!(
        "every write of the {who} fails: ended after {ended:.0?}, the others go on after {on:.0?}"
    );
    judge(&stage, &history, &line).await;
    println!("its last words: {words}");
}

#[tokio::test]
async fn a_leader_whose_disk_refuses_writes_ends_and_the_others_go_on() {
    every_write_fails(true).await;
}

#[tokio::test]
async fn a_follower_whose_disk_refuses_writes_ends_and_the_others_go_on() {
    every_write_fails(false).await;
}

/// One call of the leader fails.
async fn a_call_fails(call: &str) {
    if !can_inject() {
        return;
    }
    let mut stage = Stage::start_alone().await;
    let load = Load::start(&stage, PRODUCERS);
    load.progress(SOME).await;
    let place = stage.leader().await;
    let injection = Injection::into(&stage, place, call).await;
    let failed = Instant::now();
    let words = judge_end(&mut stage, place).await;
    let ended = failed.elapsed();
    drop(injection);
    load.progress(SOME).await;
    let on = failed.elapsed();
    assert!(on < SOON, "{on:?}");
    stage
        .cluster
        .restart(place)
        .await
        .expect("its disk is well again");
    stage.ready().await;
    let history = load.finish().await;
    let line = format!(
        "{call} of the leader fails: ended after {ended:.0?}, the others go on after {on:.0?}"
    );
    judge(&stage, &history, &line).await;
    println!("its last words: {words}");
}

#[tokio::test]
async fn a_leader_whose_sync_fails_ends_and_the_others_go_on() {
    a_call_fails("fdatasync").await;
}

#[tokio::test]
async fn a_leader_whose_write_fails_ends_and_the_others_go_on() {
    a_call_fails("pwrite64").await;
}

/// The syncs of both followers fail: nothing that comes after may be acknowledged, by whoever leads.
#[tokio::test]
async fn what_no_majority_could_sync_is_not_acknowledged() {
    if !can_inject() {
        return;
    }
    let mut stage = Stage::start_alone().await;
    let leader = stage.leader().await;
    let followers = stage.others(leader);
    let mut client = wire::log_client(&stage.cluster, leader);
    wire::produce(&mut client, b"before")
        .await
        .expect("an acknowledgement");
    let mut injections = Vec::new();
    for &place in &followers {
        injections.push(Injection::into(&stage, place, "fdatasync").await);
    }
    let after = tokio::time::timeout(SOON, wire::produce(&mut client, b"after")).await;
    assert!(
        !matches!(after, Ok(Ok(_))),
        "acknowledged without a majority: {after:?}"
    );
    for &place in &followers {
        judge_end(&mut stage, place).await;
    }
    drop(injections);
    for &place in &followers {
        stage
            .cluster
            .restart(place)
            .await
            .expect("its disk is well again");
    }
    stage.ready().await;
    let client = stage.client();
    let offset = client
        .produce("again".into())
        .await
        .expect("an acknowledgement");
    // The record in between has an unknown outcome: it is there once or not at all.
    assert!((1..=2).contains(&offset), "{offset}");
}
