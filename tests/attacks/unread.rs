//! Readers that take nothing of what they have asked for.

use bytes::Bytes;
use ferrolog::batch::{self, Builder, Compression, Record};
use ferrolog::proto::log_v1;
use ferrolog::proto::v1::{
    Batch, ConsumeRequest, ConsumeStreamRequest, ConsumeStreamStart, ProduceRequest,
};

use futures::future::join_all;
use tokio::time::timeout;

use super::arena::{Arena, READER, Raw, RawCall, framed, length};
use super::harness::native::{self, Client};
use super::harness::wire::answer;

const LARGE: usize = 3;
const VALUE_BYTES: usize = (4 << 20) - (16 << 10);
const UNARY: usize = 400;
const STREAMS: usize = 200;
const COMPRESSED: usize = 130;

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

async fn attack(arena: &Arena, name: &str, path: &str, message: Bytes, calls: usize, ends: bool) {
    let place = arena.stage.leader().await;
    let watched = arena.watch(place, async {
        let mut raw = arena.deaf(READER, place).await;
        let open = ask(&mut raw, path, &message, calls, ends).await;
        // None of them ends but by the node's will.
        let ends = join_all(open.into_iter().map(RawCall::status));
        let _ = timeout(length(), ends).await;
    });
    watched.await.check(name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_have_a_limit() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let mut client = native::client_of(&arena.stage, place);
    let mut first = 0;
    for number in 0..LARGE {
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        let offset = append(&mut client, native::batch([value])).await;
        first = if number == 0 { offset } else { first };
    }
    let original = framed(&log_v1::ConsumeRequest { offset: first });
    let read = "/log.v1.Log/Consume";
    attack(&arena, "Consume", read, original.clone(), UNARY, true).await;
    let read = "/log.v1.Log/ConsumeStream";
    attack(&arena, "ConsumeStream", read, original, STREAMS, true).await;
    let native = framed(&ConsumeRequest {
        start: native::at(first),
        ..ConsumeRequest::default()
    });
    let read = "/ferrolog.v1.LogService/Consume";
    attack(&arena, "native Consume", read, native, UNARY, true).await;
    let stream = framed(&ConsumeStreamRequest {
        start: Some(ConsumeStreamStart {
            start: native::at(first),
            ..ConsumeStreamStart::default()
        }),
        credit_bytes: 8 << 20,
    });
    let read = "/ferrolog.v1.LogService/ConsumeStream";
    attack(&arena, "native ConsumeStream", read, stream, STREAMS, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_compressed_batch_is_no_large_answer() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let mut client = native::client_of(&arena.stage, place);
    let mut builder = Builder::default();
    for _ in 0..60 {
        builder.push(&Record::from(Bytes::from(vec![0; 250 << 10])));
    }
    let (plain, count) = builder.take();
    let batch = Batch {
        records: batch::compress(&plain, Compression::Zstd).expect("it is small"),
        compression: Compression::Zstd as i32,
        count,
    };
    let offset = append(&mut client, batch).await;
    let read = framed(&ConsumeRequest {
        start: native::at(offset),
        bytes_max: 1000,
        ..ConsumeRequest::default()
    });
    let path = "/ferrolog.v1.LogService/Consume";
    attack(&arena, "compressed, native", path, read, COMPRESSED, true).await;
    let read = framed(&log_v1::ConsumeRequest { offset });
    let path = "/log.v1.Log/Consume";
    attack(&arena, "compressed, log.v1", path, read, COMPRESSED, true).await;
}
