//! Nodes are taken out of a cluster, and kept from leading, as far as the others can do without them.

mod drain;

use ferrolog::raft::MembershipError;
use tokio::time::timeout;

use crate::harness::audited_by;
use crate::harness::world::{ADDRS, PATIENCE, World};

/// Of three, one is down. If another one were taken out, the one that is down would be needed to commit anything.
#[tokio::test(start_paused = true)]
async fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut world = World::new(21).await;
    world.produce(&ADDRS, 0, 5).await;
    let leader = world.leader();
    let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
    let (down, up) = (others[0], others[1]);
    world.kill(down).await;
    for goes in [up, leader] {
        for asked in [leader, up] {
            let name = format!("n{goes}");
            let removal = world.node(asked).log().remove(&name);
            let removal = timeout(PATIENCE, removal).await.expect("an answer");
            let error = removal.expect_err("it is needed");
            let told = error.to_string();
            let silent = format!("No answer comes from n{down}");
            assert!(
                told.contains("2 must answer") && told.contains(&silent),
                "{told}"
            );
            assert!(
                matches!(
                    error,
                    MembershipError::QuorumAtRisk { .. } | MembershipError::Refused { .. }
                ),
                "{error:?}"
            );
        }
    }
    // Nothing was begun, so the others go on.
    assert!(!world.node(leader).log().view().joint);
    let live = [ADDRS[leader], ADDRS[up]];
    world.produce(&live, 5, 10).await;
    // What is down can go; the other two do without it.
    let name = format!("n{down}");
    assert!(world.node(up).log().remove(&name).await.unwrap());
    assert!(!world.node(up).log().remove("n9").await.unwrap());
    world.produce(&live, 10, 15).await;
}

/// Who reads the log of changes is not left with a removal that has begun and never ended.
#[tokio::test(start_paused = true)]
async fn what_a_removal_came_to_is_told_though_its_caller_left() {
    let mut world = World::new(24).await;
    world.produce(&ADDRS, 0, 5).await;
    let leader = world.leader();
    let down = (leader + 1) % 3;
    world.kill(down).await;
    let client = world.client(&[ADDRS[leader]]);
    let is_told = |outcome: &'static str| {
        move |told: &serde_json::Value| {
            let verb = told["verb"].as_str().unwrap_or_default();
            verb.ends_with("/RemoveNode") && told["outcome"] == outcome
        }
    };
    let admin = client.admin();
    let name = format!("n{down}");
    tokio::select! {
        () = audited_by(&client, "its begin", is_told("begun")) => {}
        made = admin.remove(&name) => panic!("its caller is still there: {made:?}"),
    }
    audited_by(&client, "what it came to", is_told("done")).await;
}
