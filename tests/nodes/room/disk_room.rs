//! Full disks in simulation: what is refused, what passes, and that nothing refused stands in its way.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferrolog::disk::memory::Event;
use ferrolog::log::record::BatchBuilder;
use ferrolog::log::{LogId, Offset};
use ferrolog::raft::{
    Answer, ClaimEpoch, CommitCursor, DiskFull, ExecuteError, ProposeError, ReplicatedLog,
    Retention,
};
use tokio::time::{sleep, timeout};

use crate::harness::until;
use crate::harness::world::{ADDRS, PATIENCE, World};

/// How many records are appended before disks fill up.
const BEFORE: u64 = 100;

async fn propose(log: &ReplicatedLog, value: &str) -> Answer {
    let mut batch = BatchBuilder::new(None);
    batch.push(value.as_bytes(), 0, 0);
    log.propose(batch.finish()).await.expect("it is queued")
}

/// Waits until the leader takes records, or refuses them for want of room.
async fn until_taken(log: &ReplicatedLog, taken: bool) {
    until("the leader hears of the room", async || {
        match propose(log, "a probe").await.await.expect("an answer") {
            Ok(_) => taken.then_some(()),
            Err(ProposeError::DiskFull(_)) => (!taken).then_some(()),
            // The record was under way when the disks filled up.
            Err(_) => None,
        }
    })
    .await;
}

/// The places of the leader and of the others.
fn places(world: &World) -> (usize, [usize; 2]) {
    let leader = world.leader();
    (leader, [(leader + 1) % 3, (leader + 2) % 3])
}

#[tokio::test(start_paused = true)]
async fn a_trim_passes_behind_records_that_came_before_the_disks_were_known_to_be_full() {
    let world = World::new(7).await;
    world.produce(&ADDRS, 0, BEFORE).await;
    let (leader, others) = places(&world);
    let log = world.node(leader).log().clone();
    for other in others {
        world.disks[other].set_available(1);
    }
    // Some are taken after the followers have looked and before the leader has heard of it.
    let mut answers = Vec::new();
    for number in 0..400 {
        answers.push(propose(&log, &format!("under way {number}")).await);
        // Between a look and what is heard of it: time itself is the subject.
        sleep(Duration::from_millis(1)).await;
    }
    let trimmed = timeout(PATIENCE, log.trim(Offset(BEFORE / 2))).await;
    let trimmed = trimmed.expect("the trim waits for no room");
    assert_eq!(trimmed, Ok(Offset(BEFORE / 2)));
    let (mut taken, mut refused) = (0, 0);
    for answer in answers {
        match timeout(PATIENCE, answer)
            .await
            .expect("an answer")
            .expect("an answer")
        {
            Ok(_) => taken += 1,
            Err(ProposeError::DiskFull(DiskFull { voter, .. })) => {
                assert!(voter.is_some(), "the leader has room");
                refused += 1;
            }
            Err(error) => panic!("neither taken nor refused: {error}"),
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(log.offsets().1, Offset(BEFORE + taken));

    for other in others {
        world.disks[other].set_available(u64::MAX);
    }
    until_taken(&log, true).await;
}

/// A follower that lags and has no room takes nothing that the others hold already.
#[tokio::test(start_paused = true)]
async fn a_full_follower_takes_no_records_that_others_hold() {
    let world = World::new(8).await;
    world.produce(&ADDRS, 0, BEFORE).await;
    let (leader, [full, _]) = places(&world);
    let log = world.node(leader).log().clone();
    world.disks[full].set_available(1);
    let last = || world.node(full).log().indexes()[0];
    let mut next = BEFORE;
    // The follower takes what is under way into the files that it has in hand, and then no more.
    let held = until("it takes no more", async || {
        let before = last();
        world.produce(&[ADDRS[leader]], next, next + BEFORE).await;
        next += BEFORE;
        (last() == before).then_some(before)
    })
    .await;
    world
        .produce(&[ADDRS[leader]], next, next + 5 * BEFORE)
        .await;
    assert_eq!(last(), held);
    assert!(held < log.indexes()[1]);
    world.disks[full].set_available(u64::MAX);
    world.check(next + 5 * BEFORE).await;
}

fn commit(offset: u64) -> CommitCursor {
    CommitCursor {
        log: LogId::DEFAULT,
        name: "reader".to_owned(),
        subject: String::new(),
        offset: Offset(offset),
        expected: None,
        create_only: false,
        now_ms: 0,
    }
}

fn claim() -> ClaimEpoch {
    ClaimEpoch {
        log: LogId::DEFAULT,
        name: "writer".to_owned(),
        holder: "me".to_owned(),
        subject: Some(String::new()),
        token: 1,
        expected: None,
    }
}

fn assert_full<T: std::fmt::Debug>(outcome: Result<T, ExecuteError>, voter: bool) {
    match outcome {
        Err(ExecuteError::DiskFull(DiskFull { voter: told, .. })) => {
            assert_eq!(told.is_some(), voter)
        }
        other => panic!("it takes room: {other:?}"),
    }
}

/// Which disks are full: the leader's, or those of two followers. Each command comes through each node.
async fn commands_of_a_full_cluster(full: &[usize], world: &World) {
    let (leader, _) = places(world);
    let log = world.node(leader).log();
    let by_follower = !full.contains(&leader);
    let session = log.open_session("", 1).await.expect("there is room");
    log.commit_cursor(commit(1)).await.expect("there is room");
    for disk in full {
        world.disks[*disk].set_available(1);
    }
    until_taken(log, false).await;
    let before = log.indexes()[0].expect("a last entry");
    for node in 0..ADDRS.len() {
        let node = world.node(node).log();
        for number in 2..50 {
            assert_full(node.open_session("", number).await, by_follower);
            assert_full(node.claim_epoch(claim()).await, by_follower);
            assert_full(node.commit_cursor(commit(2)).await, by_follower);
        }
    }
    assert_eq!(log.indexes()[0], Some(before), "nothing was taken");

    // What ends something, makes room or changes the cluster passes.
    let through = world.node((leader + 1) % 3).log();
    through
        .close_session(session, None)
        .await
        .expect("it passes");
    assert_eq!(through.delete_cursor("reader").await, Ok(true));
    let keep = Retention {
        max_bytes: Some(1 << 20),
        ..Retention::default()
    };
    through.set_retention(keep).await.expect("it passes");
    assert_eq!(
        through.trim(Offset(BEFORE / 2)).await,
        Ok(Offset(BEFORE / 2))
    );
    through.transfer("").await.expect("it passes");

    for disk in &world.disks {
        disk.set_available(u64::MAX);
    }
    until("there is room again", async || {
        through.open_session("", 100).await.ok()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_take_room_are_refused_while_the_leaders_disk_is_full() {
    let world = World::new(9).await;
    world.produce(&ADDRS, 0, BEFORE).await;
    commands_of_a_full_cluster(&[0, 1, 2], &world).await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_take_room_are_refused_while_most_followers_disks_are_full() {
    let world = World::new(10).await;
    world.produce(&ADDRS, 0, BEFORE).await;
    let (_, others) = places(&world);
    commands_of_a_full_cluster(&others, &world).await;
}

/// A file of a segment, or the spare one.
fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("spare") || name.starts_with('0'))
}

/// Another program may take the last of the room at once: then files cannot be made, before anybody has looked.
#[tokio::test(start_paused = true)]
async fn nodes_whose_logs_wait_for_room_go_on_with_all_else() {
    let world = World::new(11).await;
    world.produce(&ADDRS, 0, BEFORE).await;
    let (leader, _) = places(&world);
    let log = world.node(leader).log().clone();
    let refused: Vec<_> = ADDRS
        .iter()
        .map(|_| Arc::new(AtomicUsize::new(0)))
        .collect();
    for (disk, refused) in world.disks.iter().zip(&refused) {
        let refused = refused.clone();
        disk.watch(move |event, path| {
            if event != Event::Allocate || !is_segment(path) {
                return Ok(());
            }
            refused.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::StorageFull.into())
        });
    }
    let before = log.view();
    let mut answers = Vec::new();
    for number in 0..2_000 {
        let value = format!("{number} {}", "x".repeat(500));
        answers.push(propose(&log, &value).await);
    }
    until(
        "every log has tried to make files, again and again",
        async || {
            let tried = |refused: &Arc<AtomicUsize>| refused.load(Ordering::Relaxed) > 5;
            refused.iter().all(tried).then_some(())
        },
    )
    .await;
    assert!(log.offsets().1 < Offset(BEFORE + 2_000), "it waits");
    for number in 0..ADDRS.len() {
        let node = world.node(number).log();
        let read = timeout(Duration::from_secs(1), node.read_barrier()).await;
        read.expect("the engine stands still")
            .expect("a strong read");
    }
    assert_eq!(log.view(), before, "nobody was elected meanwhile");
    for disk in &world.disks {
        disk.watch(|_, _| Ok(()));
    }
    for answer in answers {
        let answer = timeout(PATIENCE, answer).await.expect("an answer");
        answer.expect("an answer").expect("there was room in time");
    }
    assert_eq!(log.offsets().1, Offset(BEFORE + 2_000));
}
