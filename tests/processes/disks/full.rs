//! Full disks under load, on real filesystems: of all nodes, of one follower, of two followers. Records are refused
//! in words and all else goes on; they are taken again by themselves once there is room. No process ends, and every
//! acknowledged record is on every node, once, in order.
#![allow(
    clippy::disallowed_methods,
    reason = "it looks at the files and the processes of its nodes"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::Consistency;
use serde_json::Value;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::checker::{self, Append, NodeLog, Outcome};
use crate::harness::load::Load;
use crate::harness::loop_disk::{Filesystem, can_cut_power};
use crate::harness::{PATIENCE, Stage, command, until, until_in, wire};

const NODES: [usize; 3] = [0, 1, 2];
const RESERVE: u64 = 8 << 20;
const FLAGS: [&str; 6] = [
    "--segment-bytes-max",
    "1048576",
    "--record-bytes-max",
    "262144",
    "--disk-reserve-bytes",
    "8388608",
];
/// A disk that a load fills within seconds, in bytes.
const SMALL: u64 = 48 << 20;
/// A disk that no load of these tests fills, in bytes.
const LARGE: u64 = 256 << 20;
/// A follower with fewer bytes of room takes no records.
const TOO_LITTLE: u64 = RESERVE / 4;
/// The file of so many bytes that fills a small disk. Removing it gives the room back at once.
const BALLAST: u64 = 12 << 20;
/// What was under way when the room ended has no answer in words, and is not waited for longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The number of the probes among the producers of a history.
const PROBER: u32 = 1_000;
/// Records of each producer that show that the cluster goes on.
const SOME: u64 = 5;

/// Single records, appended by hand beside a load, and what became of each.
struct Probes {
    appends: Vec<Append>,
    refused: u64,
}

impl Probes {
    fn new() -> Self {
        Self {
            appends: Vec::new(),
            refused: 0,
        }
    }

    /// One call. `None` if its outcome is unknown, or there was no leader just then.
    async fn append(
        &mut self,
        stage: &Stage,
        load: &Load,
        place: usize,
    ) -> Option<Result<u64, Status>> {
        let seq = self.appends.len() as u64;
        let value = Bytes::from(format!("probe-{seq}"));
        let begin = load.now();
        let mut client = wire::log_client(&stage.cluster, place);
        let call = tokio::time::timeout(ANSWER_MAX, wire::produce(&mut client, &value));
        let late = |_| Err(Status::unknown("it is under way"));
        let answer = call.await.unwrap_or_else(late);
        let outcome = match &answer {
            Ok(offset) => Outcome::Acked(*offset),
            Err(status) if status.code() == Code::ResourceExhausted => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        self.appends.push(Append {
            producer: PROBER,
            seq,
            hash: checker::hash(&value),
            begin,
            end: load.now(),
            outcome,
        });
        if outcome == Outcome::Refused {
            self.refused += 1;
            return Some(answer);
        }
        match &answer {
            Err(status) if !matches!(status.code(), Code::Unavailable | Code::Unknown) => {
                panic!("neither taken nor refused in the right words: {status:?}")
            }
            Err(_) => None,
            Ok(_) => Some(answer),
        }
    }

    /// Waits until every one of these nodes refuses in a row, and gives what the last one said.
    async fn until_refused(&mut self, stage: &Stage, load: &Load, places: &[usize]) -> Status {
        until("every node refuses records", async || {
            let mut last = None;
            for &place in places {
                match self.append(stage, load, place).await {
                    Some(Err(status)) => {
                        judge_refusal(&status);
                        last = Some(status);
                    }
                    _ => return None,
                }
            }
            last
        })
        .await
    }

    /// A producer that is refused and does as it is told: it waits for as long as the node says and tries again.
    /// Gives the number of its tries.
    async fn until_taken(&mut self, stage: &Stage, load: &Load, place: usize) -> u64 {
        let before = self.refused;
        let taken = async {
            loop {
                match self.append(stage, load, place).await {
                    Some(Ok(_)) => return,
                    // The node names it: time itself is the subject.
                    Some(Err(status)) => tokio::time::sleep(judge_refusal(&status)).await,
                    None => {}
                }
            }
        };
        let taken = tokio::time::timeout(PATIENCE, taken).await;
        taken.expect("records are taken again");
        self.refused - before + 1
    }
}

/// A refusal has the code, the reason, the numbers and the time to wait, which it gives.
fn judge_refusal(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("DISK_FULL", "ferrolog")
    );
    let number = |key| {
        info.metadata[key]
            .parse::<u64>()
            .expect("a number of bytes")
    };
    assert_eq!(number("reserve_bytes"), RESERVE);
    let follower = info.metadata.contains_key("voter");
    assert!(
        follower || number("available_bytes") < RESERVE + RESERVE / 8,
        "{info:?}"
    );
    assert!(status.message().contains("ferrolog log trim"), "{status:?}");
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    let retry = retry.expect("a time to wait");
    assert!(
        !retry.is_zero() && retry <= Duration::from_secs(5),
        "{retry:?}"
    );
    retry
}

/// The processes, to be held against what runs later.
struct Processes(Vec<u32>);

impl Processes {
    fn of(stage: &Stage) -> Self {
        let pid = |&place: &usize| stage.cluster.pid(place).expect("it runs");
        Self(NODES.iter().map(pid).collect())
    }

    /// Every process still runs. None is waited for before, so no pid can have been given away.
    fn assert_alive(&self, stage: &Stage) {
        for (place, pid) in self.0.iter().enumerate() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
            let state = stat.rsplit(')').next().expect("a state");
            let ended = state.trim_start().starts_with(['Z', 'X']);
            assert!(
                !ended,
                "n{} has ended:\n{}",
                place + 1,
                stage.log_since(place, 0)
            );
            assert_eq!(stage.cluster.pid(place), Some(*pid));
        }
    }
}

/// The stores of the segments on a node's disk.
fn stores(stage: &Stage, place: usize) -> BTreeSet<String> {
    let files = std::fs::read_dir(stage.cluster.data_dir(place)).expect("its directory");
    let names = files.map(|file| {
        file.expect("a file")
            .file_name()
            .into_string()
            .expect("a name")
    });
    names.filter(|name| name.ends_with(".store")).collect()
}

/// What must work while no record is taken; gives what each node tells of the log.
async fn judge_the_rest(stage: &Stage) -> Vec<NodeLog> {
    let mut logs = Vec::new();
    for place in NODES {
        let mut client = wire::log_client(&stage.cluster, place);
        for strong in [false, true] {
            let record = wire::consume(&mut client, 0, strong)
                .await
                .expect("a record");
            assert_eq!(record.offset, 0);
        }
        let records = stage.read_all(place, Consistency::Strong).await;
        logs.push(NodeLog::whole(stage.cluster.name(place), &records));
        let relaxed = stage.read_all(place, Consistency::Relaxed).await;
        assert!(!relaxed.is_empty(), "n{}", place + 1);
    }
    // One look may come while a leader is elected, or a node is busy.
    until("a status of three nodes with a leader", async || {
        let words = ["status", "--output", "json"];
        let ended = command::cluster(&stage.cluster, &words).await;
        let status: serde_json::Value = serde_json::from_str(&ended.out).ok()?;
        let nodes = status["nodes"].as_array()?.len();
        (ended.code == Some(0) && nodes == 3 && status["leader_id"] != 0).then_some(())
    })
    .await;

    let heir = stage.others(stage.leader().await)[0];
    let name = stage.cluster.name(heir);
    command::cluster(&stage.cluster, &["transfer", name])
        .await
        .expect_success();
    until("the heir leads", async || {
        (stage.leader().await == heir).then_some(())
    })
    .await;
    logs
}

#[tokio::test]
async fn full_disks_refuse_records_and_take_them_again_once_there_is_room() {
    if !can_cut_power(Filesystem::Ext4) {
        return;
    }
    let stage = Stage::start_on_small_disks(SMALL, &FLAGS).await;
    let (processes, begun) = (Processes::of(&stage), Instant::now());
    for disk in &stage.disks {
        disk.take_room(disk.available() - BALLAST);
    }
    let load = Load::start_filling(&stage, 3);
    let mut probes = Probes::new();

    // Room comes back by a trim.
    probes.until_refused(&stage, &load, &NODES).await;
    let full_at = begun.elapsed();
    let logs = judge_the_rest(&stage).await;
    probes.until_refused(&stage, &load, &NODES).await;
    let oldest = NODES.map(|place| stores(&stage, place).pop_first().expect("a segment"));
    let first = logs
        .iter()
        .map(|log| log.entries.len() as u64 * 3 / 4)
        .min()
        .expect("three");
    let trimmed_at = Instant::now();
    let words = ["trim", &first.to_string()];
    let words = [&["log"], &words[..]].concat();
    let said = command::client(&stage.cluster, &words)
        .await
        .expect_success();
    assert!(said.contains(&first.to_string()), "{said}");
    until("the oldest segments are gone from every disk", async || {
        let gone = |&place: &usize| !stores(&stage, place).contains(&oldest[place]);
        NODES.iter().all(gone).then_some(())
    })
    .await;
    let gone_after = trimmed_at.elapsed();
    // They fill the room again before each of them, or a probe, comes back that was told to wait for a second.
    load.progress_of_any(SOME).await;
    let resumed_after = trimmed_at.elapsed();
    processes.assert_alive(&stage);

    // Room comes back because something else gives it back. The producers' records wait meanwhile.
    probes.until_refused(&stage, &load, &NODES).await;
    load.stop();
    let given_at = Instant::now();
    for disk in &stage.disks {
        disk.give_room_back();
    }
    let mut tries = 0;
    for place in NODES {
        tries += probes.until_taken(&stage, &load, place).await;
    }
    let again_after = given_at.elapsed();
    let mut history = load.finish().await;
    let refused = probes.refused;
    let probed = probes.appends.len() as u64 - refused;
    history.appends.append(&mut probes.appends);
    let checked = history.check_trimmed(&stage, logs, first).await;
    let found = checked.err().unwrap_or_default();
    processes.assert_alive(&stage);
    println!(
        "three disks of {} MiB, full after {full_at:.1?}: {refused} probes refused, {probed} taken or unknown; trim to \
         {first}: segments gone after {gone_after:.0?}, records are taken again after {resumed_after:.0?}; ballast \
         gone: taken again after {again_after:.0?} and {tries} tries; {} records, {} violations; {:.0?} in all",
        SMALL >> 20,
        history.appends.len(),
        found.len(),
        begun.elapsed()
    );
    assert!(found.is_empty(), "{}", checker::shown(&found));
}

/// How far the leader knows this node's log to reach, and how far the log is committed.
async fn reach(stage: &Stage, leader: usize, place: usize) -> (u64, u64) {
    let status = stage.status(leader).await;
    let name = stage.cluster.name(place);
    let node = status.nodes.iter().find(|node| node.name == name);
    let matched = node.and_then(|node| node.matched_index).unwrap_or(0);
    (matched, status.committed_index.unwrap_or(0))
}

async fn until_caught_up(stage: &Stage, place: usize) {
    let leader = stage.leader().await;
    let committed = stage.status(leader).await.committed_index;
    let client = stage.client_of(place);
    until("the node has caught up", async || {
        let status = client.admin().status(None).await.ok()?;
        (status.applied_index >= committed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_goes_on_without_a_follower_whose_disk_is_full() {
    if !can_cut_power(Filesystem::Ext4) {
        return;
    }
    let stage = Stage::start_on_small_disks(LARGE, &FLAGS).await;
    let processes = Processes::of(&stage);
    let load = Load::start(&stage, 3);
    load.progress(SOME).await;
    let leader = stage.leader().await;
    let full = stage.others(leader)[0];

    stage.disks[full].take_room(TOO_LITTLE);
    let begun = Instant::now();
    until_in(
        Duration::from_millis(2_500),
        "the doctor names it",
        async || {
            let doctor = ["doctor", "--output", "json"];
            let told = command::client(&stage.cluster, &doctor).await.out;
            let told: Value = serde_json::from_str(&told).ok()?;
            let mut found = told["findings"].as_array()?.iter();
            let is_it = |one: &Value| {
                let is_full = one["kind"] == "full" || one["kind"] == "reserve-reached";
                is_full && one["node"] == stage.cluster.name(full)
            };
            found.any(is_it).then_some(())
        },
    )
    .await;
    println!("a full disk is named after {:.1?}", begun.elapsed());
    until("the follower takes no more", async || {
        let (matched, committed) = reach(&stage, leader, full).await;
        (matched + 50 < committed).then_some(())
    })
    .await;
    let (stuck_at, _) = reach(&stage, leader, full).await;
    let (cpu, logged) = (
        NODES.map(|place| stage.cluster.cpu_time(place).expect("it runs")),
        NODES.map(|place| stage.log_len(place)),
    );
    let since = Instant::now();
    load.progress(20 * SOME).await;
    let spent = since.elapsed();
    let (still_at, committed) = reach(&stage, leader, full).await;
    assert_eq!(stuck_at, still_at, "a full follower takes no records");
    assert!(committed > still_at);
    let mut client = wire::log_client(&stage.cluster, full);
    wire::consume(&mut client, 0, false)
        .await
        .expect("a relaxed read of a full node");
    for place in NODES {
        let used = stage.cluster.cpu_time(place).expect("it runs") - cpu[place];
        let lines = stage.log_since(place, logged[place]).lines().count();
        println!(
            "n{}: {used:.1?} of CPU and {lines} lines in {spent:.1?}",
            place + 1
        );
        assert!(
            lines < 20,
            "a full disk is no flood:\n{}",
            stage.log_since(place, logged[place])
        );
    }
    // Votes still find room.
    command::cluster(&stage.cluster, &["transfer"])
        .await
        .expect_success();
    processes.assert_alive(&stage);

    stage.disks[full].give_room_back();
    let given = Instant::now();
    until_caught_up(&stage, full).await;
    println!(
        "a follower without room for {:.1?} missed {} entries, and had all {:.0?} after there was room",
        given - begun,
        committed - still_at,
        given.elapsed()
    );
    load.finish().await.assert_sound(&stage).await;
    processes.assert_alive(&stage);
}

/// Two followers with so many bytes left. The leader has room for all.
async fn two_full_followers(left: u64) {
    let stage = Stage::start_on_small_disks(LARGE, &FLAGS).await;
    let processes = Processes::of(&stage);
    let load = Load::start(&stage, 3);
    let mut probes = Probes::new();
    load.progress(SOME).await;
    let leader = stage.leader().await;
    let full = stage.others(leader);

    for &place in &full {
        stage.disks[place].take_room(left);
    }
    let begun = Instant::now();
    let status = probes.until_refused(&stage, &load, &[leader]).await;
    let refused_after = begun.elapsed();
    let names: Vec<_> = full
        .iter()
        .map(|&place| stage.cluster.name(place))
        .collect();
    let named = status.get_error_details();
    let named = &named.error_info().expect("a reason").metadata["voter"];
    assert!(names.contains(&named.as_str()), "{named} of {names:?}");
    assert!(
        status.message().contains(&format!("disk of {named}")),
        "{status:?}"
    );
    probes.until_refused(&stage, &load, &NODES).await;
    assert_eq!(
        stage.leader().await,
        leader,
        "a full follower is a live one"
    );

    if left >= RESERVE / 2 {
        // What was under way found room, so nothing stands before the trim.
        let said = command::client(&stage.cluster, &["log", "trim", "0"]).await;
        said.expect_success();
    }
    for &place in &full {
        stage.disks[place].give_room_back();
    }
    let given = Instant::now();
    for place in NODES {
        probes.until_taken(&stage, &load, place).await;
    }
    load.progress(SOME).await;
    println!(
        "two followers with {left} bytes left: {named} named after {refused_after:.0?}, {} probes refused; all producers go on \
         {:.0?} after there was room",
        probes.refused,
        given.elapsed()
    );
    let mut history = load.finish().await;
    history.appends.append(&mut probes.appends);
    let checked = history.check(&stage, &NODES).await;
    let found = checked.err().unwrap_or_default();
    assert!(found.is_empty(), "{}", checker::shown(&found));
    processes.assert_alive(&stage);
}

#[tokio::test]
async fn a_leader_refuses_records_while_most_voters_are_low_and_a_trim_passes() {
    if can_cut_power(Filesystem::Ext4) {
        two_full_followers(RESERVE / 4 * 3).await;
    }
}

#[tokio::test]
async fn a_leader_refuses_records_while_most_voters_have_no_room() {
    if can_cut_power(Filesystem::Ext4) {
        two_full_followers(TOO_LITTLE).await;
    }
}
