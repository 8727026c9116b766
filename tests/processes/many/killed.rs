//! A command that follows a prefix and is killed at random, again and again: what it printed until then, and what the next
//! one prints from there on, is every record once, in one order. `FERROLOG_ROUNDS=` says how often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferrolog::client::{Client, LogSettings, ProducerOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::harness::command::{args_of, command, ended, json, signal};
use crate::harness::{PATIENCE, Stage, rounds};

const PREFIX: &str = "tail/";
const LOGS: u64 = 20;
const TICK: Duration = Duration::from_millis(10);
/// Records to one log after the other at each tick.
const OF_A_TICK: u64 = 20;
/// A command is killed after so many lines at most.
const LINES_MAX: u64 = 500;

fn name(log: u64) -> String {
    format!("{PREFIX}{log}")
}

/// Appends to all logs in turn until it is told to end; gives how many records each log got.
async fn produce(client: Client, is_over: Arc<AtomicBool>) -> Vec<u64> {
    let producer = client.producer(ProducerOptions::default());
    let producer = producer.expect("a producer");
    let mut sent = vec![0; LOGS as usize];
    let mut ticks = tokio::time::interval(TICK);
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        for number in 0..OF_A_TICK {
            let log = number % LOGS;
            let value = format!("record {}", sent[log as usize]);
            let ack = producer.send_to(&name(log), value).await;
            drop(ack.expect("sent"));
            sent[log as usize] += 1;
        }
    }
    producer.finish().await.expect("all are acknowledged");
    sent
}

/// What was printed, as far as it is.
#[derive(Debug, Default)]
struct Printed {
    /// The position behind the last record.
    next: u64,
    /// How many records of each log.
    of: BTreeMap<String, u64>,
}

impl Printed {
    /// Takes the next line, which is a record behind all before it, and the next one of its log.
    fn take(&mut self, line: &str) {
        let record = json(line);
        let number = |field: &str| record[field].as_u64().expect("a number");
        assert!(number("position") >= self.next, "again: {line}");
        self.next = number("position") + 1;
        let log = record["log"].as_str().expect("a log");
        let next = self.of.entry(log.to_owned()).or_default();
        assert_eq!(number("offset"), *next, "{line}");
        *next += 1;
    }

    /// Runs a command that goes on behind this, and kills it after so many lines.
    async fn follow(&mut self, stage: &Stage, lines: u64) {
        let from = format!("position:{}", self.next);
        let words = [
            "consume", "--prefix", PREFIX, "--from", &from, "--follow", "--output", "json",
        ];
        let mut child = command(&args_of(&stage.cluster, &words))
            .spawn()
            .expect("the binary");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        for _ in 0..lines {
            let mut line = String::new();
            let read = timeout(PATIENCE, out.read_line(&mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                child.start_kill().expect("a signal");
                panic!("{read:?} of {self:?}: {}", ended(child).await.err);
            }
            self.take(&line);
        }
        signal(child.id().expect("it runs"), Signal::KILL);
        let mut rest = String::new();
        out.read_to_string(&mut rest).await.expect("text");
        // Of the last line a part may be there.
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        whole.lines().for_each(|line| self.take(line));
        child.wait().await.expect("its end");
    }
}

#[tokio::test]
async fn a_command_that_follows_a_prefix_prints_every_record_once_however_often_it_is_killed() {
    let stage = Stage::start().await;
    let admin = stage.client().admin();
    for log in 0..LOGS {
        let made = admin.create_log(&name(log), LogSettings::default()).await;
        made.expect("a log");
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(produce(stage.client(), is_over.clone()));
    let mut random = StdRng::seed_from_u64(7);
    let (mut printed, kills) = (Printed::default(), rounds(20));
    for _ in 0..kills {
        let lines = random.random_range(1..LINES_MAX);
        printed.follow(&stage, lines).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let sent = producer.await.expect("a producer");
    let before: u64 = printed.of.values().sum();
    let left = sent.iter().sum::<u64>() - before;
    printed.follow(&stage, left).await;
    let of: Vec<_> = (0..LOGS)
        .map(|log| printed.of.get(&name(log)).copied().unwrap_or(0))
        .collect();
    assert_eq!(of, sent);
    println!(
        "{} records of {LOGS} logs, printed by a command that was killed {kills} times: each once, in one order",
        sent.iter().sum::<u64>()
    );
}
