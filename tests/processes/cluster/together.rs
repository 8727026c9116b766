//! Calls that append to ten logs at once while nodes are killed, one by one and all of them: on every node each call
//! is there as a whole or not at all, once, and what was acknowledged is there. `FERROLOG_CALLS=` makes it long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{
    AppenderOptions, BatchFor, Client, Consistency, ConsumeOptions, LogSettings, Record, Selection,
};
use futures::future;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::checker::hash;
use crate::harness::{PATIENCE, Stage, until_in};

const LOGS: usize = 10;
const CALLERS: u32 = 32;
/// Calls that are acknowledged in a usual run.
const CALLS: u64 = 2_000;
/// Kills, however long it takes: one after each such part of the calls.
const KILLS: u64 = 4;
/// A machine that is busy with other work takes so long for a part of a million calls.
const PART_MAX: Duration = Duration::from_secs(600);
const WHOLE: u16 = (1 << LOGS) - 1;

/// What became of one caller's calls, by their numbers.
type Acked = Vec<bool>;

fn name(log: usize) -> String {
    format!("together/{log}")
}

/// Who called, and its number of the call.
fn value(caller: u32, call: u32) -> Bytes {
    let mut value = caller.to_le_bytes().to_vec();
    value.extend(call.to_le_bytes());
    value.into()
}

fn parsed(value: &[u8]) -> (usize, usize) {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes")) as usize;
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
            let value = value(caller, acked.len() as u32);
            let batch = |log| BatchFor::new(name(log), vec![Record::from(value.clone())]);
            let batches: Vec<_> = (0..LOGS).map(batch).collect();
            let appended = appender.append_all(&batches).await;
            acked.push(appended.is_ok());
            match appended {
                Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                Err(_) => continue 'anew,
            };
        }
        appender.close().await;
        return acked;
    }
}

/// What one node tells: of each call in which logs it is, and a digest of all in their order.
async fn told(stage: &Stage, place: usize, acked: &[Acked]) -> (Vec<Vec<u16>>, u64) {
    let mut there: Vec<_> = acked.iter().map(|calls| vec![0; calls.len()]).collect();
    let options = ConsumeOptions {
        selection: Some(Selection::Prefix("together/".to_owned())),
        consistency: Consistency::Strong,
        server: Some(stage.cluster.addr(place).to_owned()),
        ..ConsumeOptions::default()
    };
    let mut consumer = stage.client().consume(options).expect("a consumer");
    let (mut digest, mut last) = (0_u64, None);
    while let Some(record) = consumer.next().await {
        let record = record.expect("a record");
        let position = record.position.expect("a selection tells it");
        assert!(last < Some(position), "{position} after {last:?}");
        last = Some(position);
        let log: usize = record.log["together/".len()..].parse().expect("a log");
        let (caller, call) = parsed(&record.record.value);
        let logs: &mut u16 = &mut there[caller][call];
        assert_eq!(
            *logs & 1 << log,
            0,
            "call {call} of {caller} is twice in {log}"
        );
        *logs |= 1 << log;
        let place = [
            &digest.to_le_bytes()[..],
            &position.to_le_bytes(),
            &[log as u8],
        ];
        digest = hash(&[&place.concat(), &record.record.value[..]].concat());
    }
    (there, digest)
}

/// Kills one node, or every fourth time all of them, and starts what was killed.
async fn kill(stage: &mut Stage, round: u64) {
    let leader = stage.leader().await;
    let places = match round % 4 {
        0 | 2 => vec![leader],
        1 => stage.others(leader)[..1].to_vec(),
        _ => vec![0, 1, 2],
    };
    for &place in &places {
        stage.cluster.kill(place).await.expect("killed");
    }
    for &place in &places {
        stage.cluster.restart(place).await.expect("restarted");
    }
    stage.ready().await;
}

#[tokio::test]
async fn calls_to_ten_logs_stay_whole_while_nodes_are_killed() {
    let calls = std::env::var("FERROLOG_CALLS");
    let calls = calls.map_or(CALLS, |calls| {
        calls.parse().expect("FERROLOG_CALLS is a number")
    });
    let mut stage = Stage::start_alone().await;
    let admin = stage.client().admin();
    for log in 0..LOGS {
        let name = name(log);
        let made = admin.create_log(&name, LogSettings::default());
        made.await.expect("a log");
    }
    let begun = Instant::now();
    let done = Arc::<AtomicU64>::default();
    let (stop, stopped) = watch::channel(false);
    let callers: Vec<JoinHandle<Acked>> = (0..CALLERS)
        .map(|caller| {
            let client = stage.cluster.client(PATIENCE).expect("a client");
            tokio::spawn(call(client, caller, done.clone(), stopped.clone()))
        })
        .collect();
    for round in 0..KILLS {
        let part = calls * (round + 1) / (KILLS + 1);
        until_in(PART_MAX, "calls go on", async || {
            (done.load(Ordering::Relaxed) >= part).then_some(())
        })
        .await;
        kill(&mut stage, round).await;
    }
    until_in(PART_MAX, "calls go on", async || {
        (done.load(Ordering::Relaxed) >= calls).then_some(())
    })
    .await;
    stop.send_replace(true);
    let acked = future::join_all(callers).await;
    let acked: Vec<Acked> = acked
        .into_iter()
        .map(|acked| acked.expect("a caller"))
        .collect();
    let took = begun.elapsed();

    let mut digests = Vec::new();
    let mut in_doubt = 0;
    for place in 0..3 {
        let (there, digest) = told(&stage, place, &acked).await;
        digests.push(digest);
        in_doubt = 0;
        for (caller, (calls, acked)) in there.iter().zip(&acked).enumerate() {
            for (call, (&logs, &acked)) in calls.iter().zip(acked).enumerate() {
                let is_whole = logs == WHOLE || logs == 0 && !acked;
                let node = stage.cluster.name(place);
                assert!(
                    is_whole,
                    "{node}: call {call} of {caller}, acknowledged: {acked}, is in the logs {logs:b}"
                );
                in_doubt += u64::from(!acked);
            }
        }
    }
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    println!(
        "{} calls to {LOGS} logs acknowledged, {in_doubt} in doubt, {KILLS} kills in {took:.0?}: none in part, lost or \
         twice, and one order on all nodes",
        done.load(Ordering::Relaxed)
    );
}
