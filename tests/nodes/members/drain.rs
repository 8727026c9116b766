//! A drained node does not lead, unless it is the only one that can.

use tokio::time::timeout;

use crate::harness::world::{ADDRS, PATIENCE, World};

/// Waits until a node leads, as it sees itself.
async fn leads(world: &World, number: usize) {
    let log = world.node(number).log();
    let mut views = log.watch_view();
    let leads = views.wait_for(|view| view.writable);
    let leads = timeout(PATIENCE, leads).await;
    leads.expect("it leads in time").expect("it runs");
}

fn name(number: usize) -> String {
    format!("n{number}")
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_hands_leadership_on_and_stays_out_of_it() {
    let mut world = World::new(22).await;
    world.produce(&ADDRS, 0, 5).await;
    let drained = world.leader();
    let asked = (drained + 1) % 3;
    let next = world.node(asked).log().drain(&name(drained), true).await;
    let next: usize = next.unwrap()[1..].parse().expect("a node's name");
    assert_ne!(next, drained);
    leads(&world, next).await;
    // Its leader hears of it, and hands it nothing.
    let third = 3 - drained - next;
    let refused = world.node(third).log().transfer(&name(drained)).await;
    let told = refused.expect_err("it is drained").to_string();
    assert!(told.contains("undrain"), "{told}");

    // Started again it remembers. Of the two that are left when the leader dies, the other one leads.
    world.kill(drained).await;
    world.start(drained).await;
    assert!(is_drained(&world, drained));
    world.settled().await;
    world.kill(next).await;
    leads(&world, third).await;
    world.produce(&[ADDRS[drained], ADDRS[third]], 5, 10).await;
    world.start(next).await;
    world.settled().await;

    let undrained = world.node(third).log().drain(&name(drained), false).await;
    undrained.unwrap();
    assert!(!is_drained(&world, drained));
    let moved = world.node(next).log().transfer(&name(drained)).await;
    // Though the leader heard of it a heartbeat ago at best.
    assert_eq!(moved.unwrap(), name(drained));
    leads(&world, drained).await;
    world.check(10).await;
}

fn is_drained(world: &World, number: usize) -> bool {
    let log = world.node(number).log();
    log.is_drained(log.identity().node_id)
}

/// What was acknowledged is on a drained node and on one that is down: the third one must not lead.
#[tokio::test(start_paused = true)]
async fn a_drained_node_leads_while_it_alone_can() {
    let mut world = World::new(23).await;
    world.produce(&ADDRS, 0, 5).await;
    let leader = world.leader();
    let (drained, late) = ((leader + 1) % 3, (leader + 2) % 3);
    world.kill(late).await;
    let up = [ADDRS[leader], ADDRS[drained]];
    world.produce(&up, 5, 10).await;
    let drain = world.node(leader).log().drain(&name(drained), true).await;
    assert_eq!(drain.unwrap(), name(leader));
    world.kill(leader).await;
    world.start(late).await;
    // It takes over though it is drained, and gives the others what they lack.
    world.produce(&[ADDRS[drained], ADDRS[late]], 10, 15).await;
    assert!(is_drained(&world, drained));
    // Then another one can lead.
    leads(&world, late).await;
    world.start(leader).await;
    world.check(15).await;
}
