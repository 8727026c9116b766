//! Replicated commands while no node leads.

use std::time::Duration;

use tokio::time::timeout;

use crate::disk::memory::MemoryDisk;
use crate::log::Offset;
use crate::net::memory::MemoryNetwork;
use crate::raft::*;

use super::nodes::{PATIENCE, append, start};

/// A trim and a retention wait for the next leader on every node, as a session and a cursor do: nothing was
/// sent yet, so nothing is in doubt.
#[tokio::test(start_paused = true)]
async fn every_command_waits_for_a_leader() {
    let network = MemoryNetwork::new();
    let peers = ["first:1".to_owned()];
    let (first, mux) = start(&network, &MemoryDisk::default(), "first:1", &[]).await;
    let (second, _second_mux) = start(&network, &MemoryDisk::default(), "second:1", &peers).await;
    let (third, _third_mux) = start(&network, &MemoryDisk::default(), "third:1", &peers).await;
    for sequence in 0..10 {
        append(&first, sequence).await;
    }
    // The two that are left do not hear each other.
    network.cut("first:1");
    network.cut("third:1");
    mux.shutdown().await;
    first.kill().await;
    drop(first);
    for node in [&second, &third] {
        let mut views = node.watch_view();
        let leaderless = views.wait_for(|view| view.leader.is_none());
        let known = timeout(PATIENCE, leaderless).await;
        known.expect("the leader is lost").unwrap();
    }
    let kept = |max_bytes| Retention {
        max_bytes: Some(max_bytes),
        ..Retention::default()
    };
    let healed = async {
        // time itself is the subject: longer than a change of the members waits
        tokio::time::sleep(Duration::from_millis(1500)).await;
        network.heal("third:1");
    };
    // One of the two will lead, and the other one pass its commands on.
    let (trimmed, also, set, too, ()) = tokio::join!(
        second.trim(Offset(4)),
        third.trim(Offset(4)),
        second.set_retention(kept(1 << 30)),
        third.set_retention(kept(1 << 30)),
        healed,
    );
    assert_eq!((trimmed, also), (Ok(Offset(4)), Ok(Offset(4))));
    assert_eq!((set, too), (Ok(()), Ok(())));
}
