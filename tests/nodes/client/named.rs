//! Calls about names, cursors and members, where answers of nodes are lost.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::client::{Client, ClientError, LogSettings};
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::{Kind, Security};
use ferrolog::proto::log_v1::{self, log_client::LogClient};
use ferrolog::proto::v1::cluster_service_client::ClusterServiceClient;
use ferrolog::proto::v1::log_service_client::LogServiceClient;
use ferrolog::proto::v1::{
    CommitCursorRequest, Consistency, ConsumeRequest, Edge, GetCursorRequest, ProduceRequest,
    Retention, Start, TrimRequest, consistency::Level, start::At,
};
use ferrolog::reason::Reason;
use tokio::time::{Instant, timeout};
use tonic::{Request, Status};

use super::front::{Front, Plan, refusal, refused};
use crate::harness::native::batch;
use crate::harness::world::{ADDRS, PATIENCE, START_MS, World};

fn lost() -> Plan {
    Plan::Break {
        stored: 0,
        answered: 0,
        status: Status::unavailable("lost on purpose"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_no_conflict() {
    let in_doubt = Plan::Break {
        stored: 0,
        answered: 0,
        status: refused(Reason::OutcomeUnknown, &[]),
    };
    let not_yet = Plan::Refuse(Status::unavailable("no leader yet"));
    let world = World::alone(1).await;
    world.produce(&ADDRS[..1], 0, 10).await;
    let front = Front::of_one(&world, &["a:1"], [Plan::Work]).await;
    let admin = front.client(&["a:1"], 60).admin();
    assert_eq!(admin.cursor("c").await.unwrap(), None);
    admin.commit_cursor("c", 5, None).await.unwrap();
    front.plan(in_doubt);
    front.plan(not_yet);
    admin.commit_cursor("c", 6, Some(5)).await.unwrap();
    let differs = admin.commit_cursor("c", 6, Some(5)).await;
    let at =
        |current| matches!(differs, Err(ClientError::CursorDiffers { current: c }) if c == current);
    assert!(at(Some(6)), "a first try has no excuse: {differs:?}");
    let differs = admin.commit_cursor("d", 6, Some(5)).await;
    let absent = matches!(differs, Err(ClientError::CursorDiffers { current: None }));
    assert!(absent, "{differs:?}");

    admin.create_cursor("d", 1).await.unwrap();
    let differs = admin.create_cursor("d", 2).await;
    let present = matches!(
        differs,
        Err(ClientError::CursorDiffers { current: Some(1) })
    );
    assert!(present, "{differs:?}");
    let found = admin.cursor("c").await.unwrap().unwrap();
    assert_eq!(found.offset, 6);
    assert!(found.updated_ms >= START_MS);
    // These are more than one page holds.
    for number in 0..200 {
        let name = format!("page-{number:03}");
        admin.commit_cursor(&name, number % 10, None).await.unwrap();
    }
    let all = admin.cursors().await.unwrap();
    let all: Vec<_> = all.into_iter().map(|cursor| cursor.name).collect();
    let pages = (0..200).map(|number| format!("page-{number:03}"));
    let expected: Vec<_> = ["c", "d"]
        .map(str::to_owned)
        .into_iter()
        .chain(pages)
        .collect();
    assert_eq!(all, expected);
    assert!(admin.delete_cursor("c").await.unwrap());
    assert!(!admin.delete_cursor("c").await.unwrap());
}

/// A try may be under way to a leader that nobody reaches, and be carried out once it is reached: behind what its caller did
/// since, if it was told of a later try that all is done.
#[tokio::test(start_paused = true)]
async fn a_change_that_a_late_try_would_undo_is_given_once() {
    let world = World::alone(1).await;
    world.produce(&ADDRS[..1], 0, 10).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    let admin = front.client(&["a:1"], 60).admin();
    let refuse = || Plan::Refuse(refused(Reason::OutcomeUnknown, &[]));
    let in_doubt = |done: Result<(), ClientError>| {
        assert!(
            matches!(done, Err(ClientError::ChangeInDoubt { .. })),
            "{done:?}"
        );
    };
    front.plan(refuse());
    in_doubt(admin.commit_cursor("c", 5, None).await);
    assert_eq!(admin.cursor("c").await.unwrap(), None, "nor given again");
    let kept = Retention {
        max_bytes: 1 << 30,
        ..Retention::default()
    };
    front.plan(refuse());
    in_doubt(admin.set_retention(kept).await);
    assert_eq!(admin.retention().await.unwrap(), Retention::default());
    let made = admin.create_log("orders", LogSettings::default()).await;
    let settings = LogSettings {
        labels: [("team".to_owned(), "x".to_owned())].into(),
        ..LogSettings::default()
    };
    front.plan(refuse());
    let updated = admin.update_log("orders", settings, None).await;
    in_doubt(updated.map(drop));
    assert_eq!(
        admin.get_log("orders").await.unwrap().settings,
        made.unwrap().settings
    );
    // One that surely did nothing is followed by another.
    front.plan(Plan::Refuse(refused(Reason::NoLeader, &[])));
    admin.commit_cursor("c", 5, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removal_whose_answer_is_lost_was_one() {
    let world = World::new(1).await;
    world.produce(&ADDRS, 0, 10).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    // The first address is of no node: a try that reached nobody leaves nothing in doubt.
    let admin = front.client(&["dead:1", "a:1"], 60).admin();
    assert!(!admin.delete_cursor("c").await.unwrap());
    assert!(!admin.remove("n9").await.unwrap());

    admin.create_cursor("c", 1).await.unwrap();
    front.plan(lost());
    assert!(admin.delete_cursor("c").await.unwrap());
    assert!(!admin.delete_cursor("c").await.unwrap());
    front.plan(lost());
    assert!(admin.remove("n2").await.unwrap());
    assert!(!admin.remove("n2").await.unwrap());
}

/// A node that is removed may end in the middle of the call, and the caller may know no other address.
#[tokio::test(start_paused = true)]
async fn a_node_that_goes_need_not_answer() {
    let refused = || refusal(Reason::NodeRemoved, &[]);
    let doors = ADDRS.map(|addr| (addr, addr));
    for then in [Plan::Work, refused()] {
        let world = World::new(1).await;
        let front = Front::open(&world, &doors, [lost(), then]).await;
        let admin = front.client(&[ADDRS[1]], 60).admin();
        assert!(admin.remove("n1").await.unwrap());
        let others = front.client(&[ADDRS[0], ADDRS[2]], 60).admin();
        assert!(!others.remove("n1").await.unwrap());
    }
    // A node that refuses as removed, and that the others still list, was not removed by this call.
    let world = World::new(1).await;
    let front = Front::open(&world, &doors, [refused()]).await;
    let admin = front.client(&[ADDRS[1]], 60).admin();
    let error = admin.remove("n1").await.unwrap_err();
    assert!(
        matches!(error, ClientError::FailedPrecondition { .. }),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_is_claimed_and_its_holder_is_told() {
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["b:1"], []).await;
    let admin = front.client(&["dead:1", "b:1"], 60).admin();
    assert_eq!(admin.epoch("n").await.unwrap(), (0, String::new()));
    let claim = admin.claim_epoch("n", "me", Some(0)).await.unwrap();
    assert_eq!((claim.epoch, claim.next_offset), (1, 0));
    assert_eq!(admin.epoch("n").await.unwrap(), (1, "me".to_owned()));
    let differs = admin.claim_epoch("n", "you", Some(0)).await;
    assert!(matches!(
        differs,
        Err(ClientError::EpochDiffers { current: 1 })
    ));
    assert_eq!(admin.limits().await.unwrap().batch_records_max, 65_536);
}

/// Compiles only for a future that a runtime may move between threads.
fn movable<T: Send>(call: T) -> T {
    call
}

/// Programs run calls as tasks, so every call's future must be one that a runtime may move between threads.
#[tokio::test]
async fn every_call_may_run_as_a_task_of_its_own() {
    let client = Client::builder().servers(["n1:1"]).plaintext(true);
    let client = client.build().expect("a server");
    let admin = client.admin();
    drop(movable(admin.status(None)));
    drop(movable(admin.remove("n")));
    drop(movable(admin.allow("n")));
    drop(movable(admin.disallow("n")));
    drop(movable(admin.join_token(1)));
    drop(movable(admin.transfer(None)));
    drop(movable(admin.trim(1)));
    drop(movable(admin.retention()));
    drop(movable(admin.set_retention(Default::default())));
    drop(movable(admin.epoch("n")));
    drop(movable(admin.fences()));
    drop(movable(admin.delete_fence("n")));
    drop(movable(admin.sessions()));
    drop(movable(admin.close_session(1)));
    drop(movable(admin.create_cursor("n", 1)));
    drop(movable(admin.cursor("n")));
    drop(movable(admin.cursors()));
    drop(movable(admin.delete_cursor("n")));
    drop(movable(admin.limits()));
    drop(movable(admin.create_log("n", Default::default())));
    drop(movable(admin.get_log("n")));
    drop(movable(admin.list_logs("n")));
    drop(movable(admin.update_log("n", Default::default(), None)));
    drop(movable(admin.delete_log("n", 1)));
    drop(movable(client.produce("x".into())));
    let producer = client.producer(Default::default()).expect("a producer");
    drop(movable(producer.send("x")));
    drop(movable(producer.finish()));
    let mut appender = client.appender(Default::default()).expect("an appender");
    drop(movable(appender.append(Vec::new())));
    let mut consumer = client.consume(Default::default()).expect("a consumer");
    drop(movable(consumer.next()));
}

/// A node that finds no leader says so while its caller still waits. The caller then knows that nothing was done.
#[tokio::test(start_paused = true)]
async fn a_call_is_answered_within_its_callers_time() {
    let world = World::new(1).await;
    let alone = (world.leader() + 1) % ADDRS.len();
    for addr in ADDRS {
        world.network.cut(addr);
    }
    let mut views = world.node(alone).log().watch_view();
    let leaderless = views.wait_for(|view| view.leader.is_none());
    timeout(PATIENCE, leaderless).await.unwrap().unwrap();
    world.network.heal(ADDRS[alone]);

    let layer = StreamLayer::new(Arc::new(world.network.named("client")), Security::Insecure);
    let channel = layer.channel(Kind::Grpc, ADDRS[alone], ChannelOptions::default());
    let mut log = LogServiceClient::new(channel.clone());
    let mut log_v1 = LogClient::new(channel.clone());
    let mut cluster = ClusterServiceClient::new(channel);
    let limit = Duration::from_secs(1);
    let began = Instant::now();
    let cursor = CommitCursorRequest {
        name: "c".to_owned(),
        ..CommitCursorRequest::default()
    };
    let read = GetCursorRequest {
        name: "c".to_owned(),
        ..GetCursorRequest::default()
    };
    let trim = TrimRequest::default();
    let produce = ProduceRequest {
        batch: Some(batch(["x"])),
        ..ProduceRequest::default()
    };
    let strong = ConsumeRequest {
        consistency: Some(Consistency {
            level: Some(Level::Strong(Default::default())),
        }),
        ..ConsumeRequest::default()
    };
    let by_cursor = ConsumeRequest {
        start: Some(Start {
            at: Some(At::Cursor("c".to_owned())),
        }),
        ..ConsumeRequest::default()
    };
    let mut strong_v1 = within(limit, log_v1::ConsumeRequest::default());
    let metadata = strong_v1.metadata_mut();
    metadata.insert("ferrolog-consistency", "strong".parse().unwrap());
    let (mut second, mut third, mut fourth, mut fifth) =
        (log.clone(), log.clone(), log.clone(), log.clone());
    let (set, got, trimmed, produced, consumed, found, consumed_v1) = tokio::join!(
        log.commit_cursor(within(limit, cursor)),
        second.get_cursor(within(limit, read)),
        cluster.trim(within(limit, trim)),
        third.produce(within(limit, produce)),
        fourth.consume(within(limit, strong)),
        fifth.consume(within(limit, by_cursor)),
        log_v1.consume(strong_v1),
    );
    let refused = [
        set.unwrap_err(),
        got.unwrap_err(),
        trimmed.unwrap_err(),
        produced.unwrap_err(),
        consumed.unwrap_err(),
        found.unwrap_err(),
        consumed_v1.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(Reason::of(&status), Some(Reason::NoLeader), "{status:?}");
    }
    assert!(began.elapsed() <= limit, "{:?}", began.elapsed());

    // A read that waits at the end of the log for longer than its caller answers with nothing, in time.
    let at_end = ConsumeRequest {
        start: Some(Start {
            at: Some(At::Edge(Edge::Latest.into())),
        }),
        wait_ms_max: 30_000,
        ..ConsumeRequest::default()
    };
    let answer = log.consume(within(limit, at_end)).await.unwrap();
    assert!(answer.into_inner().batches.is_empty());
}

fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
