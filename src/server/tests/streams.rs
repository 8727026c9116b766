//! Streams: answered in order, in batches, and ended with a word.

use super::*;

#[tokio::test]
async fn a_stream_is_answered_in_order_and_in_batches() {
    let mut served = served().await;
    let requests: Vec<_> = (0..5000_u64)
        .map(|number| produce(&number.to_le_bytes()))
        .collect();
    let answers = served
        .client
        .produce_stream(futures::stream::iter(requests))
        .await;
    let answers: Vec<_> = answers
        .unwrap()
        .into_inner()
        .map(|answer| answer.unwrap().offset)
        .collect()
        .await;
    assert_eq!(answers, (0..5000).collect::<Vec<_>>());
    let log = &served.bare;
    let batches = log.batches.lock().clone();
    assert!(batches.len() < 2500, "{} batches", batches.len());
    for offset in [0, 1234, 4999] {
        let read = log.log.read(LogId::DEFAULT, Offset(offset), 1).unwrap();
        assert_eq!(read[0].value, offset.to_le_bytes()[..]);
    }
}

#[tokio::test]
async fn a_bad_record_ends_its_stream_and_nothing_before_it() {
    let mut served = served().await;
    let requests = [
        produce(b"a"),
        produce(b"b"),
        produce(&[0; LIMIT + 1]),
        produce(b"c"),
    ];
    let answers = served
        .client
        .produce_stream(futures::stream::iter(requests))
        .await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    let offsets: Vec<_> = answers
        .iter()
        .flatten()
        .map(|answer| answer.offset)
        .collect();
    assert_eq!(offsets, [0, 1]);
    let status = answers.last().unwrap().as_ref().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        served.bare.log.offsets(LogId::DEFAULT).1,
        Offset(2),
        "c was not appended"
    );
}

#[tokio::test]
async fn a_stream_waits_at_the_tail_and_ends_when_the_node_stops() {
    let mut served = served().await;
    served.client.produce(produce(b"old")).await.unwrap();
    let stream = served
        .client
        .consume_stream(ConsumeRequest { offset: 1 })
        .await
        .unwrap();
    assert_eq!(stream.metadata().get("ferrolog-first-offset").unwrap(), "0");
    assert_eq!(stream.metadata().get("ferrolog-next-offset").unwrap(), "1");
    let mut stream = stream.into_inner();
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let answers = served
        .client
        .produce_stream(ReceiverStream::new(sent))
        .await
        .unwrap();
    requests.send(produce(b"new")).await.unwrap();
    let record = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.unwrap().record.unwrap().value, "new");

    served.drain.send_replace(true);
    let end = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    let answers: Vec<_> = tokio::time::timeout(PATIENCE, answers.into_inner().collect())
        .await
        .unwrap();
    assert_eq!(answers[0].as_ref().unwrap().offset, 1);
    assert_eq!(answers[1].as_ref().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_once_it_had_no_call_for_long_and_not_before() {
    // One from one address.
    let limits = MuxLimits {
        clients_max: 2,
        ..MuxLimits::default()
    };
    let mut served = served_on(limits).await;
    let (mut first, mut other) = (client(&served.layer), client(&served.layer));
    served.client.produce(produce(b"first")).await.unwrap();
    let asked = served.client.consume_stream(ConsumeRequest { offset: 0 });
    let mut records = asked.await.unwrap().into_inner();
    records.message().await.unwrap().expect("the first record");
    tokio::time::sleep(limits.idle_timeout * 3).await;
    let refused = other.produce(produce(b"refused")).await.unwrap_err();
    let told = format!("{refused:?}");
    assert!(told.contains("connections from one address"), "{told}");
    served.client.produce(produce(b"second")).await.unwrap();
    records.message().await.unwrap().expect("the second record");

    drop(records);
    tokio::time::sleep(limits.idle_timeout * 2).await;
    first
        .produce(produce(b"third"))
        .await
        .expect("a place is free");
}
