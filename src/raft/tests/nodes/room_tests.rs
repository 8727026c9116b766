//! Room comes back from segments in which little lives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::memory::Event;
use crate::log::{Position, Rewrite, SegmentName};
use crate::raft::entry::command::Command;

/// Appends a record to a log, without a session.
async fn append_to(node: &ReplicatedLog, log: LogId, value: &[u8]) {
    let mut batch = BatchBuilder::of(log, None);
    batch.push(value, 0, 0);
    let answer = node.propose(batch.finish()).await.unwrap();
    let receipt = timeout(PATIENCE, answer).await.unwrap().unwrap();
    receipt.unwrap();
}

/// A first node that rewrites as the agent has it do.
async fn rewriting() -> First {
    let first = First::with(0).await;
    let node = first.clone();
    tokio::spawn(async move { node.rewrite(Live::new(50)).await });
    first
}

/// Deletes the log of short-lived records.
async fn delete_short(node: &ReplicatedLog, log: LogId) {
    let name = "short".to_owned();
    assert!(node.delete_log(DeleteLog { name, log }).await.unwrap());
}

/// As many records in a log of short-lived ones as in the other, in turn.
async fn with_short(records: u64) -> (First, LogId) {
    let first = rewriting().await;
    let log = make_log(&first, "short", None).await;
    for sequence in 0..records {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
    (first, log)
}

/// What full segments take. Others have room in hand.
fn bytes_of(node: &ReplicatedLog) -> u64 {
    let segments = node.log().segments().into_iter();
    let full = segments.filter(|one| one.next_position.is_some());
    full.map(|one| one.bytes).sum()
}

/// The first record of the default log from a position on, where the records of two logs alternate.
fn first_of_default(position: Position) -> u64 {
    position.0.div_ceil(2)
}

/// Decides, as a leader would, that the first segments are rewritten, with where logs begin.
async fn decide(node: &ReplicatedLog, count: usize, firsts: [(LogId, Offset); 2]) {
    let segments = node.log().segments();
    let plan = Rewrite {
        base: segments[0].base,
        next: segments[count - 1].next_index,
        of: vec![None; count],
        sealed_ms: segments[count - 1].since_ms,
        firsts: firsts.into(),
        ..Rewrite::default()
    };
    let told = node.raft().client_write(Command::Rewrite(plan)).await;
    told.unwrap();
}

/// Waits until all segments are sealed but the one that is written to.
async fn all_sealed(node: &ReplicatedLog) {
    until("all is sealed", || {
        let segments = node.log().segments().into_iter();
        segments.filter(|one| one.next_position.is_none()).count() == 1
    })
    .await;
}

fn rewritten(node: &ReplicatedLog) -> Vec<SegmentName> {
    let names = node.log().segments().into_iter().map(|one| one.name);
    names.filter(|name| name.rewritten.is_some()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_dead_waits_for_room_to_be_rewritten_in() {
    let (first, log) = with_short(300).await;
    let before = bytes_of(&first);
    // Less than four times what lives.
    first.disk.set_available(4096);
    delete_short(&first, log).await;
    until("it is decided", || first.progress().due > 0).await;
    // It waits, so time itself is the subject.
    tokio::time::sleep(PATIENCE).await;
    assert!(first.progress().due > 0 && bytes_of(&first) == before);
    check_records(&first, 0..300);
    first.disk.set_available(u64::MAX);
    until("room comes back", || bytes_of(&first) * 2 < before).await;
    check_records(&first, 0..300);
}

#[tokio::test(start_paused = true)]
async fn a_rewriting_that_outgrows_its_room_is_begun_again_once_there_is_enough() {
    let first = rewriting().await;
    let (disk, compacts) = (&first.disk, first.clone());
    tokio::spawn(async move { compacts.compact(Live::new(50)).await });
    let how = Compaction {
        min_age_ms: 0,
        tombstone_ms: 0,
    };
    let log = make_log(&first, "states", Some(how)).await;
    append_states(&first, log).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let counts = begun.clone();
    disk.watch(move |event, path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_it = |name: &str| name.contains('-') && name.ends_with(".store");
        if event == Event::Create && name.is_some_and(is_it) {
            counts.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    // It is enough for what the compressed batches take, and not for what is left of them without compression.
    disk.set_available(5 << 20);
    first.compact_log(log).await.unwrap();
    until("it is begun", || begun.load(Ordering::Relaxed) > 0).await;
    // It waits, so time itself is the subject.
    tokio::time::sleep(PATIENCE).await;
    let made = begun.load(Ordering::Relaxed);
    assert_eq!((made, first.progress().due), (1, 1), "not again and again");
    assert!(rewritten(&first).is_empty());
    let asked = || {
        let state = &first.0.node.state;
        state.read(|fsm| fsm.logs.get(log).unwrap().compaction_asked)
    };
    assert!(asked() > Index(0));
    disk.set_available(u64::MAX);
    until("it is done", || !rewritten(&first).is_empty()).await;
    assert_eq!(first.progress().due, 0);
    until("no other leader need look for it", || asked() == Index(0)).await;
    let (mut at, next, mut records) = (Offset(0), Offset(BATCHES * 20), 0);
    while at < next {
        let read = first.log().read(log, at, usize::MAX).unwrap();
        records += read.len() as u64;
        at = Offset(read.last().unwrap().offset.0 + 1);
    }
    // The last one of each log stays anyway, and is one of those that do.
    assert_eq!(records, BATCHES * 10 + 10);
}

#[tokio::test(start_paused = true)]
async fn records_of_a_deleted_log_give_their_room_back_beside_those_that_stay() {
    let (first, log) = with_short(900).await;
    let (before, segments) = (bytes_of(&first), first.log().segments().len());
    assert!(segments > 6, "{segments} segments");
    assert!(rewritten(&first).is_empty(), "all of it lives");
    let stored = |node: &ReplicatedLog| {
        let both = [LogId::DEFAULT, log].into();
        node.log().stored_bytes(&both).unwrap().into_values()
    };
    assert!(stored(&first).all(|bytes| bytes > 0));
    let both = stored(&first).sum::<u64>();
    until("all of it is seen to live", || {
        let live = first.live_bytes();
        both <= live && both * 10 > live * 9
    })
    .await;
    delete_short(&first, log).await;
    until("room comes back", || bytes_of(&first) * 2 < before).await;
    until("less is seen to live", || first.live_bytes() * 2 < before).await;
    assert_eq!(stored(&first).nth(1), Some(0), "what was deleted");
    check_records(&first, 0..900);
    let names = rewritten(&first);
    assert!(!names.is_empty());
    assert!(first.log().first_entry() > Index(0), "the entries are gone");
    // A rewritten segment is where the log begins, though it holds no entries: whoever has not done it yet is to do it.
    let plans = first.0.node.state.read(|fsm| fsm.rewrites.clone());
    assert!(plans.all().count() > 1 && plans.all().all(|plan| plan.begins == Index(0)));

    // A restart after a power cut goes on with them, and so does the engine.
    let first = first.crash().await;
    assert!(rewritten(&first).starts_with(&names[..1]));
    catch_up(&first, 900).await;
    check_records(&first, 0..900);
    assert_eq!(append(&first, 900).await, 900);

    // A new node takes them with a snapshot, and mends what rots of them.
    let second_disk = MemoryDisk::default();
    let (second, _mux) = first.second(&second_disk).await;
    catch_up(&second, 901).await;
    check_records(&second, 0..901);
    assert_eq!(rewritten(&second)[0], names[0]);
    let name = names[0];
    let path = format!(
        "/node/{:020}-{:020}.store",
        name.base.0,
        name.rewritten.unwrap().0
    );
    second_disk.corrupt(Path::new(&path), |bytes| bytes[100] ^= 1);
    let mends = second.clone();
    tokio::spawn(async move { mends.mend().await });
    assert_eq!(second.scrub_once(u64::MAX).await.1, 1, "it is found");
    until("it is mended", || second.log().damaged().is_empty()).await;
    check_records(&second, 0..901);
}

/// What is to be rewritten loses its front to a trim, on a disk that has no room for the rest. Once it has, the rest is
/// rewritten nevertheless.
#[tokio::test(start_paused = true)]
async fn what_loses_its_front_before_it_is_rewritten_is_rewritten_without_it() {
    let first = rewriting().await;
    let log = make_log(&first, "short", None).await;
    for sequence in 0..600 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
    first.disk.set_available(4096);
    delete_short(&first, log).await;
    until("it is decided", || first.progress().due > 0).await;
    let run = first
        .0
        .node
        .state
        .read(|fsm| fsm.rewrites.all().next().cloned())
        .unwrap();
    assert!(run.of.len() > 1, "{run:?}");
    // One record of the second segment stays: it is not to go by itself.
    let kept = first_of_default(first.log().segments()[1].next_position.unwrap()) - 1;
    first.trim_away(kept).await;
    assert!(first.log().first_entry() > run.base && first.log().first_entry() < run.next);
    first.disk.set_available(u64::MAX);
    until("the rest is rewritten", || !rewritten(&first).is_empty()).await;
    until("nothing is due", || first.progress().due == 0).await;
    check_records(&first, kept..600);
}

/// While a run is about to be rewritten its front stays, though all in it is dead: all nodes are to rewrite the same.
#[tokio::test(start_paused = true)]
async fn the_front_of_what_is_about_to_be_rewritten_stays() {
    let first = First::with(0).await;
    let log = make_log(&first, "short", None).await;
    for sequence in 0..300 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
    let kept = first_of_default(first.log().segments()[1].next_position.unwrap()) - 1;
    delete_short(&first, log).await;
    first.trim(Offset(kept)).await.unwrap();
    decide(
        &first,
        3,
        [(log, Offset(u64::MAX)), (LogId::DEFAULT, Offset(0))],
    )
    .await;
    // It has not begun, so time itself is the subject.
    tokio::time::sleep(PATIENCE).await;
    let base = first.log().first_entry();
    assert_eq!((base, first.progress().due), (Index(0), 1));
    let node = first.clone();
    tokio::spawn(async move { node.rewrite(Live::new(0)).await });
    until("it is done", || !rewritten(&first).is_empty()).await;
    assert_eq!(rewritten(&first)[0].base, base);
    check_records(&first, kept..300);
}

/// Where the log begins was saved, but somebody reads the segments before there: they are not to be rewritten into one that
/// a restart would take for given up.
#[tokio::test(start_paused = true)]
async fn what_begins_below_the_floor_is_not_rewritten() {
    let first = First::on(MemoryNetwork::new(), MemoryDisk::default()).await;
    let log = make_log(&first, "short", None).await;
    for sequence in 0..300 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    // The second segment keeps one record.
    let third = first.log().segments()[2].base;
    let rows = first.log().rows(Index(0), third).unwrap();
    let kept = rows.iter().rfind(|row| row.log == LogId::DEFAULT);
    let kept = kept.unwrap().offset.0;
    let pinned = first.pin_at_the_last_moment();
    first.trim(Offset(kept)).await.unwrap();
    delete_short(&first, log).await;
    keep_up(&first);
    until("the floor is kept", || first.0.upkeep.has_floor()).await;
    first.disk.watch(|_, _| Ok(()));
    let base = first.log().segments()[0].base;
    assert!(
        first.0.upkeep.is_given_up(base),
        "it begins below the floor"
    );
    // A plan of before that, for all that is there.
    decide(
        &first,
        3,
        [(log, Offset(u64::MAX)), (LogId::DEFAULT, Offset(kept))],
    )
    .await;
    assert_eq!(first.progress().due, 1);
    pinned.lock().take();
    let node = first.clone();
    tokio::spawn(async move { node.rewrite(Live::new(0)).await });
    until("segments go", || first.log().first_entry() > base).await;
    // Time itself is the subject: nothing is to be put in their place.
    tokio::time::sleep(PATIENCE).await;
    assert!(rewritten(&first).is_empty());
    let first = first.crash().await;
    catch_up(&first, 300).await;
    check_records(&first, kept..300);
}

/// A slower node has not removed what later records stand for, and nobody decides on that again once the leader's log begins
/// behind it.
#[tokio::test(start_paused = true)]
async fn what_a_leader_has_no_more_goes_unless_it_can_be_read() {
    let first = First::with(0).await;
    let how = Compaction {
        min_age_ms: 0,
        tombstone_ms: 0,
    };
    let log = make_log(&first, "states", Some(how)).await;
    for sequence in 0..300 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
    let third = first.log().segments()[2].base;
    let rows = first.log().rows(Index(0), third).unwrap();
    let last = |log| rows.iter().rfind(|row| row.log == log).unwrap().offset;
    let kept = last(LogId::DEFAULT);
    first.trim(kept).await.unwrap();
    let able = first.log().droppable(third).unwrap();
    assert_eq!(able, None, "all that is compacted can be read");
    let segments = first.log().segments();
    let plan = Rewrite {
        base: segments[3].base,
        next: segments[3].next_index,
        begins: third,
        of: vec![None],
        ..Rewrite::default()
    };
    let told = first.raft().client_write(Command::Rewrite(plan)).await;
    told.unwrap();
    // One record of the second segment can be read, whatever the leader has.
    let second = segments[1].base;
    until("the first segment goes", || {
        first.log().first_base() == second
    })
    .await;
    check_records(&first, kept.0..300);
    first.trim(Offset(kept.0 + 1)).await.unwrap();
    until("the second one goes", || first.log().first_base() == third).await;
    let read = first.log().read(log, Offset(0), usize::MAX).unwrap();
    assert_eq!(read[0].offset, Offset(last(log).0 + 1));
    // A start knows it, too.
    let first = first.crash().await;
    catch_up(&first, 300).await;
    assert_eq!(first.log().first_base(), third);
    check_records(&first, kept.0 + 1..300);
}
