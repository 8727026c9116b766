//! Histories of the oracle's world that were found to matter, each as it was.

use crate::log::{Index, Offset, Position};

use super::oracle_steps_tests::{BatchOf, Plan, Step, Which};
use super::oracle_tests::World;

/// The default log.
const LOG: Which = Which { name: 0, back: 0 };

fn append(log: Which) -> Step {
    let part = BatchOf {
        log,
        producer: None,
        values: vec![7; 4],
        packed: None,
        more: Vec::new(),
        again: false,
        is_stolen: false,
    };
    Step::Commit(Plan::Append(vec![part]))
}

fn create(name: u8) -> Step {
    Step::Commit(Plan::Create {
        name,
        label: 1,
        token: None,
        logs_max: 9,
    })
}

/// A segment stays as long as a record in it may be read, of whatever log; a deleted log's keep none.
#[test]
fn a_segment_goes_once_no_log_needs_it() {
    let mut world = World::new();
    let of = |name| Which { name, back: 0 };
    let mut steps = vec![create(1), create(2), append(of(1)), append(of(2))];
    steps.extend(vec![append(LOG); 60]);
    steps.iter().for_each(|step| world.run(step));
    let mut floor_after = |step: Plan| {
        let steps = [
            Step::Commit(step),
            Step::Checkpoint,
            Step::Checkpoint,
            Step::Drop,
        ];
        steps.iter().for_each(|step| world.run(step));
        world.floor.index
    };
    assert_eq!(floor_after(Plan::Trim(LOG, 220)), Index(0));
    assert_eq!(floor_after(Plan::Trim(of(1), 4)), Index(0), "the other one");
    assert_eq!(
        floor_after(Plan::Trim(of(2), 3)),
        Index(0),
        "its last record"
    );
    let floor = floor_after(Plan::Delete(of(2)));
    assert!(floor > Index(20), "{floor}");
    // Made anew, it begins at 0.
    let steps = [
        create(2),
        append(of(2)),
        Step::Checkpoint,
        Step::Restart,
        Step::Move,
    ];
    steps.iter().for_each(|step| world.run(step));
    let (_, id) = world.which(of(2));
    assert_eq!(world.log.offsets(id), (Offset(0), Offset(4)));
}

/// The segments below the second trim go while the durable checkpoint knows of none: what is applied again
/// must not learn of the second from them.
#[test]
fn a_trim_is_answered_again_as_it_was_after_its_segments_went() {
    let mut world = World::new();
    let trim = |to| Step::Commit(Plan::Trim(LOG, to));
    let mut steps = vec![append(LOG); 40];
    // The disk has no room for the first and the last checkpoint; the last is that of `Drop`.
    steps.extend([Step::Checkpoint, Step::Checkpoint, Step::Checkpoint]);
    steps.extend([trim(5), trim(150), Step::Drop]);
    steps.iter().for_each(|step| world.run(step));
    assert!(world.floor.position > Position(5));
    world.restart();
    world.check();
}
