//! Three whole nodes in one thread: streams and disks in memory, time paused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::agent::{Bound, Runtimes, Seams};
use ferrolog::disk::Disk;
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random};
use ferrolog::log::{LogId, Offset};
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::{Kind, Security};
use ferrolog::proto::v1::cluster_service_client::ClusterServiceClient;
use ferrolog::proto::v1::{GetRetentionRequest, Retention};
use ferrolog::server::Policy;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::late::Links;
use crate::harness::native;
use crate::harness::world::{ADDRS, PATIENCE, START_MS, World};

#[tokio::test(start_paused = true)]
async fn three_nodes_in_one_thread_hold_the_same_log() {
    let world = World::new(1).await;
    for (part, addr) in ADDRS.iter().enumerate() {
        let (from, to) = (part as u64 * 300, part as u64 * 300 + 300);
        let offsets = world.produce(&[addr], from, to).await;
        assert_eq!(offsets, (from..to).collect::<Vec<_>>(), "through {addr}");
    }
    world.check(900).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_loses_nothing_and_comes_back() {
    let world = World::new(2).await;
    world.produce(&ADDRS, 0, 200).await;
    let old = world.leader();
    world.network.cut(ADDRS[old]);
    let others: Vec<_> = ADDRS
        .into_iter()
        .filter(|addr| *addr != ADDRS[old])
        .collect();
    let offsets = world.produce(&others, 200, 400).await;
    assert_eq!(offsets, (200..400).collect::<Vec<_>>());

    for number in 0..ADDRS.len() {
        let members = world.node(number).log().view().members;
        let voters = members.iter().filter(|member| member.voter).count();
        assert_eq!(voters, 3, "a node that is not heard stays a voter");
    }
    let strong = world.node(old).log().read_barrier();
    assert!(
        timeout(PATIENCE, strong).await.unwrap().is_err(),
        "a strong read without a quorum"
    );

    world.network.heal(ADDRS[old]);
    world.check(400).await;
    world.node(old).log().read_barrier().await.unwrap();
}

/// Its port lets nobody in, its own calls go out: without more ado it would lead for ever.
#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_can_call_hands_leadership_on() {
    let links = Links::default();
    let world = World::late(8, &links).await;
    world.produce(&ADDRS, 0, 20).await;
    let old = world.leader();
    let others: Vec<_> = ADDRS
        .into_iter()
        .filter(|addr| *addr != ADDRS[old])
        .collect();
    for other in &others {
        links.between(other, ADDRS[old]).hold(true, true);
    }
    // The old leader does not hear of its successor: its port is closed.
    let other = (old + 1) % ADDRS.len();
    let mut views = world.node(other).log().watch_view();
    let me = views.borrow().leader;
    let replaced = views.wait_for(|view| view.leader.is_some() && view.leader != me);
    timeout(PATIENCE, replaced)
        .await
        .expect("another leads")
        .unwrap();
    let offsets = world.produce(&others, 20, 40).await;
    assert_eq!(offsets, (20..40).collect::<Vec<_>>());

    for other in &others {
        links.between(other, ADDRS[old]).hold(false, false);
    }
    world.check(40).await;
    // One that can be called keeps leading.
    let leader = world.leader();
    let term = world.node(leader).log().view().term;
    // time itself is the subject
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(world.node(leader).log().view().term, term);
}

#[tokio::test(start_paused = true)]
async fn records_of_any_size_through_a_follower() {
    let world = World::new(4).await;
    let follower = (world.leader() + 1) % ADDRS.len();
    let client = world.client(&ADDRS[follower..=follower]);
    let values: Vec<Bytes> = [0, 1, 8191, 8192]
        .into_iter()
        .map(|size| vec![7; size].into())
        .collect();
    for (offset, value) in values.iter().enumerate() {
        let told = timeout(PATIENCE, client.produce(value.clone()))
            .await
            .unwrap();
        assert_eq!(told.unwrap(), offset as u64);
    }
    let refused = timeout(PATIENCE, client.produce(vec![7; 8193].into()))
        .await
        .unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("8193 bytes") && refused.contains("--record-bytes-max"),
        "{refused}"
    );
    for records in world.records(4).await {
        let found: Vec<_> = records.into_iter().map(|record| record.value).collect();
        assert_eq!(found, values);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_tells_no_old_retention() {
    let world = World::new(6).await;
    let leader = world.leader();
    let cut = ADDRS[(leader + 1) % ADDRS.len()];
    world.network.cut(cut);
    let wanted = Retention {
        max_bytes: 1 << 20,
        ..Retention::default()
    };
    let admin = world.client(&ADDRS[leader..=leader]).admin();
    admin.set_retention(wanted.clone()).await.unwrap();

    // Asked from its own side of the cut.
    let network = Arc::new(world.network.named(cut));
    let layer = StreamLayer::new(network, Security::Insecure);
    let channel = layer.channel(Kind::Grpc, cut, ChannelOptions::default());
    let mut client = ClusterServiceClient::new(channel);
    let asked = client.get_retention(GetRetentionRequest::default());
    let told = timeout(PATIENCE, asked).await.expect("an answer");
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
    world.network.heal(cut);
    let told = world.client(&[cut]).admin().retention().await;
    assert_eq!(told.unwrap(), wanted);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_says_where_to_start_holds_up_no_stop() {
    let mut world = World::new(7).await;
    let follower = (world.leader() + 1) % ADDRS.len();
    let network = Arc::new(world.network.named("client"));
    let layer = StreamLayer::new(network, Security::Insecure);
    let mut client = native::client(&layer, ADDRS[follower], ChannelOptions::default());
    let (requests, nothing) = mpsc::channel(1);
    let opened = client.consume_stream(ReceiverStream::new(nothing)).await;
    let mut answers = opened.unwrap().into_inner();

    let begun = Instant::now();
    let node = world.nodes[follower].take().unwrap();
    timeout(PATIENCE, node.shutdown()).await.expect("it stops");
    let took = begun.elapsed();
    // The calls that do not end by themselves are cut after seven seconds.
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    let told = timeout(PATIENCE, answers.message()).await.expect("an end");
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
    drop(requests);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_run_safely_is_refused_before_it_starts() {
    let network = MemoryNetwork::new();
    let seams = Seams {
        disk: Arc::new(MemoryDisk::default()),
        network: Arc::new(network.named("n0")),
        random: Random::seeded(5),
        runtimes: Runtimes::current(),
        clock: Clock::simulated(START_MS),
    };
    let refusal = async |listen: &str| {
        let mut config = World::config(0);
        config.listen = listen.to_owned();
        let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams.clone()).await;
        bound
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let reachable = refusal("192.0.2.7:7400").await;
    assert!(
        reachable.contains("--insecure") && reachable.contains("ferrolog certs"),
        "{reachable}"
    );
    let wildcard = refusal("0.0.0.0:7400").await;
    assert!(wildcard.contains("--insecure"), "{wildcard}");
    assert_eq!(refusal("127.0.0.1:7400").await, "");
    // Nor may others be told of an address that is not of this machine.
    let mut config = World::config(0);
    config.advertise = Some("192.0.2.7:7400".to_owned());
    let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams.clone()).await;
    let advertised = bound.err().map(|error| error.to_string());
    let advertised = advertised.expect("plain text for everybody is refused");
    assert!(advertised.contains("192.0.2.7") && advertised.contains("--insecure"));
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_keeps_every_acknowledged_record() {
    let mut world = World::new(3).await;
    for round in 0..3 {
        world.produce(&ADDRS, round * 150, round * 150 + 150).await;
        world.power_cut(&[0, 1, 2]).await;
        world.settled().await;
        // A new leader's own entry commits what the old one acknowledged.
        world.check(round * 150 + 150).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_alone_shows_what_was_committed() {
    let mut world = World::new(8).await;
    world.produce(&ADDRS, 0, 500).await;
    world.check(500).await;
    // What is told is written a moment later: time itself is the subject.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..ADDRS.len() {
        world.kill(number).await;
    }
    world.start(1).await;
    let log = world.node(1).log();
    let mut applied = log.watch_applied();
    let there = applied.wait_for(|applied| applied.next_offset >= Offset(500));
    timeout(PATIENCE, there)
        .await
        .expect("it shows all")
        .unwrap();
    let freshness = log.freshness();
    assert_eq!(freshness.staleness, None, "no leader has confirmed it");
    assert_eq!(freshness.held, Offset(500));
    world.start(0).await;
    world.start(2).await;
    world.settled().await;
    world.produce(&ADDRS, 500, 510).await;
    world.check(510).await;
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_a_voter_that_answers() {
    let world = World::new(9).await;
    world.produce(&ADDRS, 0, 50).await;
    world.check(50).await;
    let leader = world.leader();
    let others: Vec<_> = (0..ADDRS.len()).filter(|node| *node != leader).collect();
    for (cut, other) in [(others[0], others[1]), (others[1], others[0])] {
        let leader = world.leader();
        if leader == cut || leader == other {
            let back = others.iter().fold(3, |left, node| left - node);
            let name = format!("n{back}");
            world.node(leader).log().transfer(&name).await.unwrap();
            // The one that leads is told a moment after the others that it may write.
            let mut views = world.node(back).log().watch_view();
            let leads = views.wait_for(|view| view.writable);
            timeout(PATIENCE, leads).await.expect("it leads").unwrap();
        }
        let leader = world.leader();
        world.network.cut(ADDRS[cut]);
        // Longer than two heartbeats, and not long enough to be missed: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        let next = world.node(leader).log().transfer("").await.unwrap();
        assert_eq!(next, format!("n{other}"));
        assert!(began.elapsed() < Duration::from_secs(1));
        world.network.heal(ADDRS[cut]);
        world.settled().await;
    }
}

/// The engine asks for the log's first entry before the node runs, and nothing is mended before that.
#[tokio::test(start_paused = true)]
async fn a_node_starts_on_a_log_whose_first_segment_is_damaged_and_mends_it() {
    let mut world = World::new(10).await;
    world.produce(&ADDRS, 0, 1500).await;
    world.check(1500).await;
    let victim = (world.leader() + 1) % ADDRS.len();
    let dir = PathBuf::from(format!("/n{victim}"));
    let sealed = dir.join("00000000000000000000.seal");
    let begun = Instant::now();
    while world.disks[victim].len_of(&sealed).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the first segment is sealed");
        // Upkeep comes once in a while: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.kill(victim).await;
    // A part of every frame: the file's header is not what this is about.
    world.disks[victim].corrupt(&dir.join("00000000000000000000.store"), |bytes| {
        for byte in bytes.iter_mut().skip(64).step_by(50) {
            *byte ^= 1;
        }
    });
    world.start(victim).await;
    world.settled().await;
    let begun = Instant::now();
    while world
        .node(victim)
        .log()
        .log()
        .read(LogId::DEFAULT, Offset(0), 1)
        .is_err()
    {
        assert!(begun.elapsed() < PATIENCE, "the segment is mended");
        // Mending comes by itself: time itself is the subject.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.check(1500).await;
}
