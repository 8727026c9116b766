//! A node that needs a snapshot gets the records with it.

use openraft::async_runtime::WatchReceiver;

use super::*;
use crate::raft::entry::types::TypeConfig;

#[tokio::test(start_paused = true)]
async fn a_node_behind_the_purged_part_gets_the_records_and_the_sessions() {
    let network = MemoryNetwork::new();
    let first_disk = MemoryDisk::default();
    let (first, _mux) = start(&network, &first_disk, "first:1", &[]).await;
    for sequence in 0..500 {
        assert_eq!(append(&first, sequence).await, sequence);
    }
    first.raft().trigger().snapshot().await.unwrap();
    let applied = first.indexes()[2].unwrap();
    let built = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.snapshot.is_some();
    first
        .raft()
        .wait(Some(PATIENCE))
        .metrics(built, "built")
        .await
        .unwrap();
    first.raft().trigger().purge_log(applied).await.unwrap();
    let purged = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.purged.is_some();
    first
        .raft()
        .wait(Some(PATIENCE))
        .metrics(purged, "purged")
        .await
        .unwrap();
    check(&first, 500).await;

    let second_disk = MemoryDisk::default();
    let peers = peers();
    let (second, second_mux) = start(&network, &second_disk, "second:1", &peers).await;
    assert!(
        second.raft().metrics().borrow_watched().snapshot.is_some(),
        "it needed one"
    );
    check(&second, 500).await;
    assert_eq!(
        second.log().first_entry(),
        Index(0),
        "the entries came along"
    );
    assert_eq!(
        append(&second, 3).await,
        3,
        "a retry, told by the session that came along"
    );
    assert_eq!(append(&second, 500).await, 500);
    check(&first, 501).await;

    // What was installed survives a power cut.
    let kept = second_disk.crash();
    kill(second, second_mux).await;
    // As the end of a process ends its streams.
    network.cut("second:1");
    network.heal("second:1");
    let (second, _mux) = start(&network, &kept, "second:1", &peers).await;
    check(&second, 501).await;
}
