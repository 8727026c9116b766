//! Calls that append to ten logs at once while nodes are killed, one by one and all of them, frozen, and left so far
//! behind that they need a snapshot: on every node each call is there as a whole or not at all, once, and what was
//! acknowledged is there. `FERROLOG_CALLS=` makes it long.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::cli::local_cluster::Signal;
use ferrolog::client::{AppenderOptions, BatchFor, Client, LogSettings, Record};
use futures::future;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::following::{Followed, Following, end_of};
use crate::harness::{PATIENCE, Stage, until_in};

const PREFIX: &str = "together/";
const LOGS: u64 = 10;
const CALLERS: u32 = 32;
/// Calls that are acknowledged in a usual run.
const CALLS: u64 = 2_000;
/// A fault after each such part of the calls: what there are of faults, or so many calls.
const PART_MAX: u64 = 20_000;
const KINDS: u64 = 5;
/// A machine that is busy with other work takes so long for a part of the calls.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Records that a reader is told before it is broken off.
const BREAKS: Range<u64> = 1..20_000;

/// What became of one caller's calls, by their numbers: where each stands, if it was acknowledged.
type Acked = Vec<Option<u64>>;
/// Who made a call, and which of the caller's it is.
type Call = (u32, u32);

fn name(log: u64) -> String {
    format!("{PREFIX}{log}")
}

fn value((caller, call): Call) -> Bytes {
    let mut value = caller.to_le_bytes().to_vec();
    value.extend(call.to_le_bytes());
    value.into()
}

fn parsed(value: &[u8]) -> Call {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
    (number(&value[..4]), number(&value[4..]))
}

/// Calls on and on; a call whose outcome stays unknown is not made again.
async fn call(
    client: Client,
    caller: u32,
    done: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Acked {
    let mut acked = Acked::new();
    'anew: loop {
        let options = AppenderOptions::default();
        let mut appender = client.appender(options).expect("an appender");
        while !*stopped.borrow() {
            let value = value((caller, acked.len() as u32));
            let batch = |log| BatchFor::new(name(log), vec![Record::from(value.clone())]);
            let batches: Vec<_> = (0..LOGS).map(batch).collect();
            let appended = appender.append_all(&batches).await;
            let place = appended.as_ref().ok().map(|all| {
                let first = all[0].first_offset;
                let is_level = all.iter().all(|one| one.first_offset == first);
                assert!(is_level, "each log has one record of each call: {all:?}");
                first
            });
            acked.push(place);
            match appended {
                Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                Err(_) => continue 'anew,
            };
        }
        appender.close().await;
        return acked;
    }
}

/// What a reader of one node was told: which call stands at each place, and in how many logs it found it.
type Told = Vec<Option<(Call, u64)>>;

/// Follows the logs at one node.
fn follow(
    stage: &Stage,
    place: usize,
    end: watch::Receiver<Option<u64>>,
) -> (JoinHandle<(Followed, Told)>, Seen) {
    let following = Following::new(stage.client(), PREFIX, BREAKS, place as u64);
    let following = following.at(stage.cluster.addr(place));
    let (seen, position) = watch::channel(0);
    let (passed, call) = watch::channel(0);
    let reader = tokio::spawn(async move {
        let mut told = Told::new();
        let mut begins: HashMap<u64, u64> = HashMap::new();
        let followed = following.run(end, seen, |position, record| {
            // A call's records stand side by side, in the order of its batches, at its place in each log.
            let log = (0..LOGS).find(|log| *record.log == name(*log));
            let begin = position - log.expect("one of the logs");
            assert_eq!(*begins.entry(record.offset).or_insert(begin), begin);
            passed.send_replace(record.offset);
            let at = record.offset as usize;
            told.resize(told.len().max(at + 1), None);
            let call = parsed(&record.record.value);
            let (known, logs) = told[at].get_or_insert((call, 0));
            assert_eq!(*known, call, "at {at}");
            *logs += 1;
        });
        (followed.await, told)
    });
    (reader, Seen { position, call })
}

/// Where a reader is.
struct Seen {
    position: watch::Receiver<u64>,
    /// The calls before it were told, all of each.
    call: watch::Receiver<u64>,
}

struct Scene {
    stage: Stage,
    done: Arc<AtomicU64>,
    /// Where the reader of each node is.
    seen: Vec<Seen>,
    /// Records before it were given up in every log.
    trimmed: u64,
}

impl Scene {
    async fn made(&self, calls: u64) {
        until_in(TIME_MAX, "calls go on", async || {
            (self.done.load(Ordering::Relaxed) >= calls).then_some(())
        })
        .await;
    }

    /// Gives up what all readers but one have seen.
    async fn trim(&mut self, but: Option<usize>) {
        let others = (0..self.seen.len()).filter(|place| Some(*place) != but);
        let seen = others.map(|place| *self.seen[place].call.borrow()).min();
        self.trimmed = self.trimmed.max(seen.expect("two readers"));
        for log in 0..LOGS {
            let admin = self.stage.client().log(name(log)).admin();
            let trimmed = admin.trim(self.trimmed).await;
            assert_eq!(trimmed.expect("trimmed"), self.trimmed);
        }
    }

    /// Kills these nodes, and starts them again.
    async fn kill(&mut self, places: &[usize]) {
        for &place in places {
            self.stage.cluster.kill(place).await.expect("killed");
        }
        for &place in places {
            self.stage.cluster.restart(place).await.expect("restarted");
        }
    }

    /// One fault, and its end; `calls` are made in the middle of one that the others go on without.
    async fn harm(&mut self, round: u64, calls: u64) {
        let leader = self.stage.leader().await;
        let other = self.stage.others(leader)[0];
        let before = self.done.load(Ordering::Relaxed);
        match round % KINDS {
            0 => self.kill(&[leader]).await,
            1 => {
                // It is away while what it lacks is given up.
                self.stage.cluster.kill(other).await.expect("killed");
                self.made(before + 2 * calls).await;
                self.trim(Some(other)).await;
                let away = *self.seen[other].position.borrow();
                until_in(TIME_MAX, "what it lacks is removed", async || {
                    let mut others = self.stage.others(other).into_iter();
                    others
                        .all(|place| removed(&self.stage, place) > away)
                        .then_some(())
                })
                .await;
                self.stage.cluster.restart(other).await.expect("restarted");
            }
            2 => {
                // Cut off: its connections stay, and nothing passes.
                self.stage
                    .cluster
                    .signal(leader, Signal::STOP)
                    .expect("frozen");
                self.made(before + calls).await;
                self.stage
                    .cluster
                    .signal(leader, Signal::CONT)
                    .expect("thawed");
            }
            3 => self.kill(&[other]).await,
            _ => self.kill(&[0, 1, 2]).await,
        }
        self.stage.ready().await;
    }
}

/// What the readers were told, against what the callers were.
fn judge(stage: &Stage, acked: &[Acked], read: &[(Followed, Told)], trimmed: u64) {
    let calls = read.iter().map(|(_, told)| told.len()).max();
    let mut order: Told = vec![None; calls.unwrap_or(0)];
    for (place, (_, told)) in read.iter().enumerate() {
        let node = stage.cluster.name(place);
        for (at, all) in order.iter_mut().enumerate() {
            // What was given up while the node was away is all that its reader may lack.
            let is_given_up = (at as u64) < trimmed;
            let Some((call, logs)) = told.get(at).copied().flatten() else {
                assert!(
                    is_given_up,
                    "{node} skipped call {at}, trimmed to {trimmed}"
                );
                continue;
            };
            let is_whole = logs == LOGS || is_given_up;
            assert!(is_whole, "{node}: call {call:?} is in {logs} logs");
            let (known, _) = all.get_or_insert((call, LOGS));
            assert_eq!(*known, call, "{node} has another order at {at}");
        }
    }
    let mut there = HashSet::new();
    for (at, told) in order.iter().enumerate() {
        let (call, _) = told.unwrap_or_else(|| panic!("nobody was told what stands at {at}"));
        assert!(there.insert(call), "call {call:?} is there twice");
        let (caller, number) = call;
        let place = acked[caller as usize][number as usize];
        assert!(
            place.is_none_or(|place| place == at as u64),
            "{call:?}: {place:?}, {at}"
        );
    }
    for (caller, calls) in (0..).zip(acked) {
        for (number, place) in (0..).zip(calls) {
            let is_there = there.contains(&(caller, number));
            assert!(
                is_there || place.is_none(),
                "call {number} of {caller} is lost"
            );
        }
    }
}

/// The position up to which a node has removed segments, as it says.
fn removed(stage: &Stage, place: usize) -> u64 {
    let told = stage.log_since(place, 0);
    let last = told.rsplit("removed trimmed segments first=").next();
    let number = last.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many snapshots the nodes say that they took.
fn snapshots(stage: &Stage) -> usize {
    let told = |place| {
        stage
            .log_since(place, 0)
            .matches("a snapshot is complete")
            .count()
    };
    (0..3).map(told).sum()
}

#[tokio::test]
async fn calls_to_ten_logs_stay_whole_whatever_becomes_of_the_nodes() {
    let calls = std::env::var("FERROLOG_CALLS");
    let calls = calls.map_or(CALLS, |calls| {
        calls.parse().expect("FERROLOG_CALLS is a number")
    });
    // A segment holds a part of the calls between two faults.
    let rounds = (calls / PART_MAX).max(KINDS);
    let part = calls / (rounds + 1);
    let segment_bytes = (part * 100).clamp(64 << 10, 1 << 20).to_string();
    let stage = Stage::start_alone_with(&["--segment-bytes-max", &segment_bytes]).await;
    let admin = stage.client().admin();
    for log in 0..LOGS {
        let name = name(log);
        let made = admin.create_log(&name, LogSettings::default());
        made.await.expect("a log");
    }
    let begun = Instant::now();
    let done = Arc::<AtomicU64>::default();
    let (end, until) = watch::channel(None);
    let (readers, seen): (Vec<_>, Vec<_>) = (0..3)
        .map(|place| follow(&stage, place, until.clone()))
        .unzip();
    let (stop, stopped) = watch::channel(false);
    let callers: Vec<JoinHandle<Acked>> = (0..CALLERS)
        .map(|caller| {
            let client = stage.cluster.client(PATIENCE).expect("a client");
            tokio::spawn(call(client, caller, done.clone(), stopped.clone()))
        })
        .collect();
    let mut scene = Scene {
        stage,
        done,
        seen,
        trimmed: 0,
    };
    for round in 0..rounds {
        scene.made(part * (round + 1)).await;
        scene.harm(round, part / 2).await;
        scene.trim(None).await;
    }
    scene.made(calls).await;
    stop.send_replace(true);
    let acked = future::join_all(callers).await;
    let acked: Vec<Acked> = acked
        .into_iter()
        .map(|acked| acked.expect("a caller"))
        .collect();
    let took = begun.elapsed();
    end.send_replace(Some(end_of(&scene.stage, PREFIX).await));
    let read = future::join_all(readers).await;
    let read: Vec<_> = read
        .into_iter()
        .map(|read| read.expect("a reader"))
        .collect();
    judge(&scene.stage, &acked, &read, scene.trimmed);
    let snapshots = snapshots(&scene.stage);
    assert!(
        snapshots > 0,
        "a node that lacks what was given up gets one"
    );
    let in_doubt = acked.iter().flatten().filter(|place| place.is_none());
    println!(
        "{} calls to {LOGS} logs acknowledged, {} in doubt, {rounds} faults, {snapshots} snapshots in {took:.0?}; readers \
         broken off {} times: none in part, lost or twice, and one order on all nodes",
        scene.done.load(Ordering::Relaxed),
        in_doubt.count(),
        read.iter()
            .map(|(followed, _)| followed.broken_off + followed.errors)
            .sum::<u64>(),
    );
}
