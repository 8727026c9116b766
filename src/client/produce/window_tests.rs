//! The window by itself: its limits, its batches, its credit, and what a lost stream leaves behind.

use std::time::Duration;

use futures::{FutureExt, StreamExt};

use super::*;
use crate::client::produce::backlog::{BATCHES_MAX, BYTES_MAX, RECORDS_MAX};
use crate::client::session::session_of_test;
use crate::proto::v1;

const AMPLE: Credit = Credit {
    bytes: 1 << 30,
    batches: 1 << 20,
};

fn options() -> ProducerOptions {
    ProducerOptions::default()
}

fn one_by_one() -> ProducerOptions {
    ProducerOptions {
        batch_records_max: 1,
        ..options()
    }
}

fn record(len: usize) -> Record {
    vec![b'x'; len].into()
}

fn answer(first_offset: u64, count: u32) -> ProduceResponse {
    ProduceResponse {
        first_offset,
        count,
        ..ProduceResponse::default()
    }
}

fn stream(window: &Arc<Window>, credit: Credit) -> Outgoing {
    let outgoing = window.restart(Some(session_of_test(9)));
    window.grant(credit);
    outgoing
}

/// The batch that goes now: its sequence number, its count and its bytes.
fn sent(outgoing: &mut Outgoing) -> Option<(u64, u32, usize)> {
    let request: v1::ProduceStreamRequest = outgoing.next().now_or_never()??;
    let produce = request.produce?;
    let batch = produce.batch?;
    Some((produce.session?.sequence, batch.count, batch.records.len()))
}

fn push(window: &Window, len: usize) -> Option<Ack> {
    let pushed = window.push("", &record(len)).now_or_never();
    pushed.map(Result::unwrap)
}

#[tokio::test(start_paused = true)]
async fn the_window_holds_its_limits_and_opens_in_strides() {
    let window = Arc::new(Window::new(one_by_one()));
    let mut outgoing = stream(&window, AMPLE);
    for _ in 0..BATCHES_MAX {
        assert!(push(&window, 1).is_some());
        assert!(sent(&mut outgoing).is_some());
    }
    let record = record(1);
    let mut waiting = Box::pin(window.push("", &record));
    assert!((&mut waiting).now_or_never().is_none(), "it is full");
    for offset in 0..(BATCHES_MAX / 4) as u64 {
        assert!((&mut waiting).now_or_never().is_none());
        window.acknowledge(&answer(offset, 1)).unwrap();
    }
    assert!(waiting.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn records_and_bytes_are_bounded_but_a_giant_travels_alone() {
    let window = Window::new(ProducerOptions {
        batch_records_max: u32::MAX,
        batch_bytes_max: usize::MAX,
        ..options()
    });
    assert!(push(&window, 1).is_some());
    for _ in 1..RECORDS_MAX {
        assert!(push(&window, 0).is_some());
    }
    assert!(push(&window, 0).is_none());

    let window = Window::new(options());
    assert!(push(&window, BYTES_MAX + 1).is_some());
    assert!(push(&window, 0).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_batch_gathers_while_another_is_under_way() {
    let options = ProducerOptions {
        batch_records_max: 10,
        batch_bytes_max: 500,
        ..options()
    };
    let linger = options.linger;
    let window = Arc::new(Window::new(options));
    let mut outgoing = stream(&window, AMPLE);
    push(&window, 1).unwrap();
    assert_eq!(sent(&mut outgoing).unwrap().1, 1, "nobody waits alone");
    // By count.
    for _ in 0..10 {
        assert_eq!(sent(&mut outgoing), None);
        push(&window, 1).unwrap();
    }
    assert_eq!(sent(&mut outgoing).unwrap().1, 10);
    // By bytes: the one that does not fit begins the next batch.
    for _ in 0..4 {
        push(&window, 150).unwrap();
    }
    assert_eq!(sent(&mut outgoing).unwrap().1, 3);
    // By time, which is the subject here.
    assert_eq!(sent(&mut outgoing), None);
    let begun = Instant::now();
    assert!(outgoing.next().await.is_some());
    assert!(begun.elapsed() >= linger && begun.elapsed() <= linger + Duration::from_millis(1));
    // By the answer to all that was under way.
    push(&window, 1).unwrap();
    for (offset, count) in [(0, 1), (1, 10), (11, 3)] {
        window.acknowledge(&answer(offset, count)).unwrap();
        assert_eq!(sent(&mut outgoing), None);
    }
    window.acknowledge(&answer(14, 1)).unwrap();
    assert_eq!(sent(&mut outgoing), Some((15, 1, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_its_own_keeps_its_place() {
    let window = Arc::new(Window::new(options()));
    let mut outgoing = stream(&window, AMPLE);
    for _ in 0..3 {
        push(&window, 1).unwrap();
    }
    let (records, count) = crate::client::build(&[record(1), record(2)]).unwrap();
    let ack = window.push_batch("", records, count).await.unwrap();
    push(&window, 1).unwrap();
    let counts: Vec<_> = (0..3).map(|_| sent(&mut outgoing).unwrap().1).collect();
    assert_eq!(counts, [1, 2, 2]);
    for (offset, count) in [(0, 1), (1, 2), (3, 2)] {
        window.acknowledge(&answer(offset, count)).unwrap();
    }
    assert_eq!(ack.await.unwrap().first_offset, 3);
}

#[tokio::test(start_paused = true)]
async fn each_log_gathers_for_itself_and_a_batch_keeps_its_log_and_number() {
    let window = Arc::new(Window::new(options()));
    let mut outgoing = stream(&window, AMPLE);
    // The log, the number and the count of what goes now.
    fn to(request: v1::ProduceStreamRequest) -> (String, u64, u32) {
        let produce = request.produce.unwrap();
        let (session, batch) = (produce.session.unwrap(), produce.batch.unwrap());
        (produce.log, session.sequence, batch.count)
    }
    let batch = |log: &str, sequence, count| (log.to_owned(), sequence, count);
    for log in ["a", "b", "", "b", "b", ""] {
        window.push(log, &record(1)).await.unwrap();
    }
    // The first one waits for nobody; the others gather behind it, by log.
    let alone = outgoing.next().now_or_never().unwrap().unwrap();
    assert_eq!(to(alone), batch("a", 0, 1));
    assert!(outgoing.next().now_or_never().is_none());
    let expected = [batch("b", 1, 3), batch("", 4, 2)];
    for expected in &expected {
        assert_eq!(to(outgoing.next().await.unwrap()), *expected);
    }
    // One that is full goes before those that began earlier.
    window.push("a", &record(1)).await.unwrap();
    let full = crate::client::build(&[record(1), record(2)]).unwrap();
    window.push_batch("b", full.0, full.1).await.unwrap();
    let full = outgoing.next().now_or_never().unwrap().unwrap();
    assert_eq!(to(full), batch("b", 6, 2));

    window.lost(Loss::Unknown);
    let mut again = stream(&window, AMPLE);
    let first = outgoing_of(&mut again).await;
    assert_eq!(to(first), batch("a", 0, 1));
    for expected in &expected {
        assert_eq!(to(outgoing_of(&mut again).await), *expected);
    }
    assert_eq!(to(outgoing_of(&mut again).await), batch("b", 6, 2));
    assert_eq!(to(outgoing_of(&mut again).await), batch("a", 8, 1));
}

async fn outgoing_of(outgoing: &mut Outgoing) -> v1::ProduceStreamRequest {
    outgoing.next().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn logs_that_gather_count_as_batches() {
    let window = Arc::new(Window::new(options()));
    let mut outgoing = stream(&window, AMPLE);
    for log in 0..BATCHES_MAX {
        let pushed = window.push(&log.to_string(), &record(1)).now_or_never();
        assert!(pushed.is_some(), "{log}");
    }
    let record = record(1);
    assert!(window.push("more", &record).now_or_never().is_none());
    // One that gathers takes more.
    assert!(window.push("7", &record).now_or_never().is_some());
    for log in 0..BATCHES_MAX {
        let sent = outgoing.next().await.unwrap().produce.unwrap();
        assert_eq!(sent.log, log.to_string());
        let count = sent.batch.unwrap().count;
        window.acknowledge(&answer(0, count)).unwrap();
    }
    assert!(window.push("more", &record).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn credit_is_never_exceeded() {
    let window = Arc::new(Window::new(one_by_one()));
    let few = Credit {
        bytes: 1 << 20,
        batches: 3,
    };
    let mut outgoing = window.restart(Some(session_of_test(9)));
    for _ in 0..10 {
        push(&window, 95).unwrap();
    }
    assert_eq!(sent(&mut outgoing), None, "before the first answer");
    window.grant(few);
    for _ in 0..3 {
        assert!(sent(&mut outgoing).is_some());
    }
    assert_eq!(sent(&mut outgoing), None);
    window.acknowledge(&answer(0, 1)).unwrap();
    assert!(sent(&mut outgoing).is_some());
    assert_eq!(sent(&mut outgoing), None);

    window.lost(Loss::Unknown);
    let small = Credit {
        bytes: 250,
        batches: 100,
    };
    let mut outgoing = stream(&window, small);
    for _ in 0..2 {
        assert_eq!(sent(&mut outgoing).unwrap().2, 99);
    }
    assert_eq!(sent(&mut outgoing), None);
    for offset in 1..10 {
        window.acknowledge(&answer(offset, 1)).unwrap();
        while sent(&mut outgoing).is_some() {}
    }
    // Larger than all the credit: alone.
    push(&window, 1000).unwrap();
    push(&window, 1).unwrap();
    assert_eq!(sent(&mut outgoing).unwrap().2, 1006);
    assert_eq!(sent(&mut outgoing), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_starts_at_the_first_unacknowledged_and_ends_the_old_one() {
    let window = Arc::new(Window::new(one_by_one()));
    let mut old = stream(&window, AMPLE);
    for len in 1..=4 {
        push(&window, len).unwrap();
    }
    for _ in 0..3 {
        sent(&mut old).unwrap();
    }
    window.acknowledge(&answer(7, 1)).unwrap();
    window.lost(Loss::Unknown);
    assert!(old.next().await.is_none());
    let mut new = stream(&window, AMPLE);
    assert!(window.acknowledge(&answer(8, 1)).is_err(), "none is on it");
    let sequences: Vec<_> = (0..3).map(|_| sent(&mut new).unwrap().0).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert!(
        window.acknowledge(&answer(8, 2)).is_err(),
        "of another size"
    );
    assert!(window.acknowledge(&answer(8, 1)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_new_session_counts_from_its_first_batch() {
    let window = Arc::new(Window::new(one_by_one()));
    let mut outgoing = stream(&window, AMPLE);
    for _ in 0..3 {
        push(&window, 1).unwrap();
    }
    sent(&mut outgoing).unwrap();
    window.acknowledge(&answer(0, 1)).unwrap();
    sent(&mut outgoing).unwrap();
    // What the stream itself says of its batches is certain; what is lost with it is not.
    window.lost(Loss::NoneAppended);
    assert!(!window.is_uncertain());
    let mut outgoing = window.restart(Some(session_of_test(10)));
    window.grant(AMPLE);
    assert_eq!(sent(&mut outgoing).unwrap().0, 0);
    window.lost(Loss::FirstRefused);
    assert!(!window.is_uncertain());
    let mut outgoing = window.restart(Some(session_of_test(10)));
    window.grant(AMPLE);
    assert_eq!(sent(&mut outgoing).unwrap().0, 0);
    assert_eq!(sent(&mut outgoing).unwrap().0, 1);
    window.lost(Loss::FirstRefused);
    assert!(window.is_uncertain());
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_every_waiter() {
    let window = Window::new(options());
    let acks = [push(&window, 1).unwrap(), push(&window, 1).unwrap()];
    window.fail(&ClientError::NoServers);
    for ack in acks {
        assert!(matches!(ack.await, Err(ClientError::NoServers)));
    }
    let later = window.push("", &record(1)).await;
    assert!(matches!(later, Err(ClientError::NoServers)));
    window.close();
    assert!(!window.wait_for_work().await);
}
