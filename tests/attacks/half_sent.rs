//! Messages that never end, on hundreds of calls of one connection.

use std::time::Duration;

use bytes::Bytes;
use ferrolog::proto::log_v1;
use ferrolog::proto::v1::{CommitCursorRequest, ProduceRequest, ProduceStreamRequest};
use tokio::time::timeout;

use super::arena::{Arena, MALLORY, Raw, RawCall, WRITER, ends_within, framed, held, is_full};
use super::harness::PATIENCE;
use super::harness::native::batch;

const SINGLE: usize = 700;
const STREAMS: usize = 1000;
/// A little less than the largest record.
const VALUE_BYTES: usize = (4 << 20) - (128 << 10);
/// The number of `PERMISSION_DENIED`.
const DENIED: [u32; 1] = [7];
/// The numbers of `DEADLINE_EXCEEDED` and `RESOURCE_EXHAUSTED`.
const ENDED: [u32; 2] = [4, 8];
/// No small call beside the attack may take longer.
const CALL_MAX: Duration = Duration::from_secs(5);

fn value() -> Bytes {
    vec![7; VALUE_BYTES].into()
}

pub fn log_v1_message() -> Bytes {
    framed(&log_v1::ProduceRequest {
        record: Some(log_v1::Record {
            value: value(),
            ..log_v1::Record::default()
        }),
    })
}

fn native_request() -> ProduceRequest {
    ProduceRequest {
        batch: Some(batch([value()])),
        ..ProduceRequest::default()
    }
}

pub fn native_stream_message() -> Bytes {
    framed(&ProduceStreamRequest {
        produce: Some(native_request()),
        many: None,
    })
}

fn large_name() -> Bytes {
    framed(&CommitCursorRequest {
        name: "n".repeat(VALUE_BYTES),
        ..CommitCursorRequest::default()
    })
}

/// Opens calls and sends all of the message but its last byte on each.
async fn flood(raw: &mut Raw, path: &str, message: &Bytes, calls: usize) -> Vec<RawCall> {
    let part = message.slice(..message.len() - 1);
    let mut open = Vec::new();
    for _ in 0..calls {
        let Some(mut call) = raw.open(path).await else {
            break;
        };
        // A call that was refused already takes no more.
        let _ = call.request.send_data(part.clone(), false);
        open.push(call);
    }
    open
}

/// How those calls of a flood ended that ended.
type Ends = Vec<Result<u32, h2::Error>>;

/// Floods a node and holds the calls open.
pub async fn hold(arena: &Arena, who: &str, place: usize, (path, message, calls): &Flood) -> Ends {
    let mut raw = arena.raw(who, place).await;
    let open = flood(&mut raw, path, message, *calls).await;
    assert_eq!(open.len(), *calls, "{path}: its connection broke");
    let limit = if who == MALLORY { PATIENCE } else { held() };
    ends_within(open, limit).await
}

fn check(ends: &Ends, who: &str, (path, _, calls): &Flood) {
    let expected: &[u32] = if who == MALLORY { &DENIED } else { &ENDED };
    let is_expected = |end: &Result<u32, _>| end.as_ref().is_ok_and(|end| expected.contains(end));
    assert!(ends.iter().all(is_expected), "{path}: {ends:?}");
    // A caller that may send has ten seconds to go on, and streams wait for each other's room.
    let is_single = !path.ends_with("Stream");
    if who == MALLORY || is_full() && is_single {
        assert_eq!(ends.len(), *calls, "{path}: calls that never end");
    }
}

/// A method, one of its messages, and the number of calls of one connection on which the message never comes whole.
pub type Flood = (&'static str, Bytes, usize);

pub fn without_the_right() -> [Flood; 3] {
    let native = framed(&native_request());
    [
        ("/log.v1.Log/Produce", log_v1_message(), SINGLE),
        ("/ferrolog.v1.LogService/Produce", native, SINGLE),
        ("/ferrolog.v1.LogService/CommitCursor", large_name(), SINGLE),
    ]
}

pub fn with_the_right() -> [Flood; 4] {
    let native = framed(&native_request());
    let stream = native_stream_message();
    [
        ("/log.v1.Log/Produce", log_v1_message(), SINGLE),
        ("/log.v1.Log/ProduceStream", log_v1_message(), STREAMS),
        ("/ferrolog.v1.LogService/Produce", native, SINGLE),
        ("/ferrolog.v1.LogService/ProduceStream", stream, STREAMS),
    ]
}

async fn attack(who: &str, floods: impl IntoIterator<Item = Flood>) {
    let arena = Arena::start().await;
    for flood in floods {
        let place = arena.stage.leader().await;
        let attack = async { check(&hold(&arena, who, place, &flood).await, who, &flood) };
        let watched = arena.watch(place, attack).await;
        let (path, _, calls) = flood;
        watched.check(&format!("{calls} half-sent {path} of {who}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn calls_without_the_right_are_denied_before_their_bodies_are_read() {
    attack(MALLORY, without_the_right()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn half_sent_messages_take_no_more_than_their_subject_may_hold() {
    attack(WRITER, with_the_right()).await;
}

/// Eight of the messages are being read, and as many streams wait as there may be: their windows are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stalled_streams_leave_the_other_calls_of_their_connection_alone() {
    const STALLED: usize = 90;
    const CALLS: usize = 50;
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let mut raw = arena.raw(WRITER, place).await;
    let path = "/ferrolog.v1.LogService/ProduceStream";
    let stalled = flood(&mut raw, path, &native_stream_message(), STALLED).await;
    assert_eq!(stalled.len(), STALLED);
    let small = framed(&ProduceRequest {
        batch: Some(batch([Bytes::from_static(b"small")])),
        ..ProduceRequest::default()
    });
    for call in 0..CALLS {
        let answer = raw.call("/ferrolog.v1.LogService/Produce", small.clone());
        let answer = timeout(CALL_MAX, answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("call {call} stands still"));
        assert_eq!(answer.expect("an answer"), 0, "call {call}");
    }
}
