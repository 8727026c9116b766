//! Readers that take nothing of the answers that they asked for.

use bytes::Bytes;
use ferrolog::proto::log_v1;
use ferrolog::proto::v1::{
    Batch, ConsumeRequest, ConsumeStreamRequest, ConsumeStreamStart, ProduceRequest,
};

use super::arena::{Arena, READER, Raw, RawCall, ends_within, framed, held};
use super::harness::native::{self, Client};
use super::harness::until;
use super::harness::wire::answer;
use super::storm::bomb;

const LARGE: usize = 3;
const VALUE_BYTES: usize = (4 << 20) - (16 << 10);
const UNARY: usize = 400;
const STREAMS: usize = 200;
const COMPRESSED: usize = 130;
/// How many bytes a node may keep once the attack is over, the log's latest records among them.
const KEPT_MAX: u64 = 64 << 20;

async fn append(client: &mut Client, batch: Batch) -> u64 {
    let request = ProduceRequest {
        batch: Some(batch),
        ..ProduceRequest::default()
    };
    let told = answer(client.produce(request)).await;
    told.expect("it is appended").first_offset
}

/// Opens calls, and takes nothing of their answers.
async fn ask(raw: &mut Raw, path: &str, message: &Bytes, calls: usize, ends: bool) -> Vec<RawCall> {
    let mut open = Vec::new();
    for _ in 0..calls {
        let Some(mut call) = raw.open(path).await else {
            break;
        };
        let _ = call.request.send_data(message.clone(), ends);
        open.push(call);
    }
    open
}

/// A method, a message that asks for much, the number of calls of one connection, and whether the message is the
/// last of its call.
pub type Asked = (&'static str, Bytes, usize, bool);

/// Sends the requests, and takes nothing of the answers.
pub async fn hold(arena: &Arena, place: usize, (path, message, calls, ends): &Asked) {
    let mut raw = arena.deaf(READER, place).await;
    let open = ask(&mut raw, path, message, *calls, *ends).await;
    // The node alone ends them.
    let _ = ends_within(open, held()).await;
}

/// Appends a few large records, and asks for them by each method of both APIs.
pub async fn large(arena: &Arena, place: usize) -> [Asked; 4] {
    let mut client = native::client_of(&arena.stage, place);
    let mut first = 0;
    for number in 0..LARGE {
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        let offset = append(&mut client, native::batch([value])).await;
        first = if number == 0 { offset } else { first };
    }
    let original = framed(&log_v1::ConsumeRequest { offset: first });
    let native = framed(&ConsumeRequest {
        start: native::at(first),
        ..ConsumeRequest::default()
    });
    let stream = framed(&ConsumeStreamRequest {
        start: Some(ConsumeStreamStart {
            start: native::at(first),
            ..ConsumeStreamStart::default()
        }),
        credit_bytes: 8 << 20,
    });
    let original_stream = original.clone();
    [
        ("/log.v1.Log/Consume", original, UNARY, true),
        ("/log.v1.Log/ConsumeStream", original_stream, STREAMS, true),
        ("/ferrolog.v1.LogService/Consume", native, UNARY, true),
        (
            "/ferrolog.v1.LogService/ConsumeStream",
            stream,
            STREAMS,
            false,
        ),
    ]
}

/// Appends a small batch that is large once it is decompressed, and asks for little of it.
pub async fn compressed(arena: &Arena, place: usize) -> [Asked; 2] {
    let mut client = native::client_of(&arena.stage, place);
    let offset = append(&mut client, bomb()).await;
    let native = framed(&ConsumeRequest {
        start: native::at(offset),
        bytes_max: 1000,
        ..ConsumeRequest::default()
    });
    let original = framed(&log_v1::ConsumeRequest { offset });
    [
        ("/ferrolog.v1.LogService/Consume", native, COMPRESSED, true),
        ("/log.v1.Log/Consume", original, COMPRESSED, true),
    ]
}

async fn attack(arena: &Arena, place: usize, all: impl IntoIterator<Item = Asked>) {
    for asked in all {
        let watched = arena.watch(place, hold(arena, place, &asked)).await;
        watched.check(&format!("{} unread {}", asked.2, asked.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_have_a_limit() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let before = arena.resident();
    let all = large(&arena, place).await;
    attack(&arena, place, all).await;
    until("what was held is given back", async || {
        (arena.resident() <= before + KEPT_MAX).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_compressed_batch_is_no_large_answer() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let all = compressed(&arena, place).await;
    attack(&arena, place, all).await;
}
