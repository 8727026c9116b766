//! Limits of the native API over real nodes: `GetLimits` tells each, and a request over it is refused with a reason.

use bytes::Bytes;
use ferrolog::batch::{self, Builder, Compression, Record};
use ferrolog::cli::local_cluster::Signal;
use ferrolog::proto::v1::selection::Of;
use ferrolog::proto::v1::{
    Batch, ConsumeStreamStart, GetLimitsRequest, GetLimitsResponse, LogNames, ProduceRequest,
    Selection,
};
use tokio::task::JoinSet;
use tonic::metadata::AsciiMetadataKey;
use tonic::{Code, Status};

use crate::harness::native::{self, Client};
use crate::harness::wire::answer;
use crate::harness::{Stage, refused, until};

async fn limits(client: &mut Client) -> GetLimitsResponse {
    let told = answer(client.get_limits(GetLimitsRequest {})).await;
    told.expect("limits")
}

async fn produce(client: &mut Client, batch: Batch) -> Result<u64, Status> {
    let request = ProduceRequest {
        batch: Some(batch),
        ..ProduceRequest::default()
    };
    Ok(answer(client.produce(request)).await?.first_offset)
}

/// A batch of one record.
fn one(record: &Record) -> Batch {
    let mut builder = Builder::default();
    builder.push(record);
    let (records, count) = builder.take();
    Batch {
        records,
        count,
        ..Batch::default()
    }
}

fn zeros(bytes: u64) -> Bytes {
    vec![0; usize::try_from(bytes).expect("a 64-bit machine")].into()
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_and_what_is_just_under_it_taken() {
    let stage = Stage::start_alone().await;
    let mut client = native::client_of(&stage, stage.leader().await);
    let limits = limits(&mut client).await;
    let header = |value: Bytes| batch::Header {
        name: "h".to_owned(),
        value,
    };
    let value = |bytes| Record::from(zeros(bytes));
    let key = |bytes| Record {
        key: Some(zeros(bytes)),
        ..Record::default()
    };
    let headers = |count: u32, bytes| Record {
        headers: vec![header(zeros(bytes)); count as usize],
        ..Record::default()
    };
    let (most, key_max) = (limits.record_bytes_max, limits.key_bytes_max.into());
    let (many, header_max) = (limits.headers_max, u64::from(limits.header_bytes_max));
    let fine = [
        value(most),
        key(key_max),
        headers(many, 1),
        headers(1, header_max - 1),
    ];
    for (number, record) in fine.iter().enumerate() {
        let taken = produce(&mut client, one(record)).await;
        assert_eq!(taken.expect("it is within the limits"), number as u64);
    }
    let packed = |bytes: &Bytes| batch::compress(bytes, Compression::Zstd).expect("it is small");
    let bomb = packed(&one(&value(64 << 20)).records);
    let over = [
        one(&value(most + 1)),
        one(&key(key_max + 1)),
        one(&headers(many + 1, 1)),
        one(&headers(1, header_max)),
        Batch {
            records: bomb,
            count: 1,
            compression: Compression::Zstd as i32,
        },
    ];
    for batch in over {
        let status = refused(produce(&mut client, batch).await, "it is over a limit");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(native::reason(&status), "BATCH_OVER_LIMIT", "{status:?}");
    }
    let whole = one(&value(9));
    let not_batches = [
        Batch {
            count: 2,
            ..whole.clone()
        },
        Batch {
            count: 0,
            records: Bytes::new(),
            ..whole.clone()
        },
        Batch {
            compression: 9,
            ..whole.clone()
        },
        Batch {
            compression: Compression::Lz4 as i32,
            ..whole.clone()
        },
        Batch {
            records: packed(&zeros(64 << 20)),
            compression: Compression::Zstd as i32,
            ..whole.clone()
        },
        Batch {
            records: zeros(9),
            ..whole
        },
    ];
    for batch in not_batches {
        let status = refused(produce(&mut client, batch).await, "it is no batch");
        assert_eq!(native::reason(&status), "INVALID_BATCH", "{status:?}");
    }
    let status = stage.status(0).await;
    assert_eq!(
        status.next_offset,
        fine.len() as u64,
        "nothing else was appended"
    );
}

#[tokio::test]
async fn too_much_under_way_is_refused_and_later_taken() {
    const BYTES: u64 = 4_000_000;
    const CALLS: u64 = 12;
    let stage = Stage::start_alone().await;
    let leader = stage.leader().await;
    let mut client = native::client_of(&stage, leader);
    let limits = limits(&mut client).await;
    let fit = limits.connection_bytes_in_flight_max / BYTES;
    assert!(fit < CALLS, "{fit} calls fit");
    // Without a majority no batch is answered, so all of them stay under way.
    let others = stage.others(leader);
    for &place in &others {
        stage.cluster.signal(place, Signal::STOP).expect("frozen");
    }
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let mut client = client.clone();
        calls.spawn(async move { produce(&mut client, one(&Record::from(zeros(BYTES)))).await });
    }
    for _ in 0..CALLS - fit {
        let first = calls.join_next().await.expect("a call").expect("no panic");
        let status = refused(first, "it is too much");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(native::reason(&status), "IN_FLIGHT_LIMIT", "{status:?}");
    }
    for &place in &others {
        stage.cluster.signal(place, Signal::CONT).expect("awake");
    }
    let mut appended = 0;
    while let Some(call) = calls.join_next().await {
        match call.expect("no panic") {
            Ok(_) => appended += 1,
            // An election came in between.
            Err(status) => assert_ne!(native::reason(&status), "IN_FLIGHT_LIMIT"),
        }
    }
    let last = until("there is room again", async || {
        let batch = one(&Record::from(zeros(BYTES)));
        produce(&mut client, batch).await.ok()
    })
    .await;
    assert!(last >= appended, "{last} after {appended}");
}

/// A stream by prefix remembers names, and there may be many streams.
#[tokio::test]
async fn streams_by_prefix_count_for_what_they_remember() {
    let stage = Stage::start_alone().await;
    let mut client = native::client_of(&stage, 0);
    let start = |of| ConsumeStreamStart {
        selection: Some(Selection { of: Some(of) }),
        consistency: native::relaxed(),
        ..ConsumeStreamStart::default()
    };
    let by_prefix = start(Of::Prefix("many/".to_owned()));
    let mut open = Vec::new();
    let status = loop {
        match native::Stream::open(&mut client, by_prefix.clone(), 1000).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
        assert!(open.len() < 100, "what they hold is not counted");
    };
    assert_eq!(native::reason(&status), "IN_FLIGHT_LIMIT", "{status:?}");
    assert!(open.len() > 50, "{} streams fit", open.len());
    let names = vec!["default".to_owned()];
    let named = native::Stream::open(&mut client, start(Of::Logs(LogNames { names })), 1000).await;
    named.expect("what it holds is what its request told");
    open.pop();
    until("there is room again", async || {
        let again = native::Stream::open(&mut client, by_prefix.clone(), 1000).await;
        again.ok()
    })
    .await;
}

/// Metadata of a request that is too long is refused in words, and harms nobody else on the connection.
#[tokio::test]
async fn long_metadata_is_refused_and_the_connection_goes_on() {
    let stage = Stage::start_alone().await;
    let mut client = native::client_of(&stage, 0);
    let start = ConsumeStreamStart {
        start: native::at(0),
        consistency: native::relaxed(),
        ..ConsumeStreamStart::default()
    };
    let opened = native::Stream::open(&mut client, start, 1000).await;
    let (mut beside, _) = opened.expect("a stream");
    let call = |sizes: &[usize]| {
        let mut request = tonic::Request::new(GetLimitsRequest {});
        for (number, size) in sizes.iter().enumerate() {
            let key = format!("x-{number}").parse::<AsciiMetadataKey>();
            let value = "v".repeat(*size).parse().expect("a value");
            request.metadata_mut().insert(key.expect("a key"), value);
        }
        let mut client = client.clone();
        async move { client.get_limits(request).await }
    };
    call(&[15_000]).await.expect("it is within the limit");
    for sizes in [&[17_000][..], &[70_000], &[35_000, 35_000], &[8_000; 9]] {
        let status = refused(call(sizes).await, "it is too much");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(native::reason(&status), "METADATA_TOO_LARGE", "{status:?}");
        let limit = native::detail(&status, "limit_bytes");
        assert_eq!(limit, Some(16 << 10));
    }
    // The transport refuses metadata far above the limit.
    call(&[100_000]).await.expect_err("it is far too much");
    let mut producer = client.clone();
    native::produce(&mut producer, b"on").await.expect("an ack");
    let mut next = 0;
    while next == 0 {
        next = beside.next().await.expect("the stream goes on").next_offset;
    }
}
