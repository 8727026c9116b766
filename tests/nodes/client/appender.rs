//! The appender, where answers of nodes are lost: each batch is in the log once, and conditions hold.

use ferrolog::client::{AppenderOptions, ClientError, Compression, Record};
use ferrolog::reason::Reason;
use tonic::Status;

use super::front::{Front, Plan, refusal, values};
use crate::harness::world::World;

fn records(values: &[&'static str]) -> Vec<Record> {
    values.iter().map(|&value| value.into()).collect()
}

/// The node appends one batch, and its answer is lost.
fn lost() -> Plan {
    Plan::Break {
        stored: 1,
        answered: 0,
        status: Status::unavailable("lost on purpose"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_condition_holds_also_when_an_answer_is_lost() {
    let full = refusal(Reason::InFlightLimit, &[]);
    let plans = [lost(), Plan::Work, Plan::Silence, full];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let options = AppenderOptions {
        compression: Compression::Zstd,
        fence: None,
    };
    let mut appender = client.appender(options).unwrap();
    let first = appender.append_at(0, records(&["a", "b"])).await.unwrap();
    assert_eq!((first.first_offset, first.count), (0, 2));
    assert!(first.duplicate, "the first try had appended it");
    let second = appender.append_at(2, records(&["c"])).await.unwrap();
    assert_eq!((second.first_offset, second.duplicate), (2, true));

    let differs = appender.append_at(2, records(&["d"])).await;
    let wanted = matches!(
        differs,
        Err(ClientError::OffsetDiffers {
            expected: 2,
            next: 3
        })
    );
    assert!(wanted, "{differs:?}");
    let third = appender.append(records(&["e"])).await.unwrap();
    assert_eq!((third.first_offset, third.duplicate), (3, false));
    appender.close().await;
    assert_eq!(values(&world), ["a", "b", "c", "e"]);
    assert_eq!(front.sessions().len(), 1, "one session throughout");
    let open = world.node(0).log().sessions(0, 10);
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_with_an_open_outcome_is_given_up() {
    let plans = std::iter::repeat_with(lost).take(2);
    let plans = plans.chain([Plan::Refuse(Status::invalid_argument("no"))]);
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], plans).await;
    let client = front.client(&["a:1"], 60);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let refused = appender.append(records(&["a"])).await;
    // The record is in the log since the first try: the refusal of the last try must not hide that.
    assert!(
        matches!(refused, Err(ClientError::OutcomeUnknown)),
        "{refused:?}"
    );
    // Under the old session this batch would have the number of the first one, and count as sent again.
    let next = appender.append(records(&["b"])).await.unwrap();
    assert_eq!((next.first_offset, next.duplicate), (1, false));
    assert_eq!(front.sessions().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_session_is_replaced_unless_an_outcome_is_open() {
    let expired = || refusal(Reason::SessionExpired, &[]);
    let plans = [expired(), Plan::Work, lost(), expired()];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], plans).await;
    let client = front.client(&["a:1"], 60);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    appender.append(records(&["a"])).await.unwrap();
    let told = appender.append(records(&["b"])).await;
    assert!(matches!(told, Err(ClientError::SessionExpired)), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_decided_holds_for_the_tries_before() {
    let fenced = refusal(Reason::Fenced, &[("name", "job"), ("epoch", "2")]);
    let denied = || Plan::Refuse(Status::permission_denied("not you"));
    let silent = || Plan::Break {
        stored: 0,
        answered: 0,
        status: Status::unavailable("lost on purpose"),
    };
    let plans = [silent(), fenced, silent(), denied(), denied()];
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let told = appender.append(records(&["a"])).await;
    assert!(
        matches!(told, Err(ClientError::Fenced { epoch: 2, .. })),
        "{told:?}"
    );
    let told = appender.append(records(&["b"])).await;
    assert!(matches!(told, Err(ClientError::OutcomeUnknown)), "{told:?}");
    // No earlier try of this batch is in doubt, so the refusal is told as it is.
    let told = appender.append(records(&["c"])).await;
    assert!(
        matches!(told, Err(ClientError::PermissionDenied { .. })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn giving_up_in_doubt_says_so() {
    let plans = std::iter::repeat_with(lost).take(100);
    let world = World::alone(1).await;
    let front = Front::of_one(&world, &["a:1"], plans).await;
    let client = front.client(&["a:1"], 2);
    let mut appender = client.appender(AppenderOptions::default()).unwrap();
    let told = appender.append(records(&["a"])).await;
    assert!(matches!(told, Err(ClientError::OutcomeUnknown)), "{told:?}");
    assert!(matches!(
        appender.append(Vec::new()).await,
        Err(ClientError::EmptyBatch)
    ));
}
