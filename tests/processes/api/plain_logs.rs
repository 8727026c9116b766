//! `log.v1` speaks to the log that a call's metadata names: all of its verbs, at any node.

use bytes::Bytes;
use ferrolog::client::{ConsumeOptions, LogSettings};
use ferrolog::proto::log_v1::{ConsumeRequest, ProduceRequest, Record};
use futures::stream;
use tonic::Request;

use crate::harness::native::reason;
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
