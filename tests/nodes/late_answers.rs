//! Strong reads while answers are late: a leader that was cut off and replaced hears, after a read came, what
//! its voters answered before it. No such answer may confirm the read.
//!
//! Answers to votes, heartbeats, appends with and without entries, snapshots and transfers are held back and let
//! through as drawn; what a stream carries keeps its order, as TCP has it.

use std::sync::Arc;
use std::time::Duration;

use ferrolog::agent::Agent;
use ferrolog::env::Random;
use ferrolog::log::Offset;
use ferrolog::log::record::BatchBuilder;
use ferrolog::raft::Answer;
use tokio::time::{Instant, timeout};

use crate::harness::late::{Link, Links};
use crate::harness::world::{ADDRS, PATIENCE, World};

/// Histories in one run of the test.
const HISTORIES: u64 = 16;
/// A leader that is cut off is replaced within this.
const REPLACED_MAX: Duration = Duration::from_secs(4);

/// Draws what happens next.
struct Dice(Random);

impl Dice {
    fn below(&self, count: usize) -> usize {
        (self.0.next_u128() % count as u128) as usize
    }

    fn millis(&self, max: usize) -> Duration {
        Duration::from_millis(self.below(max) as u64)
    }
}

/// Lets time pass: the nodes go on.
async fn pass(span: Duration) {
    // time itself is the subject
    tokio::time::sleep(span).await;
}

async fn propose(node: &Agent, value: &[u8]) -> Answer {
    let mut batch = BatchBuilder::new(None);
    batch.push(value, 0, 0);
    node.log().propose(batch.finish()).await.unwrap()
}

async fn acknowledged(node: &Agent, value: &[u8]) -> Offset {
    let answer = timeout(PATIENCE, propose(node, value).await);
    let receipt = answer.await.expect("an acknowledgement").unwrap().unwrap();
    receipt.ranges[0].first
}

/// Three nodes, one of which leads and will be cut off.
struct Scene {
    world: World,
    links: Links,
    leader: usize,
    others: Vec<usize>,
    dice: Dice,
    told: Vec<String>,
    /// Answers that are kept: a proposal that nobody waits for is not made.
    unanswered: Vec<Answer>,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let links = Links::default();
        let world = World::late(seed, &links).await;
        let leader = world.leader();
        let scene = Self {
            others: (0..ADDRS.len())
                .filter(|number| *number != leader)
                .collect(),
            world,
            links,
            leader,
            dice: Dice(Random::seeded(seed)),
            told: vec![format!("seed {seed}")],
            unanswered: Vec::new(),
        };
        for number in 0..4 + scene.dice.below(8) {
            acknowledged(scene.old(), format!("warm {number}").as_bytes()).await;
        }
        scene
    }

    fn old(&self) -> &Agent {
        self.world.node(self.leader)
    }

    async fn append_unanswered(&mut self) {
        let answer = propose(self.old(), b"unanswered").await;
        self.unanswered.push(answer);
    }

    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    /// What the leader says to the others and hears from them.
    fn out(&self) -> Vec<Arc<Link>> {
        let link = |other: &usize| self.links.between(ADDRS[self.leader], ADDRS[*other]);
        self.others.iter().map(link).collect()
    }

    /// The leader's calls get no answers any more, and one thing after another gives them something to answer.
    async fn gather_answers(&mut self) {
        let slow = self.dice.below(2);
        self.out()[slow].hold(false, true);
        self.out()[1 - slow].hold(false, false);
        if self.dice.below(2) == 0 {
            self.read_without(slow).await;
        }
        self.out()[1 - slow].hold(false, true);
        for _ in 0..1 + self.dice.below(4) {
            match self.dice.below(5) {
                0 | 1 => {
                    let count = 1 + self.dice.below(3);
                    self.tell(format!("{count} appends"));
                    for _ in 0..count {
                        self.append_unanswered().await;
                    }
                }
                2 => {
                    self.tell("a transfer".to_owned());
                    let log = self.old().log().clone();
                    tokio::spawn(async move { log.transfer("").await });
                }
                3 => {
                    self.tell("a read".to_owned());
                    let log = self.old().log().clone();
                    tokio::spawn(async move { log.read_barrier().await });
                }
                _ => self.tell("nothing but heartbeats".to_owned()),
            }
            pass(self.dice.millis(70)).await;
        }
    }

    /// A read that the other voter confirms: this one's answer stays on its way.
    async fn read_without(&mut self, slow: usize) {
        self.tell(format!("a read without {slow}"));
        let read = self.old().log().read_barrier();
        timeout(PATIENCE, read).await.expect("it ends").unwrap();
    }

    /// One of the others lacks what the leader gave up: a snapshot is on its way to it.
    async fn send_a_snapshot(&mut self) {
        let behind = self.others[self.dice.below(2)];
        self.tell(format!("node {behind} needs a snapshot"));
        self.world.network.cut(ADDRS[behind]);
        for _ in 0..60 {
            acknowledged(self.old(), &[7; 4096]).await;
        }
        let log = self.old().log().clone();
        log.trim(Offset(50)).await.unwrap();
        let trimmed = async {
            while log.log().first_entry().0 < 20 {
                pass(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, trimmed).await.expect("files go");
        self.world.network.heal(ADDRS[behind]);
        for link in self.out() {
            link.hold(false, true);
        }
        pass(self.dice.millis(200)).await;
    }

    /// Cuts the leader off, both ways: nothing is lost, all is late. Gives its successor.
    async fn replace(&mut self) -> usize {
        for other in &self.others {
            self.links
                .between(ADDRS[*other], ADDRS[self.leader])
                .hold(true, true);
        }
        for link in self.out() {
            link.hold(true, true);
        }
        let begun = Instant::now();
        loop {
            let leads = |number: &&usize| self.world.node(**number).log().view().writable;
            if let Some(new) = self.others.iter().find(leads) {
                return *new;
            }
            assert!(begun.elapsed() < REPLACED_MAX, "{:?}", self.told);
            pass(Duration::from_millis(10)).await;
        }
    }

    /// Lets late answers arrive one by one, in an order that is drawn.
    async fn let_answers_arrive(&mut self) {
        for _ in 0..16 {
            let links = self.out();
            let waiting = links.iter().enumerate().flat_map(|(place, link)| {
                let held = link.held().into_iter().enumerate();
                held.filter(|(_, held)| *held > 0)
                    .map(move |(stream, _)| (place, stream))
            });
            let waiting: Vec<_> = waiting.collect();
            if waiting.is_empty() {
                return;
            }
            let (place, stream) = waiting[self.dice.below(waiting.len())];
            self.tell(format!("an answer of {place} on stream {stream}"));
            links[place].pass_one(stream);
            pass(self.dice.millis(40)).await;
        }
    }
}

/// One history: gives how many strong reads the deposed leader let through, late answers or not.
async fn history(seed: u64) {
    let mut scene = Scene::new(seed).await;
    if seed % 4 == 3 {
        scene.send_a_snapshot().await;
    }
    scene.gather_answers().await;
    let new = scene.replace().await;
    let acked = acknowledged(scene.world.node(new), b"by the successor").await;
    let mut reads = Vec::new();
    for _ in 0..3 {
        let log = scene.old().log().clone();
        reads.push(tokio::spawn(async move {
            let passed = log.read_barrier().await;
            (passed, log.offsets().1)
        }));
        pass(scene.dice.millis(60)).await;
        scene.let_answers_arrive().await;
    }
    // Everything flows again: the old leader learns that it is one no more, and reads go on.
    for other in scene.others.clone() {
        scene
            .links
            .between(ADDRS[other], ADDRS[scene.leader])
            .hold(false, false);
    }
    for link in scene.out() {
        link.hold(false, false);
    }
    for read in reads {
        let (passed, next) = timeout(PATIENCE, read).await.expect("it ends").unwrap();
        assert!(
            passed.is_err() || next > acked,
            "STALE: a strong read ends before {next}, {acked} was acknowledged before it: {:?}",
            scene.told
        );
    }
    let again = timeout(PATIENCE, scene.old().log().read_barrier()).await;
    again.expect("it ends").expect("the old leader follows");
    assert!(scene.old().log().offsets().1 > acked);
}

#[tokio::test(start_paused = true)]
async fn late_answers_confirm_no_strong_read() {
    for seed in 0..HISTORIES {
        history(seed).await;
    }
}

/// The shortest history that deceives a leader which counts what it hears: two appends are answered before the
/// read came, and heard after it.
#[tokio::test(start_paused = true)]
async fn answers_to_appends_before_a_read_do_not_confirm_it() {
    let mut scene = Scene::new(7).await;
    for link in scene.out() {
        link.hold(false, true);
    }
    for _ in 0..2 {
        scene.append_unanswered().await;
        pass(Duration::from_millis(20)).await;
    }
    let new = scene.replace().await;
    let acked = acknowledged(scene.world.node(new), b"by the successor").await;
    let log = scene.old().log().clone();
    let read = tokio::spawn(async move {
        let passed = log.read_barrier().await;
        (passed, log.offsets().1)
    });
    pass(Duration::from_millis(50)).await;
    for _ in 0..2 {
        let link = &scene.out()[0];
        for (stream, held) in link.held().into_iter().enumerate() {
            if held > 0 {
                link.pass_one(stream);
            }
        }
        pass(Duration::from_millis(30)).await;
    }
    let (passed, next) = timeout(PATIENCE, read).await.expect("it ends").unwrap();
    assert!(
        passed.is_err() || next > acked,
        "STALE: the read ends before {next}, {acked} was acknowledged before it"
    );
}
