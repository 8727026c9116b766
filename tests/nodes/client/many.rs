//! Batches to several logs in one step: all of them are in their logs, once, or none is.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::client::{
    AppenderOptions, BatchFor, Client, ClientError, ConsumeOptions, LogSettings, Record,
};
use ferrolog::net::Security;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::proto::v1::{
    Fence, GetLimitsRequest, ManyBatch, OpenSessionRequest, ProduceManyRequest,
    ProduceManyResponse, ProduceStreamRequest, SessionSequence,
};
use ferrolog::reason::Reason;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::front::{Front, Plan};
use crate::harness::native;
use crate::harness::world::{ADDRS, PATIENCE, World};

const LOGS: [&str; 3] = ["a", "b", "c"];

async fn make_logs(client: &Client) {
    let admin = client.admin();
    for name in LOGS {
        let made = admin.create_log(name, LogSettings::default()).await;
        made.unwrap();
    }
}

/// A record for each of these logs, which says the call that it is of.
fn of(call: u64, logs: &[&str]) -> Vec<BatchFor> {
    let batch = |log: &&str| BatchFor::new(*log, vec![Record::new(format!("{call}"))]);
    logs.iter().map(batch).collect()
}

/// The values of a log, from its start.
async fn values(client: &Client, log: &str) -> Vec<String> {
    let options = ConsumeOptions {
        consistency: ferrolog::client::Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.log(log).consume(options).unwrap();
    let mut found = Vec::new();
    while let Some(read) = timeout(PATIENCE, consumer.next()).await.unwrap() {
        let value = read.unwrap().record.value;
        found.push(String::from_utf8_lossy(&value).into_owned());
    }
    found
}

fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_are_appended_whole_by_any_node_and_under_lost_leaders() {
    const CALLS: u64 = 60;
    let world = World::new(3).await;
    make_logs(&world.client(&ADDRS)).await;
    let client = world.client(&ADDRS);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    for call in 0..CALLS {
        if call % 20 == 10 {
            let leader = world.leader();
            world.node(leader).log().hand_on().await;
        }
        let appended = appender.append_all(&of(call, &LOGS)).await.unwrap();
        let stands: Vec<_> = appended
            .iter()
            .map(|one| (one.first_offset, one.count))
            .collect();
        assert_eq!(stands, [(call, 1); 3]);
    }
    for addr in ADDRS {
        let client = world.client(&[addr]);
        for log in LOGS {
            assert_eq!(
                values(&client, log).await,
                numbers(CALLS),
                "{log} at {addr}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_is_lost_is_appended_once() {
    let lost = || Plan::Break {
        stored: 1,
        answered: 0,
        status: Status::unavailable("lost on purpose"),
    };
    let world = World::alone(1).await;
    make_logs(&world.client(&ADDRS[..1])).await;
    let plans = [lost(), Plan::Work, lost(), lost(), Plan::Silence];
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    for (call, duplicate) in [(0, true), (1, true), (2, false)] {
        let appended = appender.append_all(&of(call, &["b", "a"])).await.unwrap();
        let told = appended.iter().map(|one| (one.first_offset, one.duplicate));
        let told: Vec<_> = told.collect();
        assert_eq!(told, [(call, duplicate); 2], "call {call}");
    }
    for log in ["a", "b"] {
        assert_eq!(values(&world.client(&ADDRS[..1]), log).await, numbers(3));
    }
}

fn native_of(world: &World, addr: &str) -> native::Client {
    let layer = StreamLayer::new(Arc::new(world.network.named("client")), Security::Insecure);
    native::client(&layer, addr, ChannelOptions::default())
}

struct Raw(native::Client);

impl Raw {
    async fn many(
        &mut self,
        batches: Vec<ManyBatch>,
        session: Option<SessionSequence>,
    ) -> Result<ProduceManyResponse, Status> {
        let request = ProduceManyRequest { batches, session };
        let answer = timeout(PATIENCE, self.0.produce_many(request)).await;
        answer.expect("an answer").map(tonic::Response::into_inner)
    }

    async fn refused(&mut self, batches: Vec<ManyBatch>) -> (Reason, String) {
        let status = self.many(batches, None).await.unwrap_err();
        let reason = Reason::of(&status).expect("a reason");
        (reason, status.message().to_owned())
    }
}

fn batch(log: &str, value: &str) -> ManyBatch {
    ManyBatch {
        log: log.to_owned(),
        batch: Some(native::batch([value.as_bytes().to_vec()])),
        ..ManyBatch::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_fails_is_named_and_nothing_is_appended() {
    let world = World::alone(1).await;
    let client = world.client(&ADDRS[..1]);
    make_logs(&client).await;
    let mut raw = Raw(native_of(&world, ADDRS[0]));
    let claim = client.admin().claim_epoch("job", "me", None).await.unwrap();
    let fence = |epoch| Fence {
        name: "job".to_owned(),
        epoch,
    };
    let at = |log: &str, next| ManyBatch {
        expected_next_offset: Some(next),
        ..batch(log, "0")
    };
    let under = |log: &str, epoch| ManyBatch {
        fence: Some(fence(epoch)),
        ..batch(log, "0")
    };
    let (reason, message) = raw.refused(vec![at("a", 0), at("b", 1), at("c", 0)]).await;
    assert_eq!(reason, Reason::OffsetDiffers);
    assert!(message.contains("to \"b\" (number 1)"), "{message}");
    let (reason, message) = raw
        .refused(vec![batch("a", "0"), under("c", claim.epoch + 1)])
        .await;
    assert_eq!(reason, Reason::Fenced);
    assert!(message.contains("to \"c\" (number 1)"), "{message}");
    for log in LOGS {
        assert!(values(&client, log).await.is_empty(), "{log}");
    }
    let appended = raw
        .many(vec![at("a", 0), under("b", claim.epoch), at("c", 0)], None)
        .await;
    assert_eq!(appended.unwrap().appended.len(), 3);
    for log in LOGS {
        assert_eq!(values(&client, log).await, ["0"], "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_is_refused_with_what_is_wrong_in_it() {
    let world = World::alone(1).await;
    let client = world.client(&ADDRS[..1]);
    make_logs(&client).await;
    let mut raw = Raw(native_of(&world, ADDRS[0]));
    let limits = raw
        .0
        .get_limits(GetLimitsRequest {})
        .await
        .unwrap()
        .into_inner();
    let most = limits.many_batches_max as usize;
    let record_bytes = limits.record_bytes_max as usize / 2;
    let records = limits.batch_bytes_max as usize / record_bytes / 2;
    let large = |log: &str| ManyBatch {
        batch: Some(native::batch(vec![vec![7; record_bytes]; records])),
        ..batch(log, "")
    };
    let without = ManyBatch {
        batch: None,
        ..batch("b", "")
    };
    let bad = [
        (vec![], Reason::InvalidRequest, "not 0"),
        (
            vec![batch("a", "0"); most + 1],
            Reason::InvalidRequest,
            "1 to 100 batches, and no more",
        ),
        (
            vec![batch("a", "0"), batch("a", "1")],
            Reason::InvalidRequest,
            "one batch to each log",
        ),
        (
            vec![batch("", "0"), batch("default", "1")],
            Reason::InvalidRequest,
            "one batch to each log",
        ),
        (
            vec![batch("a", "0"), batch("gone", "1")],
            Reason::NoSuchLog,
            "gone",
        ),
        (
            vec![batch("a", "0"), without],
            Reason::InvalidRequest,
            "no batch",
        ),
        (
            vec![large("a"), large("b")],
            Reason::BatchOverLimit,
            "all of one call",
        ),
    ];
    for (batches, reason, part) in bad {
        let (told, message) = raw.refused(batches).await;
        assert_eq!(told, reason, "{part}: {message}");
        assert!(message.contains(part), "{message}");
    }
    for log in LOGS {
        assert!(values(&client, log).await.is_empty(), "{log}");
    }
    let session = SessionSequence {
        session: 12345,
        sequence: 0,
        secret: vec![1; 16].into(),
    };
    let unknown = raw
        .many(vec![batch("a", "0"), batch("b", "0")], Some(session))
        .await;
    let reason = Reason::of(&unknown.unwrap_err());
    assert_eq!(reason, Some(Reason::SessionExpired));
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_single_batches_and_many_in_its_order() {
    const CALLS: u64 = 200;
    let world = World::new(3).await;
    make_logs(&world.client(&ADDRS)).await;
    let mut client = native_of(&world, ADDRS[1]);
    let secret = bytes::Bytes::from(vec![1; 16]);
    let open = OpenSessionRequest {
        log: String::new(),
        secret: secret.clone(),
    };
    let session = client
        .open_session(open)
        .await
        .unwrap()
        .into_inner()
        .session;
    // Each second request is for all logs, and each is sent twice.
    let request = move |call: u64| {
        let sequence = Some(SessionSequence {
            session,
            sequence: call / 2 * 4 + call % 2,
            secret: secret.clone(),
        });
        let value = call.to_string();
        if call.is_multiple_of(2) {
            let produce = ferrolog::proto::v1::ProduceRequest {
                log: "a".to_owned(),
                batch: batch("a", &value).batch,
                session: sequence,
                ..Default::default()
            };
            return ProduceStreamRequest {
                produce: Some(produce),
                many: None,
            };
        }
        let many = ProduceManyRequest {
            batches: LOGS.map(|log| batch(log, &value)).to_vec(),
            session: sequence,
        };
        ProduceStreamRequest {
            produce: None,
            many: Some(many),
        }
    };
    let twice = (0..CALLS).flat_map(move |call| [request(call), request(call)]);
    let answers = client.produce_stream(tokio_stream::iter(twice)).await;
    let mut answers = answers.unwrap().into_inner();
    let credit = answers.message().await.unwrap().unwrap();
    assert!(credit.credit_batches > 0);
    for number in 0..CALLS * 2 {
        let next = timeout(PATIENCE, answers.message())
            .await
            .expect("an answer");
        let answer = next.unwrap().expect("another answer");
        let (call, again) = (number / 2, number % 2 == 1);
        let told = match (answer.ack, answer.many) {
            (Some(ack), None) if call.is_multiple_of(2) => vec![ack],
            (None, Some(many)) if !call.is_multiple_of(2) => many.appended,
            other => panic!("{call}: {other:?}"),
        };
        assert!(told.iter().all(|one| one.duplicate == again), "{call}");
        let offsets: Vec<_> = told.iter().map(|one| one.first_offset).collect();
        let expected = if call.is_multiple_of(2) {
            vec![call]
        } else {
            vec![call, call / 2, call / 2]
        };
        assert_eq!(offsets, expected, "{call}");
    }
    let client = world.client(&ADDRS);
    assert_eq!(values(&client, "a").await, numbers(CALLS));
    assert_eq!(values(&client, "b").await.len() as u64, CALLS / 2);
    // A message of neither kind ends the stream.
    let nothing = tokio_stream::once(ProduceStreamRequest::default());
    let mut native = native_of(&world, ADDRS[0]);
    let mut answers = native.produce_stream(nothing).await.unwrap().into_inner();
    answers.message().await.unwrap();
    let ended = timeout(Duration::from_secs(60), answers.message()).await;
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn the_client_says_whose_condition_failed() {
    let world = World::alone(1).await;
    let client = world.client(&ADDRS[..1]);
    make_logs(&client).await;
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let record = || vec![Record::new("0")];
    let [a, b] = ["a", "b"].map(|log| BatchFor::new(log, record()));
    let failed = appender
        .append_all(&[a.clone(), b.clone().only_at(9)])
        .await;
    let failed = failed.unwrap_err();
    assert!(
        failed.to_string().contains("to \"b\" (number 1)"),
        "{failed}"
    );
    let nothing = appender.append_all(&[]).await;
    assert!(
        matches!(nothing, Err(ClientError::EmptyBatch)),
        "{nothing:?}"
    );
    // The session goes on.
    let appended = appender.append_all(&[a, b.only_at(0)]).await.unwrap();
    assert!(
        appended
            .iter()
            .all(|one| !one.duplicate && one.first_offset == 0)
    );
}
