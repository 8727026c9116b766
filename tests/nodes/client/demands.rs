//! What a log asks of the records that it takes, and who asks for which log, through every way in.

use ferrolog::client::{AppenderOptions, BatchFor, Client, LogSettings, ProducerOptions, Record};
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::{Kind, Security};
use ferrolog::proto::log_v1;
use ferrolog::proto::log_v1::log_client::LogClient;
use ferrolog::proto::v1::log_service_client::LogServiceClient;
use ferrolog::proto::v1::{
    ConsumeRequest, ConsumeStreamRequest, ConsumeStreamStart, ManyBatch, ProduceManyRequest,
    ProduceRequest, ProduceStreamRequest,
};
use ferrolog::reason::Reason;
use futures::stream;

use crate::harness::native;
use crate::harness::world::{ADDRS, World};

const MOST: usize = 100;

fn small() -> LogSettings {
    LogSettings {
        record_bytes_max: MOST as u32,
        ..LogSettings::default()
    }
}

fn timed() -> LogSettings {
    LogSettings {
        timestamps_required: true,
        ..LogSettings::default()
    }
}

fn of_bytes(bytes: usize) -> Record {
    Record::new("x".repeat(bytes))
}

fn at(ms: u64) -> Record {
    Record {
        client_timestamp_ms: ms,
        ..of_bytes(3)
    }
}

async fn append(client: &Client, log: &str, records: Vec<Record>) -> Option<Reason> {
    let client = client.log(log);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let appended = appender.append(records).await;
    appended.err().and_then(|error| error.reason())
}

async fn next_offset(client: &Client, log: &str) -> u64 {
    client.admin().get_log(log).await.unwrap().next_offset
}

#[tokio::test(start_paused = true)]
async fn a_log_takes_no_record_that_is_not_as_its_settings_ask() {
    let world = World::new(21).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    admin.create_log("small", small()).await.unwrap();
    admin.create_log("timed", timed()).await.unwrap();
    for (log, good, bad, reason) in [
        (
            "small",
            of_bytes(MOST),
            of_bytes(MOST + 1),
            Reason::RecordTooLarge,
        ),
        ("timed", at(5), at(0), Reason::TimestampRequired),
    ] {
        // A batch goes whole or not at all, compressed as it is.
        let batch = vec![good.clone(), bad.clone(), good.clone()];
        assert_eq!(append(&client, log, batch).await, Some(reason), "{log}");
        assert_eq!(append(&client, log, vec![good.clone(); 2]).await, None);
        assert_eq!(append(&client, "default", vec![bad.clone()]).await, None);
        // Nor does a call for several logs.
        let mut appender = client.appender(AppenderOptions::default()).unwrap();
        let both = [
            BatchFor::new("default", vec![good.clone()]),
            BatchFor::new(log, vec![bad.clone()]),
        ];
        let refused = appender.append_all(&both).await.unwrap_err();
        assert_eq!(refused.reason(), Some(reason), "{log}");
        let producer = client.log(log).producer(ProducerOptions::default());
        let sent = producer.unwrap().send(bad).await.unwrap().await;
        assert_eq!(sent.unwrap_err().reason(), Some(reason), "{log}");
        assert_eq!(next_offset(&client, log).await, 2, "{log}");
    }
    assert_eq!(next_offset(&client, "default").await, 2);
}

#[tokio::test(start_paused = true)]
async fn log_v1_keeps_to_what_a_log_asks_for() {
    let world = World::alone(22).await;
    let client = world.client(&ADDRS[..1]);
    let admin = client.admin();
    admin.create_log("small", small()).await.unwrap();
    admin.create_log("timed", timed()).await.unwrap();
    let network = std::sync::Arc::new(world.network.named("client"));
    let layer = StreamLayer::new(network, Security::Insecure);
    let channel = layer.channel(Kind::Grpc, ADDRS[0], ChannelOptions::default());
    let mut original = LogClient::new(channel);
    let produce = |log: &'static str, bytes: usize| {
        let record = log_v1::Record {
            value: vec![b'x'; bytes].into(),
            ..log_v1::Record::default()
        };
        let mut request = tonic::Request::new(log_v1::ProduceRequest {
            record: Some(record),
        });
        let name = log.parse().unwrap();
        request.metadata_mut().insert("ferrolog-log", name);
        request
    };
    for (log, bytes, reason) in [
        ("small", MOST, None),
        ("small", MOST + 1, Some("RECORD_TOO_LARGE")),
        ("timed", 1, Some("TIMESTAMP_REQUIRED")),
    ] {
        let told = original.produce(produce(log, bytes)).await.err();
        let told = told.map(|status| native::reason(&status));
        assert_eq!(told.as_deref(), reason, "{log}");
    }
    // What is set meanwhile holds for what comes then.
    let known = admin.get_log("small").await.unwrap();
    let free = LogSettings::default();
    let set = admin.update_log("small", free, Some(known.epoch)).await;
    assert_eq!(set.unwrap().settings.record_bytes_max, 0);
    original.produce(produce("small", MOST + 1)).await.unwrap();
}

/// A log may hold records that were taken under a higher limit.
#[tokio::test(start_paused = true)]
async fn what_the_nodes_take_does_not_limit_what_they_answer() {
    let world = World::alone(25).await;
    let client = world.client(&ADDRS[..1]);
    let most = client.admin().limits().await.unwrap().message_bytes_max as usize;
    let batch = vec![of_bytes(7_000); 20];
    let enough = most / (20 * 7_000) + 2;
    for _ in 0..enough {
        assert_eq!(append(&client, "default", batch.clone()).await, None);
    }
    let network = std::sync::Arc::new(world.network.named("client"));
    let layer = StreamLayer::new(network, Security::Insecure);
    let channel = layer.channel(Kind::Grpc, ADDRS[0], ChannelOptions::default());
    let mut reader = LogServiceClient::new(channel);
    let request = ConsumeRequest {
        start: native::at(0),
        bytes_max: 2 * most as u32,
        ..ConsumeRequest::default()
    };
    let told = reader.consume(request).await.expect("an answer");
    let batches = told.get_ref().batches.iter();
    let bytes = batches.filter_map(|stored| Some(stored.batch.as_ref()?.records.len()));
    assert!(bytes.sum::<usize>() > most);
}

#[tokio::test(start_paused = true)]
async fn no_log_is_set_to_take_more_than_the_nodes_do() {
    let world = World::alone(23).await;
    let client = world.client(&ADDRS[..1]);
    let admin = client.admin();
    let limits = admin.limits().await.unwrap();
    let of = |most: u64| LogSettings {
        record_bytes_max: u32::try_from(most).unwrap(),
        ..LogSettings::default()
    };
    let most = limits.record_bytes_max;
    let refused = admin.create_log("a", of(most + 1)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::InvalidRequest));
    assert!(refused.to_string().contains(&most.to_string()), "{refused}");
    let made = admin.create_log("a", of(most)).await.unwrap();
    assert_eq!(made.settings, of(most));
    let refused = admin.update_log("a", of(u64::from(u32::MAX)), None).await;
    assert_eq!(refused.unwrap_err().reason(), Some(Reason::InvalidRequest));
    assert_eq!(admin.get_log("a").await.unwrap().settings, of(most));
}

#[tokio::test(start_paused = true)]
async fn who_names_the_id_that_a_log_had_reaches_no_log_that_was_made_anew() {
    let world = World::new(24).await;
    let client = world.client(&ADDRS);
    let admin = client.admin();
    let settings = LogSettings::default();
    let old = admin.create_log("a", settings.clone()).await.unwrap().id;
    assert!(admin.delete_log("a", old).await.unwrap());
    let new = admin.create_log("a", settings).await.unwrap().id;
    let network = std::sync::Arc::new(world.network.named("client"));
    let layer = StreamLayer::new(network, Security::Insecure);
    let log = "a".to_owned();
    for addr in ADDRS {
        let mut client = native::client(&layer, addr, ChannelOptions::default());
        let mut told = Vec::new();
        for id in [old, new + 1, new] {
            let one = ProduceRequest {
                log: log.clone(),
                log_id: Some(id),
                batch: Some(native::batch(["x"])),
                ..ProduceRequest::default()
            };
            let many = ProduceManyRequest {
                batches: vec![ManyBatch {
                    log: log.clone(),
                    log_id: Some(id),
                    batch: one.batch.clone(),
                    ..ManyBatch::default()
                }],
                ..ProduceManyRequest::default()
            };
            let piped = ProduceStreamRequest {
                produce: Some(one.clone()),
                ..ProduceStreamRequest::default()
            };
            let read = ConsumeRequest {
                log: log.clone(),
                log_id: Some(id),
                ..ConsumeRequest::default()
            };
            let start = ConsumeStreamRequest {
                start: Some(ConsumeStreamStart {
                    log: log.clone(),
                    log_id: Some(id),
                    ..ConsumeStreamStart::default()
                }),
                ..ConsumeStreamRequest::default()
            };
            let piped = client.produce_stream(stream::iter([piped])).await;
            let mut piped = piped.unwrap().into_inner();
            piped.message().await.unwrap();
            let tail = client.consume_stream(stream::iter([start])).await;
            let statuses = [
                client.produce(one).await.err(),
                client.produce_many(many).await.err(),
                piped.message().await.err(),
                client.consume(read).await.err(),
                tail.unwrap().into_inner().message().await.err(),
            ];
            told.push(statuses.map(|status| status.map(|status| native::reason(&status))));
        }
        let all = |reason: Option<&str>| [(); 5].map(|()| reason.map(str::to_owned));
        let wanted = [Some("LOG_DELETED"), Some("NO_SUCH_LOG"), None].map(all);
        assert_eq!(told, wanted, "{addr}");
    }
    assert_eq!(next_offset(&client, "a").await, 9, "three by each node");

    // A claim tells the end of the log that it names.
    let claim = client.log("a").admin().claim_epoch("job", "me", None).await;
    assert_eq!(claim.unwrap().next_offset, 9);
    let claim = admin.claim_epoch("job", "you", None).await.unwrap();
    assert_eq!((claim.epoch, claim.next_offset), (2, 0));
    let gone = client.log("b").admin().claim_epoch("job", "me", None).await;
    assert_eq!(gone.unwrap_err().reason(), Some(Reason::NoSuchLog));
}
