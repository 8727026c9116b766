//! Answers are no larger than was asked for. Every record that a node takes can be read by a client whose limits
//! are those of its gRPC library.

use bytes::Bytes;
use ferrolog::batch::{self, Builder, Compression, Record};
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::ChannelOptions;
use ferrolog::proto::log_v1;
use ferrolog::proto::log_v1::log_client::LogClient;
use ferrolog::proto::v1::log_service_client::LogServiceClient;
use ferrolog::proto::v1::{
    Batch, ConsumeRequest, ConsumeStreamStart, GetLimitsRequest, ProduceRequest,
};

use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::native::{self, Client, Stream};
use crate::harness::wire::answer;
use crate::harness::{PATIENCE, Stage};

const RECORDS: u64 = 60;
const VALUE_BYTES: usize = 25_000;

/// A batch with megabytes of records that is compressed to a few kilobytes.
fn bomb(compression: Compression) -> Batch {
    let mut builder = Builder::default();
    for number in 0..RECORDS {
        let mut value = vec![0; VALUE_BYTES];
        value[..8].copy_from_slice(&number.to_le_bytes());
        builder.push(&Record::from(value));
    }
    let (plain, count) = builder.take();
    Batch {
        records: batch::compress(&plain, compression).expect("it is small"),
        compression: compression as i32,
        count,
    }
}

async fn produce(client: &mut Client, batch: Batch) -> u64 {
    let request = ProduceRequest {
        batch: Some(batch),
        ..ProduceRequest::default()
    };
    let told = answer(client.produce(request)).await;
    told.expect("it is within the limits").first_offset
}

/// Reads the records from an offset on, so many bytes at a time. Returns the size of the largest answer.
async fn read_all(client: &mut Client, mut next: u64, bytes_max: u32, accept: &[i32]) -> u64 {
    let (end, mut largest) = (next + RECORDS, 0);
    while next < end {
        let request = ConsumeRequest {
            start: native::at(next),
            bytes_max,
            accept: accept.to_vec(),
            ..ConsumeRequest::default()
        };
        let told = answer(client.consume(request)).await.expect("an answer");
        let batches = told.batches.iter().filter_map(|told| told.batch.as_ref());
        largest = largest.max(batches.map(|batch| batch.records.len() as u64).sum());
        for stored in &told.batches {
            assert_eq!(stored.first_offset, next, "no gap");
            for (offset, value) in native::values(stored) {
                let number = offset % RECORDS;
                assert_eq!(value[..8], number.to_le_bytes(), "at {offset}");
                next = offset + 1;
            }
        }
        assert_eq!(told.next_offset, next);
    }
    largest
}

#[tokio::test]
async fn a_batch_is_cut_at_records_to_what_was_asked_for() {
    let stage = Stage::start().await;
    let mut client = native::client_of(&stage, stage.leader().await);
    for compression in [Compression::Zstd, Compression::Lz4] {
        let first = produce(&mut client, bomb(compression)).await;
        for bytes_max in [1000, 100_000, 0, u32::MAX] {
            let largest = read_all(&mut client, first, bytes_max, &[]).await;
            let asked = match bytes_max {
                0 | u32::MAX => 1 << 20,
                bytes => u64::from(bytes).max(VALUE_BYTES as u64 + 100),
            };
            assert!(largest <= asked, "{largest} for {bytes_max}");
        }
        // A client that takes the compression gets the batch whole, as far as it asks for so much.
        let request = ConsumeRequest {
            start: native::at(first),
            accept: vec![compression as i32],
            ..ConsumeRequest::default()
        };
        let told = answer(client.consume(request)).await.expect("an answer");
        let whole = told.batches[0].batch.as_ref().expect("a batch");
        assert_eq!((whole.compression, whole.count), (compression as i32, 60));
        let start = ConsumeStreamStart {
            start: native::at(first),
            consistency: native::relaxed(),
            ..ConsumeStreamStart::default()
        };
        let credit = 100_000;
        let opened = Stream::open(&mut client, start, credit).await;
        let (mut stream, _) = opened.expect("a stream");
        let mut next = first;
        while next < first + RECORDS {
            let told = stream.next().await.expect("an answer");
            let spent = native::spent(&told);
            assert!(spent <= credit, "{spent} bytes for a credit of {credit}");
            stream.grant(spent);
            next = told.next_offset;
        }
    }
}

#[tokio::test]
async fn the_largest_record_is_read_with_the_usual_limits() {
    let stage = Stage::start().await;
    let leader = stage.leader().await;
    let layer = stage.cluster.stream_layer().expect("a client's security");
    let addr = stage.cluster.addr(leader);
    let channel = layer.channel(Kind::Grpc, addr, ChannelOptions::default());
    let mut client = LogServiceClient::new(channel.clone());
    let limits = answer(client.get_limits(GetLimitsRequest {})).await;
    let limits = limits.expect("limits");
    // A record of headers and a key has more bytes around them than one of a value.
    let headers = (0..limits.headers_max).map(|_| batch::Header {
        name: "name".to_owned(),
        value: Bytes::from(vec![1; 20_000]),
    });
    let mut record = Record {
        key: Some(vec![2; usize::try_from(limits.key_bytes_max).expect("few")].into()),
        headers: headers.collect(),
        client_timestamp_ms: u64::MAX,
        ..Record::default()
    };
    let around = 128 * 20_004 + limits.key_bytes_max as usize;
    let most = usize::try_from(limits.record_bytes_max).expect("few");
    record.value = vec![3; most - around].into();
    let plain = Record::from(vec![4; most]);
    for record in [record, plain] {
        let mut builder = Builder::default();
        builder.push(&record);
        let (records, count) = builder.take();
        let batch = Batch {
            records,
            count,
            ..Batch::default()
        };
        let offset = produce(&mut client, batch).await;
        let read = native::consume(&mut client, offset, native::relaxed()).await;
        let read = read.expect("the usual limit of four megabytes");
        assert_eq!(read.next_offset, offset + 1);
        let mut original = LogClient::new(channel.clone());
        let request = log_v1::ConsumeRequest { offset };
        let read = answer(original.consume(request)).await.expect("by log.v1");
        assert_eq!(read.record.expect("a record").value, record.value);
        let request = log_v1::ConsumeRequest { offset };
        let stream = answer(original.consume_stream(request)).await;
        let first = tokio::time::timeout(PATIENCE, stream.expect("a stream").message()).await;
        let first = first.expect("in time").expect("by a stream");
        assert_eq!(
            first.expect("an answer").record.expect("a record").value,
            record.value
        );
    }
}

/// Tools in use ask for reflection by the older name of its service.
#[tokio::test]
async fn older_tools_are_told_what_there_is() {
    let stage = Stage::start().await;
    let layer = stage.cluster.stream_layer().expect("a client's security");
    let addr = stage.cluster.addr(0);
    let channel = layer.channel(Kind::Grpc, addr, ChannelOptions::default());
    let mut client = ServerReflectionClient::new(channel);
    let symbol = "ferrolog.v1.LogService".to_owned();
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol(symbol),
    ];
    let asked = asked.map(|message| ServerReflectionRequest {
        message_request: Some(message),
        ..ServerReflectionRequest::default()
    });
    let stream = client.server_reflection_info(tokio_stream::iter(asked));
    let mut stream = answer(stream).await.expect("a stream");
    let mut next = async || -> ServerReflectionResponse {
        let told = tokio::time::timeout(PATIENCE, stream.message()).await;
        told.expect("in time")
            .expect("no error")
            .expect("an answer")
    };
    let Some(MessageResponse::ListServicesResponse(listed)) = next().await.message_response else {
        panic!("no list");
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|told| told.name.as_str())
        .collect();
    for name in [
        "log.v1.Log",
        "ferrolog.v1.LogService",
        "ferrolog.v1.ClusterService",
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(file)) = next().await.message_response else {
        panic!("no file");
    };
    assert!(!file.file_descriptor_proto.is_empty());
}
