//! Histories of the oracle's world that were found to matter, each as it was.

use crate::log::{Index, LogId, Offset, Position};
use crate::raft::entry::catalog::Trim;
use crate::raft::entry::command::Command;
use crate::raft::entry::types::EntryPayload;

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
        let kept = [Step::Checkpoint, Step::Checkpoint, Step::Drop];
        world.run(&Step::Commit(step));
        kept.iter().for_each(|step| world.run(step));
        let_go(&mut world);
        kept.iter().for_each(|step| world.run(step));
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

/// Lets the log of changes keep no segment, as its upkeep does.
fn let_go(world: &mut World) {
    let log = LogId::AUDIT;
    let Some(first) = world.log.held_back(log).unwrap() else {
        return;
    };
    let trim = Trim { log, first };
    let wanted = world.plain.trim(&trim);
    let payload = EntryPayload::Normal(Command::Trim(trim));
    assert_eq!(world.apply_payload(payload), wanted);
}

/// A record of long ago does not keep the segments behind it, and those that tell of what is kept stay.
#[test]
fn what_tells_of_changes_keeps_no_segment_for_itself() {
    let mut world = World::new();
    let blank = Step::Commit(Plan::Blank);
    let mut steps = vec![blank.clone(), create(1)];
    steps.extend(vec![append(LOG); 60]);
    steps.push(blank);
    steps.push(Step::Commit(Plan::Trim(LOG, 220)));
    steps.extend([Step::Checkpoint, Step::Checkpoint, Step::Drop]);
    steps.iter().for_each(|step| world.run(step));
    assert_eq!(world.floor.index, Index(0), "its first record is there");
    let_go(&mut world);
    for step in [Step::Checkpoint, Step::Checkpoint, Step::Drop] {
        world.run(&step);
    }
    assert!(world.floor.index > Index(20), "{}", world.floor.index);
    let (first, next) = world.log.offsets(LogId::AUDIT);
    assert!(first > Offset(0) && first < next, "{first} {next}");
    assert_eq!(world.log.held_back(LogId::AUDIT).unwrap(), None);
}

/// What tells of a change is there after a lost index, a restart and a move to another disk, and what was refused left
/// nothing behind.
#[test]
fn a_change_and_what_tells_of_it_are_there_together() {
    let mut world = World::new();
    let delete = |name| Step::Commit(Plan::Delete(Which { name, back: 0 }));
    let blank = Step::Commit(Plan::Blank);
    // Every second entry is told: the blank ones see to it that these are.
    let steps = [
        blank.clone(),
        create(1),
        blank.clone(),
        delete(1),
        blank,
        delete(1),
        Step::Checkpoint,
        Step::Checkpoint,
        Step::Restart,
        Step::Move,
    ];
    steps.iter().for_each(|step| world.run(step));
    let (first, next) = world.log.offsets(LogId::AUDIT);
    assert_eq!((first, next), (Offset(0), Offset(4)));
    let told = world.log.read(LogId::AUDIT, first, 1000).unwrap();
    let told: Vec<_> = told.iter().map(|record| &record.value[..]).collect();
    let other = &b"its second record"[..];
    assert_eq!(told, [b"create log l1", other, b"delete log 1", other]);
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
