//! Nodes that come back under another address, one, two, or all at once, and nodes that reach no leader.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::Clock;
use ferrolog::net::Security;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::proto::v1::CommitCursorRequest;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::native;
use crate::harness::world::{ADDRS, PATIENCE, START_MS, World};

const NEW: [&str; 3] = ["127.0.0.1:7411", "127.0.0.1:7412", "127.0.0.1:7413"];
/// Between a start at a new address and records that every node holds: a few elections, and the wait of a node
/// that hears no leader.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// A node that hears no leader asks its peers after 2 s.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Moves these nodes at once, as if their machines were given other addresses; nothing answers at the old ones.
async fn move_nodes(world: &mut World, moved: &[usize]) {
    for &number in moved {
        world.kill(number).await;
    }
    for &number in moved {
        // What an operator names for a node that moves: the others, where they are by now.
        let others = (0..NEW.len()).filter(|&other| other != number);
        let now = |other| {
            if moved.contains(&other) {
                NEW[other]
            } else {
                ADDRS[other]
            }
        };
        let join: Vec<_> = others.map(now).collect();
        world.start_at(number, NEW[number], &join).await;
    }
}

/// Every node holds what is appended from now on, and the membership says where all are.
async fn goes_on(world: &World, moved: &[usize], before: u64) {
    let begun = Instant::now();
    let now = |number| {
        if moved.contains(&number) {
            NEW[number]
        } else {
            ADDRS[number]
        }
    };
    let addrs: Vec<_> = (0..NEW.len()).map(now).collect();
    world.produce(&addrs, before, before + 50).await;
    world.check(before + 50).await;
    for number in 0..addrs.len() {
        let mut views = world.node(number).log().watch_view();
        let told = views.wait_for(|view| {
            let members = view.members.iter().map(|member| &*member.member.addr);
            members.eq(addrs.iter().copied())
        });
        let told = timeout(PATIENCE, told).await;
        told.unwrap_or_else(|_| panic!("node {number} does not know where all are"))
            .unwrap();
    }
    let took = begun.elapsed();
    assert!(
        took < BACK_WITHIN,
        "it took {took:?} until {moved:?} were back"
    );
}

#[tokio::test(start_paused = true)]
async fn each_node_moves_in_turn_and_none_is_left_behind() {
    for moved in 0..ADDRS.len() {
        let mut world = World::new(31 + moved as u64).await;
        world.produce(&ADDRS, 0, 50).await;
        move_nodes(&mut world, &[moved]).await;
        goes_on(&world, &[moved], 50).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_moved_follower_gets_records_from_the_same_leader() {
    let mut world = World::new(41).await;
    let leader = world.leader();
    let term = world.node(leader).log().view().term;
    let moved = (leader + 1) % ADDRS.len();
    move_nodes(&mut world, &[moved]).await;
    // The other follower is gone: without the moved one there is no majority.
    let other = (leader + 2) % ADDRS.len();
    world.network.cut(ADDRS[other]);
    world.produce(&[ADDRS[leader]], 0, 20).await;
    assert_eq!(world.node(leader).log().view().term, term, "no election");
    world.network.heal(ADDRS[other]);
    goes_on(&world, &[moved], 20).await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_move_at_once() {
    for (seed, stays) in (0..ADDRS.len()).enumerate() {
        let mut world = World::new(51 + seed as u64).await;
        world.produce(&ADDRS, 0, 50).await;
        let moved: Vec<_> = (0..ADDRS.len()).filter(|&number| number != stays).collect();
        move_nodes(&mut world, &moved).await;
        goes_on(&world, &moved, 50).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_nodes_move_at_once() {
    let mut world = World::new(61).await;
    world.produce(&ADDRS, 0, 50).await;
    move_nodes(&mut world, &[0, 1, 2]).await;
    goes_on(&world, &[0, 1, 2], 50).await;
}

/// Asks a node from its own side of a cut.
fn beside(world: &World, number: usize) -> native::Client {
    let network = Arc::new(world.network.named(ADDRS[number]));
    let layer = StreamLayer::new(network, Security::Insecure);
    native::client(&layer, ADDRS[number], ChannelOptions::default())
}

/// A world with a follower that is cut off and knows of no leader.
async fn with_a_follower_cut_off(seed: u64) -> (World, usize) {
    let world = World::new(seed).await;
    let cut = (world.leader() + 1) % ADDRS.len();
    world.network.cut(ADDRS[cut]);
    let mut views = world.node(cut).log().watch_view();
    let alone = views.wait_for(|view| view.leader.is_none());
    timeout(PATIENCE, alone).await.expect("it notices").unwrap();
    (world, cut)
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_leader_waits_from_when_it_came() {
    let (world, cut) = with_a_follower_cut_off(71).await;
    let client = beside(&world, cut);
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let mut client = client.clone();
        calls.spawn(async move {
            let begun = Instant::now();
            let told = native::produce(&mut client, b"x").await;
            (told.expect_err("there is no leader"), begun.elapsed())
        });
        // Each waits for so long already: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while let Some(told) = calls.join_next().await {
        let (status, took) = told.unwrap();
        assert_eq!(native::reason(&status), "NO_LEADER", "{status:?}");
        assert!(took < Duration::from_millis(5_500), "it took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_a_leader_as_a_record_does() {
    let (world, cut) = with_a_follower_cut_off(72).await;
    let mut client = beside(&world, cut);
    let request = |name: &str| CommitCursorRequest {
        name: name.to_owned(),
        ..CommitCursorRequest::default()
    };
    let begun = Instant::now();
    let told = client.commit_cursor(request("late")).await.unwrap_err();
    assert_eq!(native::reason(&told), "NO_LEADER", "{told:?}");
    let took = begun.elapsed().as_millis();
    assert!((4_900..5_500).contains(&took), "it took {took} ms");

    let mut second = client.clone();
    let waits = tokio::spawn(async move { second.commit_cursor(request("in time")).await });
    // It has waited for a while: time itself is the subject.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.network.heal(ADDRS[cut]);
    timeout(PATIENCE, waits)
        .await
        .expect("it ends")
        .unwrap()
        .expect("it is carried out");
}

/// A node that has just joined keeps its id alone. It dies before it heard any member, comes back while none is up,
/// and asks the one that calls it later who that is.
#[tokio::test(start_paused = true)]
async fn a_node_that_joined_and_knows_nobody_meets_those_that_come_back_after_it() {
    let mut world = World::alone(1).await;
    world.disks.push(MemoryDisk::default());
    world.clocks.push(Clock::simulated(START_MS));
    world.nodes.push(None);
    world.start(1).await;
    world.kill(1).await;
    world.kill(0).await;
    world.start(1).await;
    // It has asked in vain by then: time itself is the subject.
    tokio::time::sleep(ASKED_WITHIN).await;
    assert!(world.node(1).log().view().members.is_empty());
    world.start(0).await;
    world.settled().await;
}
