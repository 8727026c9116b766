//! What goes wrong, when the plan has it: faults come, last for their span, and end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrolog::client::Admin;
use ferrolog::env::Random;
use futures::FutureExt;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use super::disk::{Crash, SimDisk};
use super::events::{fault, sometimes};
use super::nodes::Nodes;
use super::plan::{Fault, When, Who, draw};

/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(20);
/// A node that stopped by itself is started again after so long, as a supervisor does.
const SUPERVISOR: Duration = Duration::from_millis(300);
/// Nodes at most, those that left not counted.
const NODES_MAX: usize = 7;
/// How long one call of an operator tries.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(10);
/// How long an operator tries to have a node removed.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

type Undo = Box<dyn FnOnce(&mut Nemesis) + Send>;
type Removing = JoinHandle<Result<(), String>>;

/// The nodes, and all that is done to them.
pub struct Nemesis {
    pub nodes: Nodes,
    random: Random,
    faults: Vec<(Duration, Fault)>,
    began: Instant,
    undo: Vec<(Instant, Undo)>,
    /// Clocks that go wrong: of whom, by how much a second, until when, and when next.
    drifts: Vec<(usize, i64, Instant, Instant)>,
    /// Nodes on their way out, and whether they come back empty.
    removals: Vec<(usize, bool, Removing)>,
    /// Why nodes stopped that had no reason to.
    pub wrong: Vec<String>,
    last_term: u64,
    /// Whom the last fault struck.
    struck: usize,
}

impl Nemesis {
    pub fn new(nodes: Nodes, random: Random, faults: Vec<(Duration, Fault)>) -> Self {
        Self {
            nodes,
            random,
            faults,
            began: Instant::now(),
            undo: Vec::new(),
            drifts: Vec::new(),
            removals: Vec::new(),
            wrong: Vec::new(),
            last_term: 0,
            struck: 0,
        }
    }

    /// Lets the plan take its course.
    pub async fn run(&mut self, lasts: Duration) {
        self.began = Instant::now();
        while self.began.elapsed() < lasts {
            self.step().await;
            let due = |(at, _): &mut (Duration, Fault)| *at <= self.began.elapsed();
            let due: Vec<_> = self.faults.extract_if(.., due).collect();
            for (_, fault) in due {
                self.strike(fault).await;
            }
        }
    }

    /// A moment in which nodes are looked after, and faults end that are over.
    pub async fn step(&mut self) {
        tokio::time::sleep(LOOK).await;
        for (number, why, ran) in self.nodes.look().await {
            self.stopped(number, &why, ran);
        }
        let now = Instant::now();
        for (_, undo) in self
            .undo
            .extract_if(.., |(at, _)| *at <= now)
            .collect::<Vec<_>>()
        {
            undo(self);
        }
        for (number, by_ms, _, next) in &mut self.drifts {
            if *next <= now {
                self.nodes.all[*number].clock.jump(*by_ms);
                *next += Duration::from_secs(1);
            }
        }
        self.drifts.retain(|(_, _, until, _)| *until > now);
        self.end_removals().await;
        for node in &mut self.nodes.all {
            let leads = node
                .agent()
                .is_some_and(|agent| agent.log().view().writable);
            let led = std::mem::replace(&mut node.led, leads);
            if led && !leads && node.agent().is_some() && node.disk.has_unsynced(&node.log_dir()) {
                sometimes("a leader was deposed with entries unsynced");
            }
        }
        let terms = self.nodes.all.iter().filter_map(|node| {
            let view = node.agent()?.log().view();
            view.writable.then_some(view.term)
        });
        let term = terms.max().unwrap_or(0);
        if self.last_term > 0 && term > self.last_term {
            sometimes("a leader was elected after the first");
        }
        self.last_term = self.last_term.max(term);
    }

    fn stopped(&mut self, number: usize, why: &str, ran: bool) {
        let node = &mut self.nodes.all[number];
        if node
            .down_until
            .is_none_or(|until| until < Instant::now() + SUPERVISOR)
        {
            node.down_until = Some(Instant::now() + SUPERVISOR);
        }
        // A directory cannot be prepared on a full disk, nor opened without descriptors; who runs goes on.
        let lacks = why.contains("no storage space") || why.contains("Too many open files");
        let is_expected = why == "crashed" || why == "stopped" || node.disk_fails;
        let is_expected = is_expected || (lacks && !ran);
        let is_leaving = self.removals.iter().any(|(leaving, ..)| *leaving == number);
        if why.contains("panicked") || (!is_expected && !is_leaving && node.is_wanted) {
            self.wrong.push(format!("{} stopped: {why}", node.name()));
        }
    }

    /// The faults are over: all that was broken is whole, and whoever is to run does.
    pub fn heal(&mut self) {
        for (_, undo) in std::mem::take(&mut self.undo) {
            undo(self);
        }
        self.drifts.clear();
        self.nodes.network.heal();
        for node in &mut self.nodes.all {
            node.down_until = None;
            node.disk.calm();
        }
    }

    /// Whether nobody is on the way out.
    pub fn is_at_rest(&self) -> bool {
        self.removals.is_empty()
    }

    fn later(&mut self, span: Duration, undo: impl FnOnce(&mut Nemesis) + Send + 'static) {
        self.undo.push((Instant::now() + span, Box::new(undo)));
    }

    /// The nodes that a fault strikes now.
    fn whom(&self, who: Who) -> Vec<usize> {
        let leader = self.nodes.leader();
        let wanted = self.nodes.all.iter().filter(|node| node.is_wanted);
        let wanted: Vec<_> = wanted.map(|node| node.number).collect();
        let others: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|one| Some(*one) != leader)
            .collect();
        match (who, leader) {
            (Who::All, _) => wanted,
            (Who::Same, _) if wanted.contains(&self.struck) => vec![self.struck],
            (Who::Leader, Some(leader)) => vec![leader],
            (Who::Other(at), _) if !others.is_empty() => vec![others[at as usize % others.len()]],
            _ => wanted.into_iter().take(1).collect(),
        }
    }

    fn one(&mut self, who: Who) -> usize {
        self.struck = self.whom(who)[0];
        self.struck
    }

    fn name(&self, number: usize) -> String {
        self.nodes.all[number].name()
    }

    async fn strike(&mut self, what: Fault) {
        let shown = format!("{what:?}");
        match what {
            Fault::Crash {
                who,
                crash,
                when,
                down,
            } => {
                self.crash(who, crash, when, down).await;
            }
            Fault::Stop { who, down } => {
                fault("node stopped", &shown);
                let number = self.one(who);
                self.nodes.all[number].down_until = Some(Instant::now() + down);
                self.nodes.stop(number);
            }
            Fault::Isolate { who, span } => {
                fault("node cut off", &shown);
                let number = self.one(who);
                self.hold_all(number, true, span);
            }
            Fault::Alone { who, span } => {
                fault("node cut off from nodes", &shown);
                let number = self.one(who);
                self.hold_all(number, false, span);
            }
            Fault::Freeze { who, span } => {
                fault("node frozen", &shown);
                let number = self.one(who);
                self.nodes.all[number].freeze(true);
                self.later(span, move |nemesis| nemesis.nodes.all[number].freeze(false));
            }
            Fault::Cut { from, to, span } => {
                fault("way cut", &shown);
                let (from, to) = self.way(from, to);
                self.nodes.network.hold(&from, &to, true);
                self.later(span, move |nemesis| {
                    nemesis.nodes.network.hold(&from, &to, false)
                });
            }
            Fault::Reset { who } => {
                fault("streams reset", &shown);
                let number = self.one(who);
                self.nodes.network.reset(&self.name(number), None);
            }
            Fault::HalfClose { from, to } => {
                fault("streams half closed", &shown);
                let (from, to) = self.way(from, to);
                self.nodes.network.half_close(&from, &to);
            }
            Fault::Refuse { who, span } => {
                fault("dials refused", &shown);
                let number = self.one(who);
                let name = self.name(number);
                self.nodes.network.refuse(&name, true);
                self.later(span, move |nemesis| {
                    nemesis.nodes.network.refuse(&name, false)
                });
            }
            Fault::Weather { weather, span } => {
                fault("bad network", &shown);
                self.nodes.network.set_usual(weather);
                self.later(span, |nemesis| {
                    nemesis.nodes.network.set_usual(Default::default())
                });
            }
            Fault::Way {
                from,
                to,
                weather,
                span,
            } => {
                fault("bad way", &shown);
                let (from, to) = self.way(from, to);
                self.nodes.network.set_way(&from, &to, Some(weather));
                self.later(span, move |nemesis| {
                    nemesis.nodes.network.set_way(&from, &to, None)
                });
            }
            Fault::Transfer { to } => {
                fault("leadership moved", &shown);
                let number = self.one(to);
                let (to, admin) = (self.name(number), self.admin());
                spawn_local(async move { admin.transfer(Some(&to)).await });
            }
            other => self.strike_one(other, &shown).await,
        }
    }

    /// Faults of disks, clocks and the membership.
    async fn strike_one(&mut self, what: Fault, shown: &str) {
        match what {
            Fault::DiskLate { who, late_us, span } => {
                fault("disk late", shown);
                self.struck = self.whom(who)[0];
                for number in self.whom(who) {
                    self.late(number, late_us, span);
                }
            }
            Fault::SyncsFail { who, span } => {
                fault("syncs fail", shown);
                self.struck = self.whom(who)[0];
                for number in self.whom(who) {
                    self.nodes.all[number].disk.fail_syncs(true);
                    self.nodes.all[number].disk_fails = true;
                    self.later(span, move |nemesis| {
                        nemesis.nodes.all[number].disk.fail_syncs(false)
                    });
                }
            }
            Fault::FewFiles { who, left, span } => {
                fault("few files", shown);
                let number = self.one(who);
                self.nodes.all[number].disk.leave_files(Some(left));
                self.later(span, move |nemesis| {
                    nemesis.nodes.all[number].disk.leave_files(None)
                });
            }
            Fault::StaleRead { at } => self.stale_read(at),
            Fault::DiskFails {
                who,
                of_10000,
                span,
            } => {
                let number = self.one(who);
                self.nodes.all[number].disk.fail(of_10000);
                self.nodes.all[number].disk_fails = true;
                self.later(span, move |nemesis| {
                    let node = &mut nemesis.nodes.all[number];
                    node.disk.fail(0);
                });
            }
            Fault::DiskFull { who, span } => {
                fault("disk full", shown);
                for number in self.whom(who) {
                    self.nodes.all[number].disk.fill(true);
                    self.later(span, move |nemesis| {
                        nemesis.nodes.all[number].disk.fill(false)
                    });
                }
            }
            Fault::Rot { at } => self.rot(at),
            Fault::Clock { who, by_ms } => {
                fault("clock jumped", shown);
                let number = self.one(who);
                self.nodes.all[number].clock.jump(by_ms);
            }
            Fault::Drift {
                who,
                ms_in_second,
                span,
            } => {
                fault("clock drifts", shown);
                let (number, now) = (self.one(who), Instant::now());
                self.drifts.push((number, ms_in_second, now + span, now));
            }
            Fault::Move { who } => self.relocate(who).await,
            Fault::Replace { who } => self.remove(who, true, shown),
            Fault::Leave { who } => self.remove(who, false, shown),
            Fault::Join => {
                let here = self.nodes.all.iter().filter(|node| node.is_wanted).count();
                if here < NODES_MAX && self.nodes.all.len() < 10 {
                    fault("node joined", shown);
                    self.nodes.add();
                }
            }
            other => unreachable!("{other:?} is dealt with"),
        }
    }

    async fn crash(&mut self, who: Who, crash: Crash, when: When, down: Duration) {
        let kind = match crash {
            Crash::Process => "process killed",
            Crash::Power | Crash::PowerAtWorst => "power lost",
        };
        let all = self.whom(who);
        self.struck = all[0];
        for number in &all {
            fault(kind, format_args!("n{number} {when:?}"));
            let node = &mut self.nodes.all[*number];
            if !node.is_off() {
                node.down_until = Some(Instant::now() + down);
            }
        }
        if !matches!(when, When::Now) {
            let disk = |number: &usize| self.nodes.all[*number].disk.clone();
            let disks: Vec<_> = all.iter().map(disk).collect();
            return SimDisk::crash_in(&disks, when, crash);
        }
        // At once: none of them does anything after another one has gone.
        for number in &all {
            self.nodes.all[*number].disk.crash(crash);
        }
        for number in all {
            self.nodes.crash(number, crash).await;
        }
    }

    /// The names of two nodes.
    fn way(&mut self, from: Who, to: Who) -> (String, String) {
        let (from, to) = (self.one(from), self.one(to));
        (self.name(from), self.name(to))
    }

    /// Cuts a node off from the others, and from clients or not.
    fn hold_all(&mut self, number: usize, from_clients: bool, span: Duration) {
        let (name, network) = (self.name(number), self.nodes.network.clone());
        let clients = (1..=16).filter(|_| from_clients);
        let clients = clients.map(|number| format!("c{number}"));
        let nodes = self.nodes.all.iter().map(|node| node.name());
        let others: Vec<_> = nodes
            .chain(clients)
            .filter(|other| *other != name)
            .collect();
        for other in &others {
            network.hold(&name, other, true);
            network.hold(other, &name, true);
        }
        self.later(span, move |_| {
            for other in &others {
                network.hold(&name, other, false);
                network.hold(other, &name, false);
            }
        });
    }

    fn late(&mut self, number: usize, late_us: u64, span: Duration) {
        let late = self.nodes.all[number].late_us.clone();
        late.store(late_us, Ordering::Relaxed);
        self.later(span, move |_| late.store(0, Ordering::Relaxed));
    }

    /// Flips a bit in a sealed segment, always of the same node: what another holds mends it.
    fn rot(&mut self, at: u64) {
        let node = &self.nodes.all[self.nodes.all.len() - 1];
        let sealed = node.disk.sealed(&node.log_dir());
        if self.nodes.all.len() < 3 || sealed.is_empty() || !node.is_wanted {
            return;
        }
        let path = &sealed[at as usize % sealed.len()];
        fault("bit flipped", path.display());
        node.disk.disk().corrupt(path, |bytes| {
            let place = (at >> 8) as usize % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << (at % 8);
            }
        });
    }

    /// Has one read of a sealed segment show a sector that was never written, of the node that rot strikes.
    fn stale_read(&mut self, at: u64) {
        let node = &self.nodes.all[self.nodes.all.len() - 1];
        let sealed = node.disk.sealed(&node.log_dir());
        if self.nodes.all.len() < 3 || sealed.is_empty() || !node.is_wanted {
            return;
        }
        let path = &sealed[at as usize % sealed.len()];
        fault("stale read", path.display());
        node.disk.disk().read_stale(path, (at >> 8) as usize);
    }

    /// Starts a node again at another address. The first keeps its own, so that clients find one.
    async fn relocate(&mut self, who: Who) {
        let number = self.one(who);
        if number == 0 {
            return;
        }
        fault("node moved", format_args!("n{number}"));
        self.nodes.crash(number, Crash::Process).await;
        let port = draw(&self.random, 8000..=60_000);
        self.nodes.all[number].addr = format!("127.0.0.1:{port}");
        self.nodes.start(number);
    }

    fn admin(&self) -> Admin {
        let client = self
            .nodes
            .network
            .client("c0", &self.nodes.addrs(), OPERATOR_PATIENCE);
        client.admin()
    }

    /// Removes a node while all are well, for good or to be replaced by an empty one.
    fn remove(&mut self, who: Who, comes_back: bool, shown: &str) {
        let number = self.one(who);
        let wanted = self.nodes.all.iter().filter(|node| node.is_wanted).count();
        let is_well = self.nodes.are_settled(0).is_ok() && self.removals.is_empty();
        if wanted < 3 || !is_well || (number == 0 && !comes_back) {
            return;
        }
        fault(
            if comes_back {
                "node replaced"
            } else {
                "node left"
            },
            shown,
        );
        if !comes_back {
            self.nodes.all[number].is_wanted = false;
        }
        let (network, addrs) = (self.nodes.network.clone(), self.nodes.known.clone());
        let name = self.name(number);
        // An operator knows where nodes have moved to meanwhile, and one that is out of the cluster does not.
        let admin = move || {
            let addrs = addrs.lock().expect("no panic before").clone();
            network.client("c0", &addrs, OPERATOR_PATIENCE).admin()
        };
        let removing = spawn_local(async move {
            let removed = async {
                while let Err(error) = admin().remove(&name).await {
                    super::events::note(format_args!("remove {name}: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                while comes_back && let Err(error) = admin().allow(&name).await {
                    super::events::note(format_args!("allow {name}: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            let removed = tokio::time::timeout(REMOVAL_MAX, removed).await;
            removed.map_err(|_| format!("{name} could not be removed"))
        });
        self.removals.push((number, comes_back, removing));
    }

    async fn end_removals(&mut self) {
        let mut at = 0;
        while at < self.removals.len() {
            let (number, comes_back, removing) = &mut self.removals[at];
            let Some(ended) = removing.now_or_never() else {
                at += 1;
                continue;
            };
            let (number, comes_back) = (*number, *comes_back);
            self.removals.remove(at);
            if let Err(error) = ended.unwrap_or_else(|error| Err(error.to_string())) {
                self.wrong.push(error);
            }
            self.nodes.crash(number, Crash::Process).await;
            if comes_back {
                self.nodes.start_empty(number);
            }
        }
    }
}
