//! Single calls, and what is refused: every status gives a reason.

use super::*;

#[tokio::test]
async fn a_record_comes_back_whole_under_its_own_offset() {
    let mut served = served().await;
    for offset in 0..3 {
        let response = served.client.produce(produce(b"value")).await.unwrap();
        assert_eq!(response.into_inner().offset, offset);
    }
    let record = served
        .client
        .consume(ConsumeRequest { offset: 2 })
        .await
        .unwrap();
    let record = record.into_inner().record.unwrap();
    let expected = WireRecord {
        offset: 2,
        ..produce(b"value").record.unwrap()
    };
    assert_eq!(record, expected);
}

/// A node that lags sends a batch to the log that had the name before.
#[tokio::test]
async fn a_log_that_was_made_anew_is_reached_by_the_same_call() {
    let mut served = served().await;
    *served.bare.name.lock() = Name::Gone { is_anew: true };
    let status = served.client.produce(produce(b"value")).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::Lagging), "{status:?}");
    assert_eq!(Reason::Lagging.done(), reason::Done::Nothing);
    let response = served.client.produce(produce(b"value")).await.unwrap();
    assert_eq!(response.into_inner().offset, 0);

    *served.bare.name.lock() = Name::Gone { is_anew: true };
    let two = futures::stream::iter([produce(b"one"), produce(b"two")]);
    let answers = served.client.produce_stream(two).await.unwrap();
    let ended = answers.into_inner().message().await.unwrap_err();
    assert_eq!(Reason::of(&ended), Some(Reason::Lagging), "{ended:?}");

    *served.bare.name.lock() = Name::Gone { is_anew: false };
    let status = served.client.produce(produce(b"value")).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::LogDeleted), "{status:?}");
}

#[tokio::test]
async fn past_the_end_is_404_with_its_details() {
    let mut served = served().await;
    let status = served
        .client
        .consume(ConsumeRequest { offset: 7 })
        .await
        .unwrap_err();
    // The client's type has no 404; the number reaches it as unknown, the details as they are.
    assert_eq!(status.code(), Code::Unknown);
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    assert_eq!(details.code, 404);
    let any = &details.details[0];
    let text = tonic_types::pb::LocalizedMessage::decode(&*any.value).unwrap();
    assert!(
        text.message.ends_with(": 7") && text.locale == "en-US",
        "{text:?}"
    );
    assert!(
        status.metadata().get(status::NUMBER).is_none(),
        "the number has moved"
    );
    // A machine reads the reason, as in the native API.
    let info = reason::info(&status).expect("an ErrorInfo beside it");
    assert_eq!(info.reason, Reason::OffsetOutOfRange.name());
    assert_eq!(info.metadata["next_offset"], "0");
}

/// What a call gets whose deadline is over before its message has come. The client's library would give up first:
/// so this call is made without it.
async fn late(layer: &StreamLayer) -> tonic::Status {
    let io = layer.dial(crate::net::Kind::Grpc, "127.0.0.1:1", PATIENCE);
    let handshake = h2::client::handshake(io.await.unwrap());
    let (mut requests, connection) = handshake.await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post("https://localhost/log.v1.Log/Produce")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "1m");
    let (answer, mut body) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data(Bytes::new(), false).unwrap();
    let answer = answer.await.unwrap();
    driver.abort();
    tonic::Status::from_header_map(answer.headers()).expect("a status")
}

/// What the library answers by itself has a reason, too, and keeps to the limit of headers.
#[tokio::test]
async fn every_status_gives_a_reason() {
    let served = served().await;
    let path = |path: &'static str| http::uri::PathAndQuery::from_static(path);
    let mut grpc = tonic::client::Grpc::new(served.layer.channel(
        crate::net::Kind::Grpc,
        "127.0.0.1:1",
        ChannelOptions::default(),
    ));
    let codec = tonic_prost::ProstCodec::<Bytes, Bytes>::default;
    for (at, message, reason) in [
        ("/log.v1.Log/Nothing", "x", Reason::NoSuchMethod),
        ("/no.such.Service/Nothing", "x", Reason::NoSuchMethod),
        (
            "/log.v1.Log/Produce",
            "\u{7f}\u{7f}",
            Reason::MalformedMessage,
        ),
    ] {
        grpc.ready().await.unwrap();
        let request = Request::new(Bytes::from_static(message.as_bytes()));
        let answer: Result<tonic::Response<Bytes>, _> =
            grpc.unary(request, path(at), codec()).await;
        let status = answer.unwrap_err();
        assert_eq!(Reason::of(&status), Some(reason), "{at}: {status:?}");
        assert_eq!(status.code(), reason.code(), "{at}");
    }
    let status = late(&served.layer).await;
    assert_eq!(Reason::of(&status), Some(Reason::TimedOut), "{status:?}");
    let mut client = served.client.clone();
    // A long text comes back short.
    let request = with(produce(b"x"), &[("ferrolog-session", &"9".repeat(5_000))]);
    let status = client.produce(request).await.unwrap_err();
    assert_eq!(
        Reason::of(&status),
        Some(Reason::InvalidRequest),
        "{status:?}"
    );
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let mut served = served().await;
    let client = &mut served.client;
    let missing = client
        .produce(ProduceRequest { record: None })
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    let large = client.produce(produce(&[0; LIMIT + 1])).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    assert!(
        large.message().contains("1001 bytes"),
        "{}",
        large.message()
    );
    client.produce(produce(&[0; LIMIT])).await.unwrap();
    let session = "0".repeat(32);
    let all = |session, secret, sequence| {
        let names = ["ferrolog-session", "ferrolog-secret", "ferrolog-sequence"];
        [0, 1, 2].map(|place| (names[place], [session, secret, sequence][place]))
    };
    for pairs in [
        &[("ferrolog-session", &*session)][..],
        &[("ferrolog-sequence", "0")],
        &[("ferrolog-session", &*session), ("ferrolog-sequence", "0")],
        &[("ferrolog-secret", &*session), ("ferrolog-sequence", "0")],
        &all("xyz", &session, "0"),
        &all(&session, "xyz", "0"),
        &all(&session, &session, "-1"),
    ] {
        let refused = client
            .produce(with(produce(b"x"), pairs))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{pairs:?}");
    }
    let offset = ConsumeRequest { offset: 0 };
    let odd = client
        .consume(with(offset, &[("ferrolog-consistency", "eventual")]))
        .await;
    assert_eq!(odd.unwrap_err().code(), Code::InvalidArgument);
    let strong = client
        .consume(with(offset, &[("ferrolog-consistency", "strong")]))
        .await;
    assert_eq!(
        strong.unwrap_err().code(),
        Code::Unavailable,
        "the barrier is asked"
    );
}

/// Which log a call is about is said once, and in a name.
#[tokio::test]
async fn a_bad_name_of_a_log_is_refused_before_anything_is_done() {
    let mut served = served().await;
    let long = "x".repeat(129);
    for bad in [
        &[("ferrolog-log", "")][..],
        &[("ferrolog-log", &*long)],
        &[("ferrolog-log", "a"), ("ferrolog-log", "b")],
    ] {
        let mut request = Request::new(produce(b"x"));
        for (key, value) in bad {
            request.metadata_mut().append(*key, value.parse().unwrap());
        }
        let refused = served.client.produce(request).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_REQUEST", "{bad:?}");
        let requests = with(futures::stream::iter([produce(b"x")]), &bad[..1]);
        let refused = served.client.produce_stream(requests).await;
        // With the one value of the last row it is a log that is not there, as far as anybody knows.
        assert!(refused.is_err(), "{bad:?}");
        let read = with(ConsumeRequest { offset: 0 }, &bad[..1]);
        assert!(served.client.consume_stream(read).await.is_err());
    }
    let mut request = Request::new(produce(b"x"));
    let bytes = tonic::metadata::MetadataValue::from_bytes(b"\xff\xfe");
    request.metadata_mut().insert_bin("ferrolog-log-bin", bytes);
    let refused = served.client.produce(request).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REQUEST");
    let other = with(produce(b"x"), &[("ferrolog-log", "other")]);
    let refused = served.client.produce(other).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_LEADER", "the leader is asked first");
    assert_eq!(served.bare.log.offsets(LogId::DEFAULT).1, Offset(0));
}

fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("no reason: {status:?}"))
        .reason
}

#[tokio::test]
async fn what_never_comes_to_a_verb_is_refused_with_a_reason_too() {
    let mut served = served().await;
    // Too long as a message, so that nobody reads the record in it.
    let large = || produce(&[0; 100 * LIMIT]);
    let status = served.client.produce(large()).await.unwrap_err();
    let found = (status.code(), reason(&status));
    let expected = (Code::InvalidArgument, "RECORD_TOO_LARGE".to_owned());
    assert_eq!(found, expected);
    let requests = futures::stream::iter([produce(b"fine"), large(), produce(b"late")]);
    let answers = served.client.produce_stream(requests).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers[0].as_ref().unwrap().offset, 0);
    assert_eq!(reason(answers[1].as_ref().unwrap_err()), "RECORD_TOO_LARGE");
    assert_eq!(answers.len(), 2);

    let zipped = with(produce(b"x"), &[("grpc-encoding", "gzip")]);
    let status = served.client.produce(zipped).await.unwrap_err();
    let found = (status.code(), reason(&status));
    let expected = (Code::Unimplemented, "UNSUPPORTED_ENCODING".to_owned());
    assert_eq!(found, expected);
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted.unwrap(), "identity");
    let plain = with(produce(b"x"), &[("grpc-encoding", "identity")]);
    served.client.produce(plain).await.unwrap();
    assert_eq!(served.bare.log.offsets(LogId::DEFAULT).1, Offset(2));
}
