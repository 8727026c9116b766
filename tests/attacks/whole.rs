//! Messages as large as they may be, on hundreds of streams of one connection, all at once and rightly.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::arena::{Arena, PRESS, ends_within, is_full};
use super::half_sent::{log_v1_message, native_stream_message};

/// In a full run.
const STREAMS: usize = 1000;
const STREAMS_SHORT: usize = 24;
/// To append all that there is room for, and to refuse the others.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const DONE: u32 = 0;
/// `RESOURCE_EXHAUSTED`: there is no window left for it.
const REFUSED: u32 = 8;

/// How many streams ended with which status; 99 where one broke.
type Told = BTreeMap<u32, usize>;
const BROKE: u32 = 99;

/// Opens streams with a whole message each.
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

/// Every one is appended, or refused for want of room.
fn check(told: &Told, path: &str) {
    let others = told.keys().filter(|&&end| end != DONE && end != REFUSED);
    assert_eq!(others.count(), 0, "{path}: {told:?}");
    // As many as may wait at once have room in the end.
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
