//! Names, cursors and members, asked of nodes whose answers are lost.

use ferrolog::client::{Client, ClientError};
use ferrolog::reason::Reason;
use tonic::Status;

use super::front::{Front, Plan, refusal, refused};
use crate::harness::world::{ADDRS, START_MS, World};

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
    let front = Front::of_one(&world, &["a:1"], [Plan::Work, in_doubt, not_yet]).await;
    let admin = front.client(&["a:1"], 60).admin();
    assert_eq!(admin.cursor("c").await.unwrap(), None);
    admin.commit_cursor("c", 5, None).await.unwrap();
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
    // More than one page holds.
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

#[tokio::test(start_paused = true)]
async fn a_removal_whose_answer_is_lost_was_one() {
    let world = World::new(1).await;
    world.produce(&ADDRS, 0, 10).await;
    let front = Front::of_one(&world, &["a:1"], []).await;
    // Where nobody was reached, nothing is in doubt.
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

/// The node that goes ends in the middle, and its address may be the only one that is known.
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
    // One that the others still list is not gone.
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

/// A future that a runtime may move between its threads.
fn movable<T: Send>(call: T) -> T {
    call
}

/// Programs spawn what they call: it must compile, for every call.
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
    drop(movable(client.produce("x".into())));
    let producer = client.producer(Default::default()).expect("a producer");
    drop(movable(producer.send("x")));
    drop(movable(producer.finish()));
    let mut appender = client.appender(Default::default()).expect("an appender");
    drop(movable(appender.append(Vec::new())));
    let mut consumer = client.consume(Default::default()).expect("a consumer");
    drop(movable(consumer.next()));
}
