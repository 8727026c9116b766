//! Trimmed logs: what is given up, who still learns what, and what an interrupted snapshot leaves.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::RaftLogReader;
use parking_lot::Mutex;

use super::*;
use crate::disk::Disk;
use crate::disk::memory::Event;
use crate::log::{Error as LogError, SegmentInfo};
use crate::raft::engine::log_store::LogStore;
use crate::raft::write::rolls;

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
    let first = First::with(2000).await;
    let before = first.log().segments().len();
    assert!(before > 4, "{before} segments");
    assert_eq!(first.trim(Offset(1200)).await.unwrap(), Offset(1200));
    assert_eq!(
        first.trim(Offset(5)).await.unwrap(),
        Offset(1200),
        "never back"
    );
    until("segments go", || first.log().first_entry() > Index(0)).await;
    check_trimmed(&first, 1200, 2000).await;
    until("all of them", || {
        first.log().droppable(Index(u64::MAX)).unwrap().is_none()
    })
    .await;
    let left = first.log().segments();
    assert!(left.len() < before, "{} of {before} segments", left.len());

    // A restart after a power cut begins where the log does.
    let first = first.crash().await;
    catch_up(&first, 2000).await;
    check_trimmed(&first, 1200, 2000).await;

    let (second, _mux) = first.second(&MemoryDisk::default()).await;
    catch_up(&second, 2000).await;
    check_trimmed(&second, 1200, 2000).await;
    assert_eq!(second.log().first_entry(), first.log().first_entry());
    let last = 1999;
    assert_eq!(append(&second, last).await, last, "the sessions came along");
    assert_eq!(append(&second, 2000).await, 2000);
}

/// A task of the engine may ask for what the engine itself has given up. What comes behind that is no answer.
#[tokio::test(start_paused = true)]
async fn no_entries_are_read_behind_such_as_were_given_up() {
    let first = First::with(600).await;
    first.trim_away(500).await;
    let stable = first.0.upkeep.stable().clone();
    let mut store = LogStore::new(first.log().clone(), stable).unwrap();
    let begins = first.log().first_entry();
    assert!(first.log().lacks(Index(begins.0 - 1)) && !first.log().lacks(begins));
    let mut read = async |from: u64| -> Vec<u64> {
        let entries = store.limited_get_log_entries(from, begins.0 + 3).await;
        let entries = entries.unwrap().into_iter();
        entries.map(|entry| entry.log_id.index).collect()
    };
    assert!(read(begins.0 - 1).await.is_empty());
    assert!(read(0).await.is_empty());
    let wanted: Vec<_> = (begins.0..begins.0 + 3).collect();
    assert_eq!(read(begins.0).await, wanted);
}

/// A disk without room for a seal may get room by the very trims that come behind it.
#[tokio::test(start_paused = true)]
async fn trims_give_room_back_though_no_segment_can_be_sealed() {
    let first = First::with(600).await;
    let failed = Arc::new(AtomicUsize::new(0));
    let counts = failed.clone();
    first.disk.watch(move |event, path| {
        if event != Event::Create || !path.ends_with("new-seal") {
            return Ok(());
        }
        counts.fetch_add(1, Ordering::Relaxed);
        Err(io::Error::from(io::ErrorKind::StorageFull))
    });
    for sequence in 600..1200 {
        append(&first, sequence).await;
    }
    until("no seal can be made", || failed.load(Ordering::Relaxed) > 0).await;
    first.trim_away(300).await;
    check_trimmed(&first, 300, 1200).await;
}

/// A follower needs a segment that is damaged here, and that nobody else has: the leader goes on without it, and
/// once the segment is trimmed, a snapshot helps the follower past it.
#[tokio::test(start_paused = true)]
async fn a_leader_goes_on_beside_a_damaged_segment_that_nobody_has() {
    let first = First::with(2000).await;
    let disk = &first.disk;
    let damaged = first.log().segments()[2].base;
    let file = |end: &str| PathBuf::from(format!("/node/{:020}.{end}", damaged.0));
    until("it is sealed", || disk.len_of(&file("seal")).is_ok()).await;
    disk.corrupt(&file("store"), |bytes| {
        for byte in bytes.iter_mut().skip(64).step_by(50) {
            *byte ^= 1;
        }
    });
    assert_eq!(first.scrub_once(u64::MAX).await.1, 1, "it is found");

    let (second, _mux) = first.begin_second(&MemoryDisk::default()).await;
    let joins = second.clone();
    tokio::spawn(async move {
        while !joins.is_settled_in(&joins.view()) {
            let _ = joins.join_cluster(&peers()).await;
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
    let first = First::with(400).await;
    let since = first.log().to_roll().unwrap();
    assert!(rolls::end_segment(&first.0.node, since).await);
    assert_eq!(first.trim(Offset(u64::MAX)).await.unwrap(), Offset(400));
    until("all go", || first.log().segments().len() == 1).await;
    let first = first.crash().await;
    catch_up(&first, 400).await;
    assert_eq!(first.offsets(), (Offset(400), Offset(400)));
    assert_eq!(append(&first, 400).await, 400);
    let (second, _mux) = first.second(&MemoryDisk::default()).await;
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
    let first = First::with(2000).await;
    first.trim_away(300).await;

    // Two segments come; then the disk fails, again and again.
    let disk = MemoryDisk::default();
    let staged = Staged::watch(&disk, 2);
    let (second, mux) = first.begin_second(&disk).await;
    let asking = {
        let second = second.clone();
        tokio::spawn(async move { second.join_cluster(&peers()).await })
    };
    until("two segments are staged", || staged.names().len() == 2).await;
    let begun = staged.names();
    asking.abort();
    first.network.cut("second:1");
    kill(second, mux).await;

    // After a restart only the others come.
    first.network.heal("second:1");
    let disk = disk.crash();
    let staged = Staged::watch(&disk, usize::MAX);
    let (second, _mux) = first.second(&disk).await;
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
    let first = First::with(1000).await;
    first.trim_away(300).await;

    let disk = MemoryDisk::default();
    let (second, _mux) = first.begin_second(&disk).await;
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
    tokio::spawn(async move { asking.join_cluster(&peers()).await });
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
    let first = First::on(MemoryNetwork::new(), MemoryDisk::default()).await;
    for sequence in 0..1000 {
        append(&first, sequence).await;
    }
    let pinned = first.pin_at_the_last_moment();
    keep_up(&first);
    first.trim(Offset(600)).await.unwrap();
    until("they are pinned", || pinned.lock().is_some()).await;
    until("the floor is kept", || first.0.upkeep.has_floor()).await;
    assert_eq!(first.log().first_entry(), Index(0));
    first.disk.watch(|_, _| Ok(()));
    pinned.lock().take();
    until("segments go", || first.log().first_entry() > Index(0)).await;
    check_trimmed(&first, 600, 1000).await;
}

/// A disk that is put back to an older state, or that lied about its syncs, costs its own node only.
#[tokio::test(start_paused = true)]
async fn a_follower_whose_log_went_back_does_not_take_the_leader_with_it() {
    let first = First::with(0).await;
    let (network, disk) = (&first.network, MemoryDisk::default());
    let (second, mux) = first.second(&disk).await;
    let (third, _mux) = start(network, &MemoryDisk::default(), "third:1", &peers()).await;
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
    kill(second, mux).await;
    network.heal("second:1");
    let (second, _mux) = first.begin_second(&older).await;
    for sequence in 100..150 {
        append(&first, sequence).await;
    }
    catch_up(&third, 150).await;
    for node in [&*first, &third] {
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
    let first = First::with(900).await;
    let segments = first.log().segments();
    assert!(segments.len() > 3, "{} segments", segments.len());
    let full = |segment: &&SegmentInfo| !segment.rolled;
    assert_eq!(segments.iter().filter(full).count(), 1, "but the last one");
    first.trim_away(500).await;

    let (second, _mux) = first.second(&MemoryDisk::default()).await;
    catch_up(&second, 900).await;
    for sequence in 900..1400 {
        append(&first, sequence).await;
    }
    catch_up(&second, 1400).await;
    assert!(ends(&second).len() > 3, "{:?}", ends(&second));
    assert_eq!(ends(&second), ends(&first));
}
