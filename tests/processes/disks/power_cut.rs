//! Power cuts on real filesystems, under load: of one node, and of all three at once. Every acknowledged record
//! is on every node afterwards, once, in order.
//!
//! A control with nodes whose syncs are faked must lose records, or the cuts would prove nothing.

use tokio::time::Instant;

use crate::harness::checker::verdict::count;
use crate::harness::checker::{History, Rule, Violation, shown};
use crate::harness::load::Load;
use crate::harness::loop_disk::{Filesystem, LoopDisk, Syncs, can_cut_power};
use crate::harness::{Stage, rounds, until};

const NODES: [usize; 3] = [0, 1, 2];
const PRODUCERS: usize = 2;
/// Records of each producer between two cuts.
const BETWEEN: u64 = 5;
/// Cuts that lose nothing of what was not synced, in so many tries, are no cuts.
const CONTROL_TRIES: usize = 5;

/// Cuts the power of these nodes at the same moment and gives it back to their disks. The nodes stay down.
async fn cut_power(stage: &mut Stage, places: &[usize]) {
    let victim = |&place: &usize| {
        let pid = stage.cluster.pid(place).expect("it runs");
        (pid, &stage.disks[place])
    };
    let victims: Vec<_> = places.iter().map(victim).collect();
    LoopDisk::cut_power(&victims).await;
    for &place in places {
        stage.cluster.kill(place).await.expect("killed");
        stage.disks[place].power_on().await;
    }
}

/// Starts these nodes, and waits until they have all that the others had committed by then.
async fn bring_back(stage: &mut Stage, places: &[usize]) {
    for &place in places {
        let started = stage.cluster.restart(place).await;
        started.unwrap_or_else(|error| panic!("after a power cut: {error:#}"));
    }
    stage.ready().await;
    let leader = stage.leader().await;
    let committed = stage.status(leader).await.committed_index;
    for &place in places {
        let client = stage.client_of(place);
        until("the node has caught up", async || {
            let status = client.admin().status(None).await.ok()?;
            (status.applied_index >= committed).then_some(())
        })
        .await;
    }
}

fn judge(history: &History, found: &[Violation], line: &str) {
    println!(
        "{line}; {} records acknowledged, {} lost, {} twice, {} violations in all",
        history.acked(),
        count(found, Rule::Durability),
        count(found, Rule::Uniqueness),
        found.len()
    );
    assert!(found.is_empty(), "{}", shown(found));
}

async fn nothing_is_lost_on(filesystem: Filesystem) {
    if !can_cut_power(filesystem) {
        return;
    }
    let mut stage = Stage::start_on_disks(filesystem, Syncs::Real).await;
    let begun = Instant::now();
    let load = Load::start(&stage, PRODUCERS);
    load.progress(BETWEEN).await;
    let (one, all) = (rounds(8), rounds(4));
    let mut leaders = 0;

    let first = load.now();
    for round in 0..one {
        load.progress(BETWEEN).await;
        let leader = stage.leader().await;
        // Every other cut is the leader's, whoever that is; the rest go in turn.
        let place = [leader, round / 2 % 3][round % 2];
        leaders += usize::from(place == leader);
        cut_power(&mut stage, &[place]).await;
        bring_back(&mut stage, &[place]).await;
    }
    load.progress(BETWEEN).await;
    let middle = load.now();
    for _ in 0..all {
        load.progress(BETWEEN).await;
        cut_power(&mut stage, &NODES).await;
        bring_back(&mut stage, &NODES).await;
    }
    load.progress(BETWEEN).await;
    let last = load.now();

    let history = load.finish().await;
    let checked = history.check(&stage, &NODES).await;
    let found = checked.err().unwrap_or_default();
    let gap = |from, to| history.longest_gaps(from, to).0.as_millis();
    let line = format!(
        "{}: {one} power cuts of one node ({leaders} of the leader), longest gap in acks {} ms; {all} of all \
         three, {} ms; {:.0?} in all",
        filesystem.name(),
        gap(first, middle),
        gap(middle, last),
        begun.elapsed()
    );
    judge(&history, &found, &line);
}

#[tokio::test]
async fn a_power_cut_loses_nothing_on_ext4() {
    nothing_is_lost_on(Filesystem::Ext4).await;
}

#[tokio::test]
async fn a_power_cut_loses_nothing_on_xfs() {
    nothing_is_lost_on(Filesystem::Xfs).await;
}

/// Cuts all three nodes, whose syncs are faked, right after their last acknowledgement. Tells what was lost.
async fn loss_of_liars(filesystem: Filesystem) -> Option<String> {
    let mut stage = Stage::start_on_disks(filesystem, Syncs::Faked).await;
    // The empty cluster is to survive, so that its records can be missed.
    for disk in &stage.disks {
        disk.sync().await;
    }
    let load = Load::start(&stage, PRODUCERS);
    load.progress(BETWEEN).await;
    let history = load.finish().await;
    cut_power(&mut stage, &NODES).await;

    let mut refusals = Vec::new();
    for place in NODES {
        if let Err(error) = stage.cluster.restart(place).await {
            refusals.push(format!("{error:#}"));
        }
    }
    // A node that finds its log shorter than its checkpoint does not start: it has seen the loss itself.
    if let Some(first) = refusals.first() {
        return Some(format!("{} nodes refuse to start: {first}", refusals.len()));
    }
    stage.ready().await;
    let checked = history.check(&stage, &NODES[..1]).await;
    let found = checked.err().unwrap_or_default();
    let (acked, lost) = (history.appends.len(), count(&found, Rule::Durability));
    (lost > 0).then(|| format!("{lost} of {acked} acknowledged records are lost"))
}

async fn faked_syncs_lose_records_on(filesystem: Filesystem) {
    if !can_cut_power(filesystem) {
        return;
    }
    for attempt in 1..=CONTROL_TRIES {
        if let Some(loss) = loss_of_liars(filesystem).await {
            let name = filesystem.name();
            println!("{name}, control with faked syncs, power cut {attempt} of all three: {loss}");
            return;
        }
    }
    panic!("{CONTROL_TRIES} power cuts took nothing from nodes that never sync");
}

#[tokio::test]
async fn control_faked_syncs_lose_records_on_ext4() {
    faked_syncs_lose_records_on(Filesystem::Ext4).await;
}

#[tokio::test]
async fn control_faked_syncs_lose_records_on_xfs() {
    faked_syncs_lose_records_on(Filesystem::Xfs).await;
}
