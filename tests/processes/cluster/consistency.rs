//! What reads promise, over real nodes that are frozen: strong reads through followers are never stale, bounded
//! reads fail rather than be older than their bound, and relaxed reads go on and say how old they are.

use std::time::Duration;

use ferrolog::cli::local_cluster::Signal;
use ferrolog::proto::v1::{ConsumeStreamStart, Freshness};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::harness::checker::{Outcome, ReadKind, Rule};
use crate::harness::native::{self, Client};
use crate::harness::recorder::{Recorder, Seen};
use crate::harness::{PATIENCE, Stage, refused, rounds, until, until_in};

/// Every so many rounds the leader is frozen, for so long and for so many rounds of the others.
const ROUNDS_A_PAUSE: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);
const ROUNDS_IN_PAUSE: usize = 4;
const BOUND_MS: u64 = 500;
/// A read whose bound cannot be met is refused within this time, the bound included.
const REFUSAL_MAX: Duration = Duration::from_millis(BOUND_MS + 3_000);
/// How much older a relaxed read of a frozen cluster must say that it is.
const AGED_MS: u64 = 300;
const HEARTBEAT_MS: u32 = 100;
const REFUSALS: [&str; 3] = ["STALE", "LAGGING", "NO_LEADER"];

/// A cluster, a client of each node, and what they see.
struct Rounds {
    stage: Stage,
    clients: Vec<Client>,
    recorder: Recorder,
    leader: usize,
    /// The last record that was acknowledged.
    last: (u64, Vec<u8>),
    /// Appends or reads that had to be tried again.
    retries: u32,
}

impl Rounds {
    async fn start() -> Self {
        let stage = Stage::start_alone().await;
        let clients = (0..3).map(|place| native::client_of(&stage, place));
        Self {
            clients: clients.collect(),
            leader: stage.leader().await,
            last: (0, Vec::new()),
            recorder: Recorder::default(),
            stage,
            retries: 0,
        }
    }

    /// Appends through a node until a record is acknowledged. Each try is another record.
    async fn append(&mut self, place: usize) {
        let begun = Instant::now();
        loop {
            let value = format!("{} through {place}", self.recorder.history.appends.len());
            let begin = self.recorder.now();
            let answer = native::produce(&mut self.clients[place], value.as_bytes()).await;
            let outcome = match &answer {
                Ok(offset) => Outcome::Acked(*offset),
                Err(status) => {
                    judge_retry(status);
                    Outcome::Unknown
                }
            };
            self.recorder.append(0, value.as_bytes(), begin, outcome);
            if let Ok(offset) = answer {
                self.last = (offset, value.into_bytes());
                return;
            }
            self.retries += 1;
            assert!(begun.elapsed() < PATIENCE, "no append is acknowledged");
        }
    }

    /// A strong read of the last record that was acknowledged: it must be there. False if it was refused.
    async fn strong_read(&mut self, place: usize) -> bool {
        let (offset, value) = self.last.clone();
        let begin = self.recorder.now();
        let answer = native::consume(&mut self.clients[place], offset, native::strong()).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                judge_retry(&status);
                self.retries += 1;
                return false;
            }
        };
        let values: Vec<_> = answer.batches.iter().flat_map(native::values).collect();
        let first = values.iter().find(|(at, _)| *at == offset);
        let first = first.unwrap_or_else(|| panic!("a stale read of {offset} through {place}"));
        assert_eq!(first.1, value, "another record at {offset}");
        let seen = native::entries(&answer.batches);
        let seen: Vec<_> = seen.into_iter().filter(|e| e.offset >= offset).collect();
        let freshness = answer.freshness.expect("a read says how fresh it is");
        assert_eq!(freshness.node, self.stage.cluster.name(place));
        self.recorder.read(Seen {
            session: None,
            kind: ReadKind::Strong,
            node: self.stage.cluster.name(place),
            begin,
            from: offset,
            seen,
            tail: freshness.applied_offset,
        });
        true
    }

    /// Makes a strong read of the last record until it is answered.
    async fn strong_read_answered(&mut self, place: usize) {
        let begun = Instant::now();
        while !self.strong_read(place).await {
            assert!(begun.elapsed() < PATIENCE, "no strong read is answered");
        }
    }

    /// An append through the leader, and at once a strong read through another node.
    async fn round(&mut self, round: usize) {
        self.append(self.leader).await;
        let reader = self.stage.others(self.leader)[round % 2];
        self.strong_read_answered(reader).await;
    }

    /// Freezes the leader; meanwhile the others are read from, and append as soon as one of them leads. At the
    /// moment that the old one wakes it is read from.
    async fn pause(&mut self) {
        let old = self.leader;
        let others = self.stage.others(old);
        let frozen = Instant::now();
        self.stage
            .cluster
            .signal(old, Signal::STOP)
            .expect("frozen");
        self.strong_read(others[0]).await;
        let mut turn = 0;
        while turn < ROUNDS_IN_PAUSE || frozen.elapsed() < PAUSE {
            let (writer, reader) = (others[turn % 2], others[(turn + 1) % 2]);
            turn += 1;
            self.append(writer).await;
            self.strong_read_answered(reader).await;
        }
        self.stage.cluster.signal(old, Signal::CONT).expect("awake");
        self.strong_read(old).await;
        self.stage.ready().await;
        self.leader = self.stage.leader().await;
    }
}

/// Without a leader a call may be refused, or its outcome may be unknown. Every other error is a fault.
fn judge_retry(status: &Status) {
    let known = [Code::Unavailable, Code::Unknown];
    assert!(known.contains(&status.code()), "{status:?}");
}

#[tokio::test]
async fn strong_reads_through_followers_are_never_stale() {
    let mut rounds_of = Rounds::start().await;
    let (count, begun) = (rounds(200), Instant::now());
    let mut pauses = 0;
    for round in 0..count {
        rounds_of.round(round).await;
        if round % ROUNDS_A_PAUSE == ROUNDS_A_PAUSE - 1 {
            rounds_of.pause().await;
            pauses += 1;
        }
    }
    let Rounds {
        recorder,
        stage,
        retries,
        ..
    } = rounds_of;
    let report = recorder.assert_sound(&stage).await;
    println!(
        "{count} rounds with {pauses} pauses of the leader in {:.1?}: {} strong reads, 0 stale, {retries} calls tried \
         again; {report}",
        begun.elapsed(),
        report.of(Rule::StrongRead),
    );
    assert!(report.of(Rule::StrongRead) >= count);
}

fn judge_refusal(status: &Status) {
    let reason = native::reason(status);
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(REFUSALS.contains(&reason.as_str()), "{reason}: {status:?}");
}

async fn bounded_read(client: &mut Client) -> Result<Freshness, Status> {
    let answer = native::consume(client, 0, native::bounded(BOUND_MS)).await?;
    assert!(!answer.batches.is_empty(), "the first record is there");
    Ok(answer.freshness.expect("a read says how fresh it is"))
}

/// How old a relaxed read says that it is.
async fn relaxed_age(client: &mut Client) -> Option<u64> {
    let answer = native::consume(client, 0, native::relaxed()).await;
    let answer = answer.expect("a relaxed read is always answered");
    assert!(!answer.batches.is_empty(), "the first record is there");
    answer.freshness.expect("how fresh it is").staleness_ms
}

#[tokio::test]
async fn a_bounded_read_fails_rather_than_be_older_than_its_bound() {
    let stage = Stage::start_alone().await;
    let follower = stage.others(stage.leader().await)[0];
    let mut client = native::client_of(&stage, follower);
    native::produce(&mut client, b"first").await.expect("ack");
    let fresh = until("a bounded read is answered", async || {
        bounded_read(&mut client).await.ok()
    })
    .await;
    let age = fresh.staleness_ms.expect("a leader has confirmed it");
    assert!(age <= BOUND_MS, "{age} ms");
    let start = ConsumeStreamStart {
        start: native::at(0),
        consistency: native::bounded(BOUND_MS),
        heartbeat_ms: HEARTBEAT_MS,
        ..ConsumeStreamStart::default()
    };
    let opened = native::Stream::open(&mut client, start, 1 << 20).await;
    let (mut stream, _) = opened.expect("a stream");

    let others = stage.others(follower);
    for &place in &others {
        stage.cluster.signal(place, Signal::STOP).expect("frozen");
    }
    let frozen = Instant::now();
    let ended = async {
        loop {
            if let Err(status) = stream.next().await {
                return (status, frozen.elapsed());
            }
        }
    };
    let mut reader = native::client_of(&stage, follower);
    let refusal = until_in(REFUSAL_MAX, "a bounded read is refused", async || {
        bounded_read(&mut reader).await.err()
    });
    let (refusal, (end, after)) = tokio::join!(refusal, ended);
    judge_refusal(&refusal);
    judge_refusal(&end);
    assert!(after <= REFUSAL_MAX, "the stream ended after {after:?}");

    // The bounded read stays refused, and relaxed reads say ever higher ages.
    let before = relaxed_age(&mut client).await.expect("an age");
    let aged = until("a relaxed read says that it is older", async || {
        let age = relaxed_age(&mut client).await.expect("an age");
        (age >= before + AGED_MS).then_some(age)
    })
    .await;
    assert!(aged > BOUND_MS, "{aged} ms");
    let still = refused(bounded_read(&mut client).await, "a bounded read");
    judge_refusal(&still);

    for &place in &others {
        stage.cluster.signal(place, Signal::CONT).expect("awake");
    }
    let awake = Instant::now();
    let fresh = until("bounded reads are answered again", async || {
        bounded_read(&mut client).await.ok()
    })
    .await;
    assert!(fresh.staleness_ms.is_some_and(|age| age <= BOUND_MS));
    println!(
        "cut off: a bounded stream of {BOUND_MS} ms ended after {after:.0?} with {}, calls were refused with {}; a relaxed \
         read was {aged} ms old; bounded reads again {:.0?} after the others woke",
        native::reason(&end),
        native::reason(&refusal),
        awake.elapsed()
    );
}
