//! The largest allowed messages, whole, on hundreds of streams of one connection at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::arena::{Arena, PRESS, ends_within, is_full};
use super::half_sent::{log_v1_message, native_stream_message};

/// Streams in a run of full length.
const STREAMS: usize = 1000;
const STREAMS_SHORT: usize = 24;
/// How long the node may take to append what there is room for, and to refuse the rest.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const DONE: u32 = 0;
/// The number of `RESOURCE_EXHAUSTED`: no window was left for the stream.
const REFUSED: u32 = 8;

/// How many streams ended with which status; 99 where one broke.
type Told = BTreeMap<u32, usize>;
const BROKE: u32 = 99;

/// Opens streams, and sends a whole message on each.
pub async fn press(arena: &Arena, place: usize, path: &str, message: &Bytes) -> Told {
    let streams = if is_full() { STREAMS } else { STREAMS_SHORT };
    let mut raw = arena.raw(PRESS, place).await;
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut call = raw.open(path).await.expect("a connection that lasts");
        // A call that was refused already takes no more.
        let _ = call.request.send_data(message.clone(), true);
        open.push(call);
    }
    let ends = ends_within(open, ENDS_WITHIN).await;
    assert_eq!(ends.len(), streams, "{path}: streams that never end");
    let mut told = Told::new();
    for end in ends {
        *told.entry(end.unwrap_or(BROKE)).or_default() += 1;
    }
    println!("{path}: {told:?}");
    told
}

/// Every message is appended, or refused for want of room.
fn check(told: &Told, path: &str) {
    let others = told.keys().filter(|&&end| end != DONE && end != REFUSED);
    assert_eq!(others.count(), 0, "{path}: {told:?}");
    // As many streams as may wait at once find room in the end.
    assert!(
        told.get(&DONE).is_some_and(|&done| done >= STREAMS_SHORT),
        "{path}: {told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whole_messages_on_many_streams_are_appended_or_refused_for_want_of_room() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let term = arena.stage.status(place).await.term;
    for (path, message) in [
        (
            "/ferrolog.v1.LogService/ProduceStream",
            native_stream_message(),
        ),
        ("/log.v1.Log/ProduceStream", log_v1_message()),
    ] {
        let pressed = async { check(&press(&arena, place, path, &message).await, path) };
        let watched = arena.watch(place, pressed).await;
        watched.check(&format!("whole messages by {path}"));
    }
    assert_eq!(arena.stage.status(place).await.term, term, "the term");
}
