//! Clocks that are wrong, over three whole nodes in one thread: what they do to the log's time, to what is
//! removed for its age, and to sessions.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::client::{Consistency, ConsumeOptions, ConsumedRecord, Start};
use ferrolog::net::Security;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::proto::v1::{CloseSessionRequest, OpenSessionRequest, Retention};
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use crate::harness::native::{self, Client};
use crate::harness::world::{ADDRS, PATIENCE, World};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
const YEAR_MS: i64 = 365 * DAY_MS;
const JUMPS_MS: [i64; 6] = [MINUTE_MS, DAY_MS, YEAR_MS, -MINUTE_MS, -DAY_MS, -YEAR_MS];
/// What the nodes believe of each other, and what an answer takes.
const BOUND_MS: u64 = 1000 + 200;
const SESSIONS_MAX: u64 = 4096;

/// All records, with their times.
async fn records(world: &World) -> Vec<ConsumedRecord> {
    let client = world.client(&ADDRS);
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(options).unwrap();
    let mut all = Vec::new();
    while let Some(record) = timeout(PATIENCE, consumer.next()).await.expect("an answer") {
        all.push(record.unwrap());
    }
    all
}

/// A world, and how many records are in it.
struct Trial {
    world: World,
    count: u64,
}

impl Trial {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed).await;
        Self { world, count: 0 }
    }

    async fn slow(seed: u64) -> Self {
        let world = World::slow(seed).await;
        Self { world, count: 0 }
    }

    async fn produce(&mut self, count: u64) {
        let next = self.count + count;
        self.world.produce(&ADDRS, self.count, next).await;
        self.count = next;
    }

    /// Appends records: they get the time that it is, whatever some clock says.
    async fn produce_in_time(&mut self, what: &str) {
        let (before, from) = (self.world.clock.now_ms(), self.count);
        self.produce(20).await;
        let after = self.world.clock.now_ms();
        let all = records(&self.world).await;
        let times: Vec<_> = all
            .iter()
            .map(|record| record.append_timestamp_ms)
            .collect();
        assert!(times.is_sorted(), "{what}: times go back");
        for time in &times[from as usize..] {
            let early = before.saturating_sub(*time);
            let late = time.saturating_sub(after);
            assert!(
                early <= BOUND_MS && late <= BOUND_MS,
                "{what}: a record of {before} to {after} has the time {time}"
            );
        }
    }

    /// Has a node lead.
    async fn elect(&self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.world.nodes[node]
            .as_ref()
            .is_none_or(|agent| !agent.log().view().writable)
        {
            assert!(Instant::now() < deadline, "node {node} does not lead");
            let _ = self.world.node(0).log().transfer(&format!("n{node}")).await;
            let mut views = self.world.node(node).log().watch_view();
            let leads = views.wait_for(|view| view.writable);
            let _ = timeout(Duration::from_secs(1), leads).await;
        }
    }
}

/// Lets time pass: the nodes go on.
async fn pass(span: Duration) {
    // time itself is the subject
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn one_clock_that_jumps_does_not_move_the_logs_time() {
    let mut trial = Trial::new(11).await;
    trial.produce_in_time("all clocks are right").await;
    for leads in [true, false] {
        for jump in JUMPS_MS {
            let what = format!("a jump of {jump} ms, leader: {leads}");
            let leader = trial.world.leader();
            let node = if leads { leader } else { (leader + 1) % 3 };
            trial.world.clocks[node].jump(jump);
            trial.produce_in_time(&what).await;
            // Whoever leads, and whatever a node finds when it starts.
            let next = if leads { (node + 1) % 3 } else { node };
            trial.elect(next).await;
            trial
                .produce_in_time(&format!("{what}, another leads"))
                .await;
            trial.world.power_cut(&[next]).await;
            trial.world.settled().await;
            trial
                .produce_in_time(&format!("{what}, it was restarted"))
                .await;
            trial.world.clocks[node].jump(-jump);
            trial
                .produce_in_time(&format!("{what}, and right again"))
                .await;
        }
    }
    let count = trial.count;
    trial.world.check(count).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_ahead_of_all_clocks_heals() {
    let mut trial = Trial::slow(12).await;
    for clock in &trial.world.clocks {
        clock.jump(DAY_MS);
    }
    trial.produce(20).await;
    let ahead = records(&trial.world).await[19].append_timestamp_ms;
    assert!(ahead > trial.world.clock.now_ms() + DAY_MS as u64 / 2);
    for clock in &trial.world.clocks {
        clock.jump(-DAY_MS);
    }
    pass(Duration::from_secs(60)).await;
    trial.produce(20).await;
    let crept = records(&trial.world).await[39].append_timestamp_ms - ahead;
    assert!((3_000..6_000).contains(&crept), "{crept} ms in 60 s");
    let other = (trial.world.leader() + 1) % 3;
    trial.elect(other).await;
    trial.produce(20).await;
    let crept = records(&trial.world).await[59].append_timestamp_ms - ahead;
    assert!((3_000..6_000).contains(&crept), "{crept} ms under another");
    // The clocks reach it.
    for clock in trial.world.clocks.iter().chain([&trial.world.clock]) {
        clock.jump(DAY_MS + MINUTE_MS);
    }
    trial
        .produce_in_time("the clocks have reached the log")
        .await;
}

async fn set_max_age(world: &World, max_age: Duration) {
    let wanted = Retention {
        max_age_ms: max_age.as_millis() as u64,
        ..Retention::default()
    };
    let admin = world.client(&ADDRS).admin();
    admin.set_retention(wanted).await.unwrap();
}

fn first_offset(world: &World) -> u64 {
    let firsts = world.nodes.iter().flatten();
    let firsts = firsts.map(|node| node.log().offsets().0.0);
    firsts.max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_for_its_age_on_the_word_of_one_clock() {
    let max_age = Duration::from_secs(120);
    for jump in [60 * MINUTE_MS, YEAR_MS] {
        let mut trial = Trial::slow(13).await;
        trial.produce(3000).await;
        let leader = trial.world.leader();
        let sealed = trial.world.node(leader).log().log().segments().len();
        assert!(sealed > 2, "{sealed} segments");
        set_max_age(&trial.world, max_age).await;
        trial.world.clocks[leader].jump(jump);
        pass(Duration::from_secs(10)).await;
        assert_eq!(first_offset(&trial.world), 0, "a jump of {jump} ms");
        // Nor of one that finds its segments by a clock that is wrong, and leads.
        trial.world.power_cut(&[leader]).await;
        trial.world.settled().await;
        trial.elect(leader).await;
        pass(Duration::from_secs(10)).await;
        assert_eq!(first_offset(&trial.world), 0, "after a restart");
        // What passed is what counts: then it is old.
        pass(max_age).await;
        let first = first_offset(&trial.world);
        assert!(first > 2000, "records before {first} are gone");
        let count = trial.count;
        trial.produce(1).await;
        let left = records(&trial.world).await;
        assert_eq!(left.last().unwrap().offset, count);
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_with_wrong_times_keeps_its_retention() {
    let max_age = Duration::from_secs(120);
    let mut trial = Trial::slow(14).await;
    for clock in &trial.world.clocks {
        clock.jump(YEAR_MS);
    }
    trial.produce(3000).await;
    for clock in &trial.world.clocks {
        clock.jump(-YEAR_MS);
    }
    set_max_age(&trial.world, max_age).await;
    trial.world.power_cut(&[0, 1, 2]).await;
    trial.world.settled().await;
    pass(max_age / 2).await;
    assert_eq!(first_offset(&trial.world), 0, "it is young");
    pass(max_age).await;
    let first = first_offset(&trial.world);
    assert!(first > 2000, "records before {first} are gone");
}

fn client(world: &World, number: usize) -> Client {
    let network = Arc::new(world.network.named("client"));
    let layer = StreamLayer::new(network, Security::Insecure);
    native::client(&layer, ADDRS[number], ChannelOptions::default())
}

async fn open(client: &Client, token: u64) -> Result<u64, String> {
    let request = OpenSessionRequest {
        log: String::new(),
        secret: u128::from(token).to_be_bytes().to_vec().into(),
    };
    let opened = client.clone().open_session(request).await;
    let opened = opened.map_err(|status| native::reason(&status))?;
    Ok(opened.into_inner().session)
}

#[tokio::test(start_paused = true)]
async fn sessions_give_way_when_they_idled_whatever_the_times_say() {
    let mut trial = Trial::slow(15).await;
    let leader = trial.world.leader();
    // All are wrong, so that the log is ahead for a year.
    for clock in &trial.world.clocks {
        clock.jump(YEAR_MS);
    }
    trial.produce(10).await;
    for clock in &trial.world.clocks {
        clock.jump(-YEAR_MS);
    }
    let calls = client(&trial.world, leader);
    let mut sessions = Vec::new();
    for tokens in (0..SESSIONS_MAX).collect::<Vec<_>>().chunks(256) {
        let opened = tokens.iter().map(|token| open(&calls, *token));
        sessions.extend(join_all(opened).await.into_iter().map(Result::unwrap));
    }
    let full = Err("TOO_MANY_SESSIONS".to_owned());
    assert_eq!(open(&calls, SESSIONS_MAX).await, full);
    // A clock that jumps makes none of them idle.
    trial.world.clocks[leader].jump(DAY_MS);
    pass(Duration::from_secs(4 * 60)).await;
    assert_eq!(open(&calls, SESSIONS_MAX).await, full);
    trial.world.clocks[leader].jump(-DAY_MS);
    pass(Duration::from_secs(8 * 60)).await;
    open(&calls, SESSIONS_MAX).await.unwrap();
    let request = CloseSessionRequest {
        log: String::new(),
        session: sessions[0],
        secret: 0_u128.to_be_bytes().to_vec().into(),
    };
    calls.clone().close_session(request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_of_clocks() {
    let trial = Trial::new(16).await;
    let leader = trial.world.leader();
    let other = (leader + 1) % 3;
    trial.world.clocks[other].jump(-DAY_MS);
    pass(Duration::from_secs(1)).await;
    let admin = trial.world.client(&ADDRS).admin();
    let status = admin.status(Some(ADDRS[leader])).await.unwrap();
    assert_eq!(status.clock_jumps, 0);
    let offset = |number: usize| {
        let name = format!("n{number}");
        let node = status.nodes.iter().find(|node| node.name == name);
        node.unwrap().clock_offset_ms
    };
    assert_eq!(offset(leader), None);
    let off = offset(other).unwrap() + DAY_MS;
    assert!(off.unsigned_abs() < 200, "{off} ms");
    let third = offset((leader + 2) % 3).unwrap();
    assert!(third.unsigned_abs() < 200, "{third} ms");
    let status = admin.status(Some(ADDRS[other])).await.unwrap();
    let (jumps, last) = (status.clock_jumps, status.last_clock_jump_ms);
    assert_eq!(jumps, 1);
    assert!((last + DAY_MS).unsigned_abs() < 200, "{last} ms");
    let behind = trial.world.clock.now_ms() - status.clock_ms;
    assert!(behind.abs_diff(DAY_MS as u64) < 200, "{behind} ms");
}
