//! Trimmed logs: what is given up, who still learns what, and what an interrupted snapshot leaves.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::disk::Disk;
use crate::disk::memory::{Event, MemoryDisk};
use crate::log::record::BatchBuilder;
use crate::log::{Error as LogError, Index, Offset, SegmentInfo, SegmentName};
use crate::net::memory::MemoryNetwork;
use crate::raft::write::rolls;
use crate::raft::*;

use super::snapshot_tests::{
    BATCHES, PATIENCE, append, append_states, begin, catch_up, check_records, make_log, start,
};

/// Upkeep, as the agent runs it.
fn keep_up(node: &ReplicatedLog) {
    let node = node.clone();
    tokio::spawn(async move { node.keep_up().await });
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

async fn check_trimmed(node: &ReplicatedLog, first: u64, next: u64) {
    let wanted = (Offset(first), Offset(next));
    until("it is trimmed", || node.offsets() == wanted).await;
    match node.log().read(LogId::DEFAULT, Offset(first - 1), 1) {
        Err(LogError::Trimmed { first: told, .. }) => assert_eq!(told, Offset(first)),
        other => panic!("{other:?}"),
    }
    check_records(node, first..next);
}

#[tokio::test(start_paused = true)]
async fn a_trimmed_log_stays_trimmed_and_a_new_node_joins_it() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..2000 {
        append(&first, sequence).await;
    }
    let before = first.log().segments().len();
    assert!(before > 4, "{before} segments");
    assert_eq!(first.trim(Offset(1200)).await.unwrap(), Offset(1200));
    assert_eq!(
        first.trim(Offset(5)).await.unwrap(),
        Offset(1200),
        "never back"
    );
    until("segments go", || first.log().first_index() > Index(0)).await;
    check_trimmed(&first, 1200, 2000).await;
    until("all of them", || {
        first.log().droppable(Index(u64::MAX)).unwrap().is_none()
    })
    .await;
    let left = first.log().segments();
    assert!(left.len() < before, "{} of {before} segments", left.len());

    // A restart after a power cut begins where the log does.
    let kept = disk.crash();
    mux.shutdown().await;
    first.kill().await;
    drop(first);
    let (first, _mux) = start(&network, &kept, "first:1", &[]).await;
    keep_up(&first);
    catch_up(&first, 2000).await;
    check_trimmed(&first, 1200, 2000).await;

    let second_disk = MemoryDisk::default();
    let peers = ["first:1".to_owned()];
    let (second, _mux) = start(&network, &second_disk, "second:1", &peers).await;
    catch_up(&second, 2000).await;
    check_trimmed(&second, 1200, 2000).await;
    assert_eq!(second.log().first_index(), first.log().first_index());
    let last = 1999;
    assert_eq!(append(&second, last).await, last, "the sessions came along");
    assert_eq!(append(&second, 2000).await, 2000);
}

/// A follower needs a segment that is damaged here, and that nobody else has: the leader goes on without it, and
/// once the segment is trimmed, a snapshot helps the follower past it.
#[tokio::test(start_paused = true)]
async fn a_leader_goes_on_beside_a_damaged_segment_that_nobody_has() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..2000 {
        append(&first, sequence).await;
    }
    let damaged = first.log().segments()[2].base;
    let file = |end: &str| PathBuf::from(format!("/node/{:020}.{end}", damaged.0));
    until("it is sealed", || disk.len_of(&file("seal")).is_ok()).await;
    disk.corrupt(&file("store"), |bytes| {
        for byte in bytes.iter_mut().skip(64).step_by(50) {
            *byte ^= 1;
        }
    });
    assert_eq!(first.scrub_once(u64::MAX).await.1, 1, "it is found");

    let second_disk = MemoryDisk::default();
    let peers = ["first:1".to_owned()];
    let (second, _mux) = begin(&network, &second_disk, "second:1", &peers).await;
    let joins = second.clone();
    tokio::spawn(async move {
        while !joins.is_settled_in(&joins.view()) {
            let _ = joins.join_cluster(&peers).await;
        }
    });
    until("it gets what is whole", || {
        second.log().next_index() == damaged
    })
    .await;
    // Longer than anybody waits for a mend: time itself is the subject.
    tokio::time::sleep(std::time::Duration::from_secs(90)).await;
    assert_eq!(first.view().stopped, None);
    assert_eq!(append(&first, 2000).await, 2000, "it leads");
    assert_eq!(second.log().next_index(), damaged, "no bad byte goes out");

    assert_eq!(first.trim(Offset(1900)).await.unwrap(), Offset(1900));
    catch_up(&second, 2001).await;
    check_trimmed(&second, 1900, 2001).await;
}

/// Everything may go; then the log is empty and goes on where it was.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_trimmed_whole_goes_on_at_its_end() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..400 {
        append(&first, sequence).await;
    }
    let since = first.log().to_roll().unwrap();
    assert!(rolls::end_segment(&first.0.node, since).await);
    assert_eq!(first.trim(Offset(u64::MAX)).await.unwrap(), Offset(400));
    until("all go", || first.log().segments().len() == 1).await;
    let kept = disk.crash();
    mux.shutdown().await;
    first.kill().await;
    drop(first);
    let (first, _mux) = start(&network, &kept, "first:1", &[]).await;
    catch_up(&first, 400).await;
    assert_eq!(first.offsets(), (Offset(400), Offset(400)));
    assert_eq!(append(&first, 400).await, 400);
    let peers = ["first:1".to_owned()];
    let (second, _mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    catch_up(&second, 401).await;
    check_trimmed(&second, 400, 401).await;
}

/// Which segments were staged whole: their seals got their names.
#[derive(Default)]
struct Staged(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Staged {
    /// Watches a disk, which fails a write once `most` segments were staged.
    fn watch(disk: &MemoryDisk, most: usize) -> Self {
        let staged = Self::default();
        let (seen, last) = (staged.0.clone(), Mutex::new(PathBuf::new()));
        disk.watch(move |event, path: &Path| {
            let staging = path.parent().is_some_and(|dir| dir.ends_with("staging"));
            if !staging {
                return Ok(());
            }
            let (mut seen, mut last) = (seen.lock(), last.lock());
            let is_seal = path.ends_with("new-seal");
            match event {
                Event::Write if !is_seal && seen.len() >= most => {
                    return Err(io::Error::other("injected"));
                }
                Event::Write if !is_seal => path.clone_into(&mut last),
                Event::Rename if is_seal => drop(seen.insert(last.with_extension("seal"))),
                _ => {}
            }
            Ok(())
        });
        staged
    }

    fn names(&self) -> BTreeSet<PathBuf> {
        self.0.lock().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_snapshot_goes_on_where_it_was() {
    let network = MemoryNetwork::new();
    let peers = ["first:1".to_owned()];
    let (first, _mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..2000 {
        append(&first, sequence).await;
    }
    first.trim(Offset(300)).await.unwrap();
    until("segments go", || first.log().first_index() > Index(0)).await;

    // Two segments come; then the disk fails, again and again.
    let disk = MemoryDisk::default();
    let staged = Staged::watch(&disk, 2);
    let (second, mux) = begin(&network, &disk, "second:1", &peers).await;
    let asking = {
        let (second, peers) = (second.clone(), peers.clone());
        tokio::spawn(async move { second.join_cluster(&peers).await })
    };
    until("two segments are staged", || staged.names().len() == 2).await;
    let begun = staged.names();
    asking.abort();
    network.cut("second:1");
    mux.shutdown().await;
    second.kill().await;
    drop(second);

    // After a restart only the others come.
    network.heal("second:1");
    let disk = disk.crash();
    let staged = Staged::watch(&disk, usize::MAX);
    let (second, _mux) = start(&network, &disk, "second:1", &peers).await;
    catch_up(&second, 2000).await;
    check_trimmed(&second, 300, 2000).await;
    let fetched = staged.names();
    assert!(fetched.is_disjoint(&begun), "{fetched:?} and {begun:?}");
    let all = second.log().segments().len();
    assert!(
        fetched.len() + 2 >= all - 1 && fetched.len() > 2,
        "{fetched:?} of {all}"
    );
}

/// What a retry brings must not be staged over what is being put in place.
#[tokio::test(start_paused = true)]
async fn nobody_stages_while_a_snapshot_is_adopted() {
    let network = MemoryNetwork::new();
    let peers = ["first:1".to_owned()];
    let (first, _mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..1000 {
        append(&first, sequence).await;
    }
    first.trim(Offset(300)).await.unwrap();
    until("segments go", || first.log().first_index() > Index(0)).await;

    let disk = MemoryDisk::default();
    let (second, _mux) = begin(&network, &disk, "second:1", &peers).await;
    let seen = Arc::new(Mutex::new((0, 0)));
    let (node, counts) = (second.clone(), seen.clone());
    disk.watch(move |event, path| {
        if event == Event::Rename && path.parent().is_some_and(|dir| dir.ends_with("staging")) {
            let mut counts = counts.lock();
            counts.0 += 1;
            counts.1 += usize::from(node.0.staging.is_held());
        }
        Ok(())
    });
    let asking = second.clone();
    tokio::spawn(async move { asking.join_cluster(&peers).await });
    catch_up(&second, 1000).await;
    let (adopted, held) = *seen.lock();
    assert!(adopted > 0 && held == adopted, "{held} of {adopted}");
    let free = timeout(PATIENCE, second.0.staging.hold()).await;
    drop(free.expect("and then somebody may"));
    disk.watch(|_, _| Ok(()));
}

/// A peer may begin to fetch segments when it is settled already that they go. Files go only below what is
/// purged (I4).
#[tokio::test(start_paused = true)]
async fn segments_that_are_pinned_at_the_last_moment_go_later() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &disk, "first:1", &[]).await;
    for sequence in 0..1000 {
        append(&first, sequence).await;
    }
    let pinned = Arc::new(Mutex::new(None));
    let (node, pin) = (first.clone(), pinned.clone());
    disk.watch(move |event, path| {
        if event != Event::Sync || !path.ends_with(home::stable_store::FILE) {
            return Ok(());
        }
        // What follows may read the disk, and so comes here again.
        let mut pin = pin.lock();
        if pin.is_some() {
            return Ok(());
        }
        // The engine has let go of them: all that is left is to note where the log begins.
        let purged = node.raft().metrics().borrow_watched().purged;
        let goes = node.log().droppable(Index(u64::MAX)).unwrap();
        if goes.is_some_and(|(floor, _)| purged.is_some_and(|id| id.index + 1 >= floor.index.0)) {
            *pin = Some(node.log().pin());
        }
        Ok(())
    });
    keep_up(&first);
    first.trim(Offset(600)).await.unwrap();
    until("they are pinned", || pinned.lock().is_some()).await;
    until("the floor is kept", || first.0.upkeep.has_floor()).await;
    assert_eq!(first.log().first_index(), Index(0));
    disk.watch(|_, _| Ok(()));
    pinned.lock().take();
    until("segments go", || first.log().first_index() > Index(0)).await;
    check_trimmed(&first, 600, 1000).await;
}

/// A disk that is put back to an older state, or that lied about its syncs, costs its own node only.
#[tokio::test(start_paused = true)]
async fn a_follower_whose_log_went_back_does_not_take_the_leader_with_it() {
    let network = MemoryNetwork::new();
    let peers = ["first:1".to_owned()];
    let (first, _first_mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let disk = MemoryDisk::default();
    let (second, mux) = start(&network, &disk, "second:1", &peers).await;
    let (third, _mux) = start(&network, &MemoryDisk::default(), "third:1", &peers).await;
    for sequence in 0..50 {
        append(&first, sequence).await;
    }
    catch_up(&second, 50).await;
    let older = disk.crash();
    for sequence in 50..100 {
        append(&first, sequence).await;
    }
    catch_up(&second, 100).await;
    network.cut("second:1");
    mux.shutdown().await;
    second.kill().await;
    drop(second);
    network.heal("second:1");
    let (second, _mux) = begin(&network, &older, "second:1", &peers).await;
    for sequence in 100..150 {
        append(&first, sequence).await;
    }
    catch_up(&third, 150).await;
    for node in [&first, &third] {
        assert_eq!(node.view().stopped, None);
    }
    let (_, next) = second.offsets();
    assert!(next < Offset(150), "it is fed no more: {next}");
}

/// Where the segments of a node end of which the log says so.
fn ends(node: &ReplicatedLog) -> Vec<u64> {
    let segments = node.log().segments().into_iter();
    let ended = segments.filter(|segment| segment.rolled);
    ended.map(|segment| segment.next_index.0).collect()
}

/// As well on one that got a snapshot which ends inside of a segment.
#[tokio::test(start_paused = true)]
async fn segments_end_at_the_same_entries_on_all_nodes() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    for sequence in 0..900 {
        append(&first, sequence).await;
    }
    let segments = first.log().segments();
    assert!(segments.len() > 3, "{} segments", segments.len());
    let full = |segment: &&SegmentInfo| !segment.rolled;
    assert_eq!(segments.iter().filter(full).count(), 1, "but the last one");
    first.trim(Offset(500)).await.unwrap();
    until("segments go", || first.log().first_index() > Index(0)).await;

    let peers = ["first:1".to_owned()];
    let (second, _mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    catch_up(&second, 900).await;
    for sequence in 900..1400 {
        append(&first, sequence).await;
    }
    catch_up(&second, 1400).await;
    assert!(ends(&second).len() > 3, "{:?}", ends(&second));
    assert_eq!(ends(&second), ends(&first));
}

/// Appends a record to a log, without a session.
async fn append_to(node: &ReplicatedLog, log: LogId, value: &[u8]) {
    let mut batch = BatchBuilder::of(log, None);
    batch.push(value, 0, 0);
    let answer = node.propose(batch.finish()).await.unwrap();
    let receipt = timeout(PATIENCE, answer).await.unwrap().unwrap();
    receipt.unwrap();
}

/// As the agent runs both.
fn rewrite(node: &ReplicatedLog) {
    let node = node.clone();
    tokio::spawn(async move { node.rewrite(crate::live::Live::new(50)).await });
}

/// What full segments take. Others have room in hand.
fn bytes_of(node: &ReplicatedLog) -> u64 {
    let segments = node.log().segments().into_iter();
    let full = segments.filter(|one| one.next_position.is_some());
    full.map(|one| one.bytes).sum()
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
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    rewrite(&first);
    let log = make_log(&first, "short", None).await;
    for sequence in 0..300 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
    let before = bytes_of(&first);
    // Less than four times what lives.
    disk.set_available(4096);
    let name = "short".to_owned();
    assert!(first.delete_log(DeleteLog { name, log }).await.unwrap());
    until("it is decided", || first.progress().due > 0).await;
    // It waits, so time itself is the subject.
    tokio::time::sleep(PATIENCE).await;
    assert_eq!((first.progress().due, bytes_of(&first)), (1, before));
    check_records(&first, 0..300);
    disk.set_available(u64::MAX);
    until("room comes back", || bytes_of(&first) * 2 < before).await;
    check_records(&first, 0..300);
}

#[tokio::test(start_paused = true)]
async fn a_rewriting_that_outgrows_its_room_is_begun_again_once_there_is_enough() {
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    rewrite(&first);
    let compacts = first.clone();
    tokio::spawn(async move { compacts.compact(crate::live::Live::new(50)).await });
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
    disk.set_available(u64::MAX);
    until("it is done", || !rewritten(&first).is_empty()).await;
    assert_eq!(first.progress().due, 0);
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
    let network = MemoryNetwork::new();
    let disk = MemoryDisk::default();
    let (first, mux) = start(&network, &disk, "first:1", &[]).await;
    keep_up(&first);
    rewrite(&first);
    let log = make_log(&first, "short", None).await;
    for sequence in 0..900 {
        append(&first, sequence).await;
        append_to(&first, log, &[7; 900]).await;
    }
    all_sealed(&first).await;
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
    let name = "short".to_owned();
    assert!(first.delete_log(DeleteLog { name, log }).await.unwrap());
    until("room comes back", || bytes_of(&first) * 2 < before).await;
    until("less is seen to live", || first.live_bytes() * 2 < before).await;
    assert_eq!(stored(&first).nth(1), Some(0), "what was deleted");
    check_records(&first, 0..900);
    let names = rewritten(&first);
    assert!(!names.is_empty());
    assert!(first.log().first_index() > Index(0), "the entries are gone");

    // A restart after a power cut goes on with them, and so does the engine.
    let kept = disk.crash();
    mux.shutdown().await;
    first.kill().await;
    drop(first);
    let (first, _mux) = start(&network, &kept, "first:1", &[]).await;
    keep_up(&first);
    assert!(rewritten(&first).starts_with(&names[..1]));
    catch_up(&first, 900).await;
    check_records(&first, 0..900);
    assert_eq!(append(&first, 900).await, 900);

    // A new node takes them with a snapshot, and mends what rots of them.
    let second_disk = MemoryDisk::default();
    let peers = ["first:1".to_owned()];
    let (second, _mux) = start(&network, &second_disk, "second:1", &peers).await;
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
