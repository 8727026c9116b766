//! Whose sessions, fences and cursors are: no client uses, ends or uses up what another one began.
//!
//! Each refusal stands beside the same act done rightly, so that it cannot pass because nothing works at all.

use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{Client as Producers, ProducerOptions};
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::ChannelOptions;
use ferrolog::proto::log_v1::log_client::LogClient;
use ferrolog::proto::log_v1::{ProduceRequest as PlainRequest, Record};
use ferrolog::proto::v1::cluster_service_client::ClusterServiceClient;
use ferrolog::proto::v1::{
    ClaimEpochRequest, CloseSessionRequest, CommitCursorRequest, DeleteCursorRequest,
    DeleteFenceRequest, Fence, GetCursorRequest, GetEpochRequest, GetLimitsRequest,
    ListCursorsRequest, ListFencesRequest, ListSessionsRequest, OpenSessionRequest, ProduceRequest,
    ProduceResponse, SessionSequence, TransferLeadershipRequest,
};
use futures::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::native::{self, Client, detail, reason};
use crate::harness::wire::answer;
use crate::harness::{PATIENCE, Stage, command, refused, until};

const POLICY: &str = "\
p, alice, *, produce
p, alice, *, consume
p, mallory, *, produce
p, mallory, *, consume
p, reader, *, consume
p, committer, *, commit
p, admin, *, admin
";
const CLIENTS: [&str; 5] = ["alice", "mallory", "reader", "committer", "admin"];

async fn stage() -> Stage {
    Stage::start_under(POLICY, &CLIENTS).await
}

fn client(stage: &Stage, name: &str, place: usize) -> Client {
    let options = ChannelOptions::default();
    native::client(&stage.layer_of(name), stage.cluster.addr(place), options)
}

fn plain_client(stage: &Stage, name: &str, place: usize) -> LogClient<Channel> {
    let (layer, options) = (stage.layer_of(name), ChannelOptions::default());
    LogClient::new(layer.channel(Kind::Grpc, stage.cluster.addr(place), options))
}

/// Calls until the outcome is known, since a leader that is lost on the way leaves it open. The call must be one
/// that may be made twice. Tells whether it was.
async fn settled<T>(call: impl AsyncFn() -> Result<T, Status>) -> (Result<T, Status>, bool) {
    let mut again = false;
    let outcome = until("a known outcome", async || {
        let outcome = call().await;
        let open = |status: &Status| {
            let reason = reason(status);
            reason == "OUTCOME_UNKNOWN" || reason == "NO_LEADER"
        };
        if outcome.as_ref().is_err_and(open) {
            again = true;
            return None;
        }
        Some(outcome)
    });
    let outcome = outcome.await;
    (outcome, again)
}

fn secret(byte: u8) -> Bytes {
    vec![byte; 16].into()
}

async fn open(client: &mut Client, secret: &Bytes) -> Result<u64, Status> {
    let request = OpenSessionRequest {
        secret: secret.clone(),
        ..OpenSessionRequest::default()
    };
    let call = async || answer(client.clone().open_session(request.clone())).await;
    Ok(settled(call).await.0?.session)
}

async fn close(client: &mut Client, session: u64, secret: Bytes) -> Result<(), Status> {
    let request = CloseSessionRequest {
        session,
        secret,
        ..CloseSessionRequest::default()
    };
    let call = async || answer(client.clone().close_session(request.clone())).await;
    settled(call).await.0.map(drop)
}

/// Appends a batch under a session.
async fn produce(
    client: &mut Client,
    (session, secret): (u64, &Bytes),
    sequence: u64,
    values: &[&'static str],
) -> Result<ProduceResponse, Status> {
    let request = ProduceRequest {
        batch: Some(native::batch(values.iter().copied())),
        session: Some(SessionSequence {
            session,
            sequence,
            secret: secret.clone(),
        }),
        ..ProduceRequest::default()
    };
    let call = async || answer(client.clone().produce(request.clone())).await;
    settled(call).await.0
}

/// Appends a record of `log.v1` under a session.
async fn produce_plain(
    client: &mut LogClient<Channel>,
    (session, secret): (u64, &Bytes),
    sequence: u64,
    value: &'static str,
) -> Result<u64, Status> {
    let value = Bytes::from_static(value.as_bytes());
    let record = Some(Record {
        value,
        ..Record::default()
    });
    let mut request = Request::new(PlainRequest { record });
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for (key, value) in [
        ("ferrolog-session", format!("{session:032x}")),
        ("ferrolog-secret", secret),
        ("ferrolog-sequence", sequence.to_string()),
    ] {
        let value = value.parse().expect("metadata in ASCII");
        request.metadata_mut().insert(key, value);
    }
    Ok(answer(client.produce(request)).await?.offset)
}

async fn values(stage: &Stage) -> Vec<Bytes> {
    let records = stage.read_all(0, ferrolog::client::Consistency::Strong);
    let records = records.await.into_iter();
    records.map(|record| record.value).collect()
}

fn assert_refused(status: &Status, code: Code, why: &str) {
    assert_eq!((status.code(), &*reason(status)), (code, why), "{status:?}");
}

#[tokio::test]
async fn nothing_comes_under_the_session_of_another_client() {
    let stage = stage().await;
    let (hers, guessed) = (secret(1), secret(2));
    let mut alice = client(&stage, "alice", 0);
    let session = open(&mut alice, &hers).await.expect("a session");
    let first = produce(&mut alice, (session, &hers), 0, &["a0", "a1"]).await;
    assert_eq!(first.expect("appended").first_offset, 0);

    // The number is a guess away, and the secret may have been seen somewhere.
    for place in 0..3 {
        let mut mallory = client(&stage, "mallory", place);
        let mut plain = plain_client(&stage, "mallory", place);
        for secret in [&guessed, &hers] {
            let under = (session, secret);
            let stolen = produce(&mut mallory, under, 2, &["m"]).await;
            let stolen = refused(stolen, "a batch under her session");
            assert_refused(&stolen, Code::PermissionDenied, "NOT_OWNER");
            let stolen = produce_plain(&mut plain, under, 2, "m").await;
            let stolen = refused(stolen, "a record under her session");
            assert_refused(&stolen, Code::PermissionDenied, "NOT_OWNER");
            let closed = refused(close(&mut mallory, session, secret.clone()).await, "closed");
            assert_refused(&closed, Code::PermissionDenied, "NOT_OWNER");
        }
        let closed = refused(close(&mut mallory, session, Bytes::new()).await, "closed");
        assert_refused(&closed, Code::PermissionDenied, "DENIED");
        let of_his_own = open(&mut mallory, &hers).await.expect("a session");
        assert_ne!(
            of_his_own, session,
            "her secret under his name opens another"
        );
    }
    // Alice herself is refused without her secret.
    let forgot = produce(&mut alice, (session, &guessed), 2, &["a2"]).await;
    assert_refused(
        &refused(forgot, "no secret"),
        Code::PermissionDenied,
        "NOT_OWNER",
    );

    let next = produce(&mut alice, (session, &hers), 2, &["a2"]).await;
    let next = next.expect("appended");
    assert_eq!(next.first_offset, 2);
    let again = produce(
        &mut client(&stage, "alice", 2),
        (session, &hers),
        2,
        &["a2"],
    )
    .await;
    assert!(again.expect("known").duplicate);
    assert_eq!(values(&stage).await, ["a0", "a1", "a2"]);
    assert_eq!(
        open(&mut client(&stage, "alice", 1), &hers)
            .await
            .expect("hers"),
        session
    );
    close(&mut alice, session, hers).await.expect("closed");
}

#[tokio::test]
async fn another_batch_under_a_used_number_is_never_acknowledged() {
    let stage = stage().await;
    let secret = secret(1);
    let mut alice = client(&stage, "alice", 0);
    let session = open(&mut alice, &secret).await.expect("a session");
    let under = (session, &secret);
    produce(&mut alice, under, 0, &["a", "b"])
        .await
        .expect("appended");
    produce(&mut alice, under, 2, &["c"])
        .await
        .expect("appended");
    for place in 0..3 {
        let mut client = client(&stage, "alice", place);
        let reused = produce(&mut client, under, 0, &["a", "B"]).await;
        let reused = refused(reused, "another batch");
        assert_refused(&reused, Code::FailedPrecondition, "SEQUENCE_REUSED");
        assert_eq!(detail(&reused, "expected"), Some(3));
        let cut = refused(
            produce(&mut client, under, 0, &["a", "b", "c"]).await,
            "cut",
        );
        assert_refused(&cut, Code::Aborted, "SEQUENCE_OVERLAP");
        let known = produce(&mut client, under, 0, &["a", "b"])
            .await
            .expect("known");
        assert!(known.duplicate && known.first_offset == 0);
    }

    let mut plain = plain_client(&stage, "alice", 1);
    let offset = produce_plain(&mut plain, under, 3, "d")
        .await
        .expect("appended");
    let again = produce_plain(&mut plain, under, 3, "d")
        .await
        .expect("known");
    assert_eq!((offset, again), (3, 3));
    let reused = refused(
        produce_plain(&mut plain, under, 3, "D").await,
        "another record",
    );
    assert_refused(&reused, Code::FailedPrecondition, "SEQUENCE_REUSED");
    assert_eq!(values(&stage).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_name_of_megabytes_comes_back_short_and_an_odd_one_is_refused() {
    let stage = stage().await;
    let mut client = native::client_of(&stage, 0);
    let layer = stage.cluster.stream_layer().expect("a client's security");
    let channel = layer.channel(Kind::Grpc, stage.cluster.addr(0), ChannelOptions::default());
    let mut cluster = ClusterServiceClient::new(channel);
    let long = "\u{1b}[2J".repeat(750 << 10);
    let get = GetCursorRequest {
        name: long.clone(),
        ..GetCursorRequest::default()
    };
    let limits = GetCursorRequest {
        log: long.clone(),
        ..GetCursorRequest::default()
    };
    let transfer = TransferLeadershipRequest { to: long.clone() };
    let told = [
        refused(answer(client.get_cursor(get)).await, "a cursor"),
        refused(answer(client.get_cursor(limits)).await, "a log"),
        refused(
            answer(cluster.transfer_leadership(transfer)).await,
            "a voter",
        ),
        refused(claim(&mut client, &long, 1).await, "a fence"),
    ];
    for status in told {
        let message = status.message();
        assert!(message.len() < 1024, "{} bytes", message.len());
        assert!(!message.contains(char::is_control), "{message:?}");
    }
    for name in ["a\nb", "\u{1b}]0;x\u{7}", "\u{9b}2J"] {
        let odd = refused(claim(&mut client, name, 1).await, "a fence");
        assert_refused(&odd, Code::InvalidArgument, "INVALID_REQUEST");
        let cursor = CommitCursorRequest {
            name: name.to_owned(),
            ..CommitCursorRequest::default()
        };
        let odd = refused(answer(client.commit_cursor(cursor)).await, "a cursor");
        assert_refused(&odd, Code::InvalidArgument, "INVALID_REQUEST");
    }
    claim(&mut client, "Zähler 7", 1).await.expect("a name");
}

async fn claim(client: &mut Client, name: &str, token: u8) -> Result<u64, Status> {
    let request = ClaimEpochRequest {
        name: name.to_owned(),
        holder: "somebody".to_owned(),
        token: secret(token),
        ..ClaimEpochRequest::default()
    };
    let call = async || answer(client.clone().claim_epoch(request.clone())).await;
    Ok(settled(call).await.0?.epoch)
}

async fn produce_in(client: &mut Client, name: &str, epoch: u64) -> Result<u64, Status> {
    let request = ProduceRequest {
        batch: Some(native::batch(["fenced"])),
        fence: Some(Fence {
            name: name.to_owned(),
            epoch,
        }),
        ..ProduceRequest::default()
    };
    Ok(answer(client.produce(request)).await?.first_offset)
}

#[tokio::test]
async fn only_who_claimed_a_name_appends_in_it() {
    let stage = stage().await;
    let mut alice = client(&stage, "alice", 0);
    let mut mallory = client(&stage, "mallory", 1);
    assert_eq!(claim(&mut alice, "job", 1).await.expect("claimed"), 1);
    let stolen = refused(produce_in(&mut mallory, "job", 1).await, "in her name");
    assert_refused(&stolen, Code::PermissionDenied, "NOT_OWNER");
    assert_eq!(produce_in(&mut alice, "job", 1).await.expect("hers"), 0);

    // Whoever may append may take the name over; the token of another's claim gives no part in it.
    assert_eq!(claim(&mut mallory, "job", 1).await.expect("claimed"), 2);
    assert_eq!(claim(&mut alice, "job", 1).await.expect("a retry"), 1);
    let fenced = refused(produce_in(&mut alice, "job", 1).await, "an old epoch");
    assert_refused(&fenced, Code::FailedPrecondition, "FENCED");
    let stolen = refused(produce_in(&mut alice, "job", 2).await, "in his name");
    assert_refused(&stolen, Code::PermissionDenied, "NOT_OWNER");
    assert_eq!(produce_in(&mut mallory, "job", 2).await.expect("his"), 1);
    let request = GetEpochRequest {
        name: "job".to_owned(),
        ..GetEpochRequest::default()
    };
    let held = answer(alice.get_epoch(request)).await.expect("an epoch");
    assert_eq!((held.epoch, &*held.subject), (2, "mallory"));
}

#[tokio::test]
async fn a_deleted_name_gives_no_epoch_a_second_time() {
    let stage = stage().await;
    let mut alice = client(&stage, "alice", 0);
    let request = DeleteFenceRequest {
        name: "job".to_owned(),
        ..DeleteFenceRequest::default()
    };
    assert_eq!(claim(&mut alice, "job", 1).await.expect("claimed"), 1);
    let denied = refused(answer(alice.delete_fence(request.clone())).await, "deleted");
    assert_refused(&denied, Code::PermissionDenied, "DENIED");
    let admin = client(&stage, "admin", 1);
    let delete = async || answer(admin.clone().delete_fence(request.clone())).await;
    let (deleted, again) = settled(delete).await;
    assert!(deleted.expect("deleted").deleted || again);
    let (deleted, _) = settled(delete).await;
    assert!(!deleted.expect("nothing to delete").deleted);

    let fenced = refused(produce_in(&mut alice, "job", 1).await, "of a deleted name");
    assert_refused(&fenced, Code::FailedPrecondition, "FENCED");
    assert_eq!(claim(&mut alice, "job", 2).await.expect("claimed"), 2);
    let fenced = refused(produce_in(&mut alice, "job", 1).await, "of its first life");
    assert_refused(&fenced, Code::FailedPrecondition, "FENCED");
    produce_in(&mut alice, "job", 2).await.expect("appended");

    let listed = command::client(&stage.cluster, &["fence", "list"])
        .await
        .expect_success();
    assert!(
        listed.contains("job") && listed.contains("alice"),
        "{listed}"
    );
    let deleted = command::client(&stage.cluster, &["fence", "delete", "job"]).await;
    deleted.expect_success();
    let left = answer(alice.list_fences(ListFencesRequest::default())).await;
    assert_eq!(left.expect("a list").fences, []);
}

async fn commit(client: &mut Client, offset: u64) -> Result<(), Status> {
    let request = CommitCursorRequest {
        name: "billing".to_owned(),
        offset,
        ..CommitCursorRequest::default()
    };
    let call = async || answer(client.clone().commit_cursor(request.clone())).await;
    settled(call).await.0.map(drop)
}

#[tokio::test]
async fn cursors_move_by_the_right_to_commit_alone() {
    let stage = stage().await;
    let mut committer = client(&stage, "committer", 0);
    commit(&mut committer, 0).await.expect("committed");
    let delete = DeleteCursorRequest {
        name: "billing".to_owned(),
        ..DeleteCursorRequest::default()
    };
    for name in ["reader", "alice", "admin"] {
        let mut client = client(&stage, name, 1);
        let denied = refused(commit(&mut client, 0).await, "moved");
        assert_refused(&denied, Code::PermissionDenied, "DENIED");
        let denied = answer(client.delete_cursor(delete.clone())).await;
        assert_refused(
            &refused(denied, "deleted"),
            Code::PermissionDenied,
            "DENIED",
        );
    }
    // The right to commit allows nothing else.
    let get = GetCursorRequest {
        name: "billing".to_owned(),
        ..GetCursorRequest::default()
    };
    let denied = answer(committer.get_cursor(get.clone())).await;
    assert_refused(&refused(denied, "read"), Code::PermissionDenied, "DENIED");
    let denied = native::produce(&mut committer, b"x").await;
    assert_refused(
        &refused(denied, "appended"),
        Code::PermissionDenied,
        "DENIED",
    );
    let mut reader = client(&stage, "reader", 2);
    answer(reader.get_cursor(get)).await.expect("it is there");
    let list = answer(reader.list_cursors(ListCursorsRequest::default())).await;
    assert_eq!(list.expect("a list").cursors.len(), 1);
    let call = async || answer(committer.clone().delete_cursor(delete.clone())).await;
    let (deleted, again) = settled(call).await;
    assert!(deleted.expect("deleted").deleted || again);
}

#[tokio::test]
async fn an_administrator_sees_and_closes_sessions() {
    let stage = stage().await;
    let secret = secret(1);
    let mut alice = client(&stage, "alice", 0);
    let session = open(&mut alice, &secret).await.expect("a session");
    produce(&mut alice, (session, &secret), 0, &["a", "b"])
        .await
        .expect("appended");
    let list = ListSessionsRequest::default();
    let denied = answer(alice.list_sessions(list.clone())).await;
    assert_refused(&refused(denied, "listed"), Code::PermissionDenied, "DENIED");

    let mut admin = client(&stage, "admin", 2);
    let listed = answer(admin.list_sessions(list.clone()))
        .await
        .expect("a list");
    let [hers] = &listed.sessions[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(
        (hers.session, &*hers.subject, hers.records),
        (session, "alice", 2)
    );
    let text = command::client(&stage.cluster, &["session", "list"])
        .await
        .expect_success();
    assert!(
        text.contains("alice") && text.contains(&session.to_string()),
        "{text}"
    );

    close(&mut admin, session, Bytes::new())
        .await
        .expect("closed");
    let expired = produce(&mut alice, (session, &secret), 2, &["c"]).await;
    let expired = refused(expired, "of a closed session");
    assert_refused(&expired, Code::FailedPrecondition, "SESSION_EXPIRED");
    let session = open(&mut alice, &secret)
        .await
        .expect("a new one")
        .to_string();
    let closed = command::client(&stage.cluster, &["session", "close", &session]).await;
    closed.expect_success();
    let left = answer(admin.list_sessions(list)).await.expect("a list");
    assert_eq!(left.sessions, []);
}

#[tokio::test]
async fn a_client_uses_up_its_own_share_of_sessions_and_hears_of_it_at_once() {
    let stage = stage().await;
    let leader = stage.leader().await;
    let mut reader = client(&stage, "reader", 0);
    let limits = answer(reader.get_limits(GetLimitsRequest {})).await;
    let share = limits.expect("limits").of_subject_max;
    let mallory = client(&stage, "mallory", leader);
    let all = futures::stream::iter(0..share).map(|number| {
        let mut mallory = mallory.clone();
        async move {
            let secret = u128::from(number).to_be_bytes().to_vec().into();
            // An outcome that is unknown is asked for again: the secret is the same, so the session is.
            until("a session", async || open(&mut mallory, &secret).await.ok()).await
        }
    });
    all.buffer_unordered(16).collect::<Vec<_>>().await;
    let more = refused(
        open(&mut mallory.clone(), &secret(0xff)).await,
        "one too many",
    );
    assert_refused(&more, Code::ResourceExhausted, "TOO_MANY_SESSIONS");
    assert_eq!(detail(&more, "limit"), Some(share.into()));

    // The client does not wait for what nobody gives it.
    let producer = |name: &str| {
        let client = Producers::builder()
            .servers(stage.cluster.addrs())
            .stream_layer(stage.layer_of(name))
            .timeout(PATIENCE);
        let client = client.build().expect("servers");
        client
            .producer(ProducerOptions::default())
            .expect("a producer")
    };
    let his = producer("mallory");
    let told = async {
        let ack = his.send("x").await.expect("queued");
        ack.await
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    let told = refused(told.expect("at once"), "a session more");
    assert!(told.to_string().contains("too many sessions"), "{told}");
    let hers = producer("alice");
    let ack = hers.send("x").await.expect("queued");
    assert_eq!(ack.await.expect("there is room for others"), 0);
}
