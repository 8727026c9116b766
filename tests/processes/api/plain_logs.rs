//! `log.v1` speaks to the log that a call's metadata names: all of its verbs, at any node.

use bytes::Bytes;
use ferrolog::client::{ConsumeOptions, LogSettings};
use ferrolog::proto::log_v1::{ConsumeRequest, ProduceRequest, Record};
use futures::stream;
use tonic::Request;

use crate::harness::native::{self, reason};
use crate::harness::wire::{answer, log_client};
use crate::harness::{Stage, until};

const NAME: &str = "orders/\u{e9}t\u{e9}";

fn to<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if name.is_ascii() {
        metadata.insert("ferrolog-log", name.parse().expect("ASCII"));
    } else {
        let value = tonic::metadata::MetadataValue::from_bytes(name.as_bytes());
        metadata.insert_bin("ferrolog-log-bin", value);
    }
    request
}

fn produce(value: &'static str) -> ProduceRequest {
    let value = Bytes::from_static(value.as_bytes());
    let record = Some(Record {
        value,
        ..Record::default()
    });
    ProduceRequest { record }
}

/// However many nodes and clients append to the name at once, of both APIs, there is one log in the end.
#[tokio::test]
async fn the_first_append_makes_a_log_once_if_the_nodes_are_told_so() {
    let stage = Stage::start_with(&["--create-logs-on-produce", "--logs-max", "3"]).await;
    let append = async |place: usize, plain: bool, name: &'static str| {
        until("an answer", async || {
            let outcome = if plain {
                let mut client = log_client(&stage.cluster, place);
                answer(client.produce(to(name, produce("x"))))
                    .await
                    .map(drop)
            } else {
                let request = ferrolog::proto::v1::ProduceRequest {
                    log: name.to_owned(),
                    batch: Some(native::batch(["x"])),
                    ..Default::default()
                };
                let mut client = native::client_of(&stage, place);
                answer(client.produce(request)).await.map(drop)
            };
            let reason = outcome.as_ref().map_err(reason).err();
            let is_open = reason
                .as_ref()
                .is_some_and(|reason| ["NO_LEADER", "OUTCOME_UNKNOWN"].contains(&&**reason));
            (!is_open).then_some(reason)
        })
        .await
    };
    let at_once = (0..12).map(|number| append(number % 3, number % 2 == 0, "orders"));
    for refused in futures::future::join_all(at_once).await {
        assert_eq!(refused, None);
    }
    let admin = stage.client().admin();
    let orders = admin.get_log("orders").await.expect("there");
    assert!(orders.next_offset >= 12, "{orders:?}");
    assert_eq!(
        append(0, false, "_system").await.as_deref(),
        Some("INVALID_REQUEST")
    );
    assert_eq!(append(1, true, "bills").await, None);
    assert_eq!(
        admin.get_log("bills").await.expect("there").id,
        orders.id + 1,
        "no id was spent"
    );
    assert_eq!(
        append(2, false, "more").await.as_deref(),
        Some("TOO_MANY_LOGS")
    );
    let limits = ferrolog::proto::v1::GetLimitsRequest {};
    let limits = answer(native::client_of(&stage, 0).get_limits(limits)).await;
    assert_eq!(limits.expect("limits").logs_max, 3);
    // A read makes none.
    let read =
        answer(log_client(&stage.cluster, 0).consume(to("read", ConsumeRequest { offset: 0 })))
            .await;
    assert_eq!(reason(&read.expect_err("no log")), "NO_SUCH_LOG");
}

#[tokio::test]
async fn every_verb_of_the_originals_api_speaks_to_the_log_that_is_named() {
    let stage = Stage::start().await;
    let admin = stage.client().admin();
    for name in [NAME, "bills"] {
        let made = admin.create_log(name, LogSettings::default()).await;
        made.expect("made");
    }
    let mut client = log_client(&stage.cluster, 0);
    let appended = async |name: &'static str, value| {
        let call =
            async || answer(log_client(&stage.cluster, 1).produce(to(name, produce(value)))).await;
        until("appended", async || call().await.ok()).await.offset
    };
    assert_eq!(appended(NAME, "a").await, 0);
    assert_eq!(appended("bills", "other").await, 0);
    let values = stream::iter(["b", "c"].map(produce));
    let mut told = answer(client.produce_stream(to(NAME, values)))
        .await
        .expect("a stream");
    for offset in 1..3 {
        let ack = told.message().await.expect("an answer").expect("an answer");
        assert_eq!(ack.offset, offset);
    }

    for place in 0..3 {
        let mut client = log_client(&stage.cluster, place);
        let mut strong = to(NAME, ConsumeRequest { offset: 2 });
        let level = "strong".parse().expect("ASCII");
        strong.metadata_mut().insert("ferrolog-consistency", level);
        let one = answer(client.consume(strong)).await.expect("a record");
        assert_eq!(one.record.expect("a record").value, "c");
        let call = client
            .consume_stream(to(NAME, ConsumeRequest { offset: 0 }))
            .await;
        let call = call.expect("a stream");
        assert_eq!(
            call.metadata().get("ferrolog-next-offset").expect("told"),
            "3"
        );
        let mut records = call.into_inner();
        for expected in ["a", "b", "c"] {
            let next = records
                .message()
                .await
                .expect("an answer")
                .expect("an answer");
            assert_eq!(next.record.expect("a record").value, expected);
        }
        let absent = answer(client.produce(to("absent", produce("x")))).await;
        assert_eq!(reason(&absent.expect_err("no log")), "NO_SUCH_LOG");
        let absent = answer(client.consume(to("absent", ConsumeRequest { offset: 0 }))).await;
        assert_eq!(reason(&absent.expect_err("no log")), "NO_SUCH_LOG");
    }
    // The native API shows the same log, and the default log got nothing.
    let mut native = stage
        .client()
        .log(NAME)
        .consume(ConsumeOptions::default())
        .expect("a consumer");
    let first = native.next().await.expect("a record").expect("a record");
    assert_eq!(first.record.value, "a");
    assert_eq!(
        admin.get_log("default").await.expect("there").next_offset,
        0
    );

    // A stream ends with its log.
    let mut waiting = answer(client.consume_stream(to("bills", ConsumeRequest { offset: 1 })))
        .await
        .expect("a stream");
    let bills = admin.get_log("bills").await.expect("there");
    assert!(admin.delete_log("bills", bills.id).await.expect("deleted"));
    let ended = tokio::time::timeout(crate::harness::PATIENCE, waiting.message()).await;
    assert_eq!(
        reason(&ended.expect("an end").expect_err("deleted")),
        "LOG_DELETED"
    );
}
