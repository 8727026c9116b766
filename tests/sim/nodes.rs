//! The nodes of a simulation: the ones that `ferrolog serve` runs, on seams of ours.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrolog::agent::{Agent, Bound, Runtimes, Seams};
use ferrolog::config::{Config, Options};
use ferrolog::disk::memory::MemoryDisk;
use ferrolog::env::{Clock, Random};
use ferrolog::log::{IoDelay, SegmentInfo};
use ferrolog::net::Security;
use ferrolog::server::Policy;
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::disk::{Crash, SimDisk};
use super::draw;
use super::events;
use super::network::{Life, SimNetwork};
use super::plan::Settings;
use super::system::START_MS;

/// A node, running or not.
pub struct Node {
    pub number: usize,
    pub addr: String,
    pub disk: SimDisk,
    pub clock: Clock,
    life: Life,
    run: Run,
    /// How often it was started.
    starts: u64,
    /// Whether it begins the cluster.
    begins: bool,
    /// Off until then; `None` once it is to run.
    pub down_until: Option<Instant>,
    /// Whether it is to be a voter in the end.
    pub is_wanted: bool,
    /// By how much its disk is later than usual, in microseconds.
    pub late_us: Arc<AtomicU64>,
    /// Whether its disk fails now and then.
    pub disk_fails: bool,
    /// Whether it led at the last look.
    pub led: bool,
}

enum Run {
    Off,
    Starting(JoinHandle<Result<Agent, String>>),
    On(Box<Agent>),
    Stopping(JoinHandle<()>),
}

/// All nodes, and what they stand on.
pub struct Nodes {
    pub network: SimNetwork,
    pub settings: Settings,
    random: Random,
    pub all: Vec<Node>,
    /// Where they are, for whoever asks later.
    pub known: Arc<Mutex<Vec<String>>>,
}

impl Node {
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Where its log is.
    pub fn log_dir(&self) -> PathBuf {
        Path::new(&format!("/{}", self.name())).to_owned()
    }

    pub fn agent(&self) -> Option<&Agent> {
        match &self.run {
            Run::On(agent) => Some(agent),
            _ => None,
        }
    }

    /// Stops its process where it is, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        self.life.process.freeze(is_frozen);
    }

    pub fn is_off(&self) -> bool {
        matches!(self.run, Run::Off)
    }
}

impl Nodes {
    pub fn new(network: SimNetwork, settings: Settings, random: Random) -> Self {
        Self {
            network,
            settings,
            random,
            all: Vec::new(),
            known: Arc::default(),
        }
    }

    /// Adds a node with an empty disk and starts it.
    pub fn add(&mut self) -> usize {
        let number = self.all.len();
        let (life, disk) = (Life::new(), MemoryDisk::default());
        self.all.push(Node {
            number,
            addr: format!("127.0.0.1:{}", 7001 + number),
            disk: SimDisk::new("", disk, &self.network, &life, &self.random),
            clock: Clock::simulated(START_MS),
            life,
            run: Run::Off,
            starts: 0,
            begins: number == 0,
            down_until: None,
            is_wanted: true,
            late_us: Arc::default(),
            disk_fails: false,
            led: false,
        });
        self.start_on(number, MemoryDisk::default());
        number
    }

    fn config(&self, number: usize) -> Config {
        let node = &self.all[number];
        let others: Vec<_> = self
            .all
            .iter()
            .filter(|other| other.number != number)
            .collect();
        let join: Vec<_> = others
            .iter()
            .map(|other| format!("'{}'", other.addr))
            .collect();
        let settings = &self.settings;
        let text = format!(
            "name = '{}'\ndata_dir = '/{}'\nlisten = '{}'\ninsecure = true\nbootstrap = {}\njoin = [{}]\n\
             segment_bytes_max = {}\nrecord_bytes_max = {}\nheartbeat_ms = {}",
            node.name(),
            node.name(),
            node.addr,
            node.begins,
            join.join(", "),
            settings.segment_bytes_max,
            settings.record_bytes_max,
            settings.heartbeat_ms,
        );
        let options = Options::parse(&text, "simulated.toml".into()).expect("settings");
        let mut config = options.resolve().expect("settings that can be run with");
        config.log.inline_io = true;
        let (random, usual_us) = (self.random.clone(), settings.disk_late_us);
        let more_us = node.late_us.clone();
        let late = move || {
            let usual_us = draw(&random, usual_us.0..=usual_us.1);
            Duration::from_micros(usual_us + more_us.load(Ordering::Relaxed))
        };
        config.log.io_delay = Some(IoDelay::new(late));
        config.log.tail_cache_bytes_max = settings.tail_cache_bytes_max;
        config.log.files_max = settings.files_max;
        config.scrub_bytes_per_second = settings.scrub_bytes_per_second;
        config.rewrite_dead_percent = settings.rewrite_dead_percent;
        config
    }

    fn start_on(&mut self, number: usize, disk: MemoryDisk) {
        let life = Life::new();
        *self.known.lock().expect("no panic before") = self.addrs();
        let config = self.config(number);
        let node = &mut self.all[number];
        node.life = life.clone();
        let under = SimDisk::new(
            &format!("n{number}"),
            disk,
            &self.network,
            &life,
            &self.random,
        );
        under.go_on_as(&node.disk);
        node.disk = under;
        node.starts += 1;
        let seams = Seams {
            disk: Arc::new(node.disk.disk()),
            network: Arc::new(self.network.of(&node.name(), &life)),
            // The simulation's.
            random: Random::system(),
            runtimes: Runtimes::current(),
            clock: node.clock.clone(),
        };
        events::note(format_args!("start n{number} at {}", node.addr));
        node.run = Run::Starting(tokio::spawn(life.process.run(async move {
            let bound = Bound::bind(config, Security::Insecure, Policy::default(), seams);
            let bound = bound.await.map_err(|error| told(&error))?;
            bound.start().await.map_err(|error| told(&error))
        })));
    }

    /// Ends a node's process as a crash would.
    pub async fn crash(&mut self, number: usize, crash: Crash) {
        let node = &mut self.all[number];
        let left = node.disk.crash(crash);
        // What is left of it takes note.
        node.freeze(false);
        match std::mem::replace(&mut node.run, Run::Off) {
            Run::On(agent) => agent.kill().await,
            Run::Starting(start) => {
                start.abort();
                if let Ok(Ok(agent)) = start.await {
                    agent.kill().await;
                }
            }
            Run::Stopping(stop) => {
                stop.abort();
                let _ = stop.await;
            }
            Run::Off => {}
        }
        let life = Life::new();
        let alone = SimDisk::new("", left, &self.network, &life, &self.random);
        alone.go_on_as(&node.disk);
        node.disk = alone;
    }

    /// Has a node stop as an operator does.
    pub fn stop(&mut self, number: usize) {
        let node = &mut self.all[number];
        match std::mem::replace(&mut node.run, Run::Off) {
            Run::On(agent) => {
                let stop = node.life.process.clone().run(agent.shutdown());
                node.run = Run::Stopping(tokio::spawn(stop));
            }
            other => node.run = other,
        }
    }

    /// Starts a node that is off, on what its disk holds.
    pub fn start(&mut self, number: usize) {
        self.all[number].down_until = None;
        let disk = self.all[number].disk.disk();
        self.start_on(number, disk);
    }

    /// Starts it on an empty disk.
    pub fn start_empty(&mut self, number: usize) {
        let node = &mut self.all[number];
        node.begins = false;
        node.down_until = None;
        self.start_on(number, MemoryDisk::default());
    }

    /// Takes note of starts that ended and of processes that did; gives why those stopped that did, and whether
    /// they ran before.
    pub async fn look(&mut self) -> Vec<(usize, String, bool)> {
        let mut stopped = Vec::new();
        for number in 0..self.all.len() {
            let node = &mut self.all[number];
            let over = node.disk.is_over();
            let ran = !matches!(node.run, Run::Starting(_));
            let why = match &mut node.run {
                Run::Starting(start) => match start.now_or_never() {
                    Some(Ok(Ok(agent))) => {
                        events::note(format_args!("n{number} runs"));
                        node.run = Run::On(Box::new(agent));
                        over.then(|| "crashed".to_owned())
                    }
                    Some(Ok(Err(error))) => {
                        node.run = Run::Off;
                        Some(if over { "crashed".to_owned() } else { error })
                    }
                    Some(Err(error)) => {
                        node.run = Run::Off;
                        Some(error.to_string())
                    }
                    None => over.then(|| "crashed".to_owned()),
                },
                Run::On(_) if over => Some("crashed".to_owned()),
                Run::On(agent) => agent.failed().now_or_never().map(|error| told(&*error)),
                Run::Stopping(_) if over => Some("crashed".to_owned()),
                Run::Stopping(stop) => stop.now_or_never().map(|_| {
                    node.run = Run::Off;
                    "stopped".to_owned()
                }),
                Run::Off => None,
            };
            if let Some(why) = why {
                events::note(format_args!("n{number} stopped: {why}"));
                self.crash(number, Crash::Process).await;
                stopped.push((number, why, ran));
            }
            let node = &self.all[number];
            let is_due = node.down_until.is_none_or(|until| until <= Instant::now());
            if node.is_wanted && node.is_off() && is_due {
                self.start(number);
            }
        }
        stopped
    }

    /// Whether all that are wanted run, vote, know a leader and have applied the same, up to `next` at least.
    pub fn are_settled(&self, next: u64) -> Result<(), String> {
        let wanted = || self.all.iter().filter(|node| node.is_wanted);
        let mut names: Vec<_> = wanted().map(Node::name).collect();
        names.sort();
        let mut applied = None;
        for node in wanted() {
            let name = node.name();
            let log = node.agent().ok_or(format!("{name} does not run"))?.log();
            let view = log.view();
            let voters = view.members.iter().filter(|member| member.voter);
            let mut voters: Vec<_> = voters.map(|member| member.member.name.clone()).collect();
            voters.sort();
            if voters != names || view.joint {
                return Err(format!("{name} sees the voters {voters:?}, not {names:?}"));
            }
            let at = view
                .members
                .iter()
                .find(|member| member.member.name == name);
            if at.is_none_or(|member| member.member.addr != node.addr) {
                return Err(format!("{name} is not known at {}", node.addr));
            }
            if view.leader.is_none() {
                return Err(format!("{name} knows no leader"));
            }
            let there = log.watch_applied().borrow().next_offset.0;
            if there < next || *applied.get_or_insert(there) != there {
                return Err(format!(
                    "{name} has applied {there}, others {applied:?} of {next}"
                ));
            }
        }
        Ok(())
    }

    /// Whether what one has rewritten all have rewritten: each whose segments begin and end where the one does.
    pub fn are_rewritten_alike(&self) -> Result<(), String> {
        let wanted = self.all.iter().filter(|node| node.is_wanted);
        let held =
            wanted.filter_map(|node| Some((node.name(), node.agent()?.log().log().segments())));
        let held: Vec<_> = held.collect();
        for (name, segments) in &held {
            for segment in segments.iter().filter(|one| one.name.rewritten.is_some()) {
                let (base, next) = (segment.base, segment.next_index);
                for (other, theirs) in &held {
                    let inside = |held: &&SegmentInfo| base <= held.base && held.next_index <= next;
                    let inside: Vec<_> = theirs.iter().filter(inside).collect();
                    let is_all = inside.first().is_some_and(|first| first.base == base)
                        && inside.last().is_some_and(|last| last.next_index == next);
                    let late = |held: &&&SegmentInfo| held.name.rewritten < segment.name.rewritten;
                    if let Some(late) = inside.iter().find(late).filter(|_| is_all) {
                        return Err(format!(
                            "{name} has rewritten {base}..{next}, and {other} has {:?} there",
                            late.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    pub fn addrs(&self) -> Vec<String> {
        self.all.iter().map(|node| node.addr.clone()).collect()
    }

    /// The node that leads, as the latest term has it.
    pub fn leader(&self) -> Option<usize> {
        let views = self.all.iter().filter_map(|node| {
            let view = node.agent()?.log().view();
            view.writable.then_some((view.term, node.number))
        });
        views.max().map(|(_, number)| number)
    }
}

/// An error with its sources.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text = format!("{text}: {source}");
        at = source.source();
    }
    text
}
