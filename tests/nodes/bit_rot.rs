//! Rot in each kind of file, of each kind, on leader and follower: what a node makes of it.
//!
//! `cargo test --test nodes -- bit_rot --nocapture` prints the table. Nodes are simulated: the files, the checks and
//! the repair over the network are the real ones, the times are of the paused clock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::until;
use crate::harness::world::{ADDRS, PATIENCE, World, value};
use ferrolog::agent::Agent;
use ferrolog::disk::Disk;
use ferrolog::disk::memory::{Event, MemoryDisk};
use ferrolog::log::{Index, LogId, Offset};
use tokio::time::{Instant, timeout};

const RECORDS: u64 = 3600;
const PAGE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotten {
    Store,
    Index,
    /// What a snapshot's manifest is made of.
    Seal,
    /// Which rows are whose, in the seal's file.
    Directory,
    Stable,
    /// The page of the stable store that the identity stands on.
    Identity,
    Vote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Flip,
    Truncated,
    ZeroPage,
    StalePage,
    ReadError,
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
}

const FILES: [Rotten; 7] = [
    Rotten::Store,
    Rotten::Index,
    Rotten::Seal,
    Rotten::Directory,
    Rotten::Stable,
    Rotten::Identity,
    Rotten::Vote,
];
const FAULTS: [Fault; 6] = [
    Fault::Flip,
    Fault::Truncated,
    Fault::ZeroPage,
    Fault::StalePage,
    Fault::ReadError,
    Fault::Missing,
];

/// A node and the file in it that rots.
struct Cell {
    world: World,
    node: usize,
    path: PathBuf,
    /// An older state of the file, or another of its kind.
    stale: Vec<u8>,
    /// What the file holds before it rots.
    sound: Vec<u8>,
    /// Places that matter: in the stable store, every page that may hold the value, old ones too.
    at: Vec<usize>,
}

fn file_bytes(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl Cell {
    async fn new(file: Rotten, role: Role) -> Self {
        let world = World::new(7).await;
        let dirs = |number: usize| PathBuf::from(format!("/n{number}"));
        world.produce(&ADDRS, 0, RECORDS / 2).await;
        let old: Vec<_> = (0..ADDRS.len())
            .map(|number| file_bytes(&world.disks[number], &dirs(number).join("stable.redb")))
            .collect();
        let old_votes: Vec<_> = (0..ADDRS.len())
            .map(|number| file_bytes(&world.disks[number], &dirs(number).join("vote")))
            .collect();
        world.produce(&ADDRS, RECORDS / 2, RECORDS).await;
        world.check(RECORDS).await;
        for number in 0..ADDRS.len() {
            until("segments are sealed", async || {
                (sealed(world.node(number)).len() >= 2).then_some(())
            })
            .await;
        }
        let leader = world.leader();
        let node = match role {
            Role::Leader => leader,
            Role::Follower => (leader + 1) % ADDRS.len(),
        };
        let dir = dirs(node);
        let bases = sealed(world.node(node));
        let name = |base: Index, suffix: &str| dir.join(format!("{:020}.{suffix}", base.0));
        let disk = &world.disks[node];
        let (path, stale, at) = match file {
            Rotten::Store => (
                name(bases[1], "store"),
                file_bytes(disk, &name(bases[0], "store")),
                vec![9000],
            ),
            Rotten::Index => (
                name(bases[1], "index"),
                file_bytes(disk, &name(bases[0], "index")),
                vec![40],
            ),
            Rotten::Seal => (
                name(bases[1], "seal"),
                file_bytes(disk, &name(bases[0], "seal")),
                vec![60],
            ),
            Rotten::Directory => {
                let path = name(bases[1], "seal");
                let at = file_bytes(disk, &path).len() - 20;
                let other = file_bytes(disk, &name(bases[0], "seal"));
                (path, other, vec![at])
            }
            Rotten::Vote => (dir.join("vote"), old_votes[node].clone(), vec![3]),
            Rotten::Stable | Rotten::Identity => {
                let path = dir.join("stable.redb");
                let bytes = file_bytes(disk, &path);
                let wanted: &[u8] = match file {
                    Rotten::Identity => world.node(node).log().identity().directory_id.as_bytes(),
                    _ => b"checkpoint",
                };
                let places = bytes.windows(wanted.len()).enumerate();
                let at: Vec<_> = places
                    .filter(|(_, part)| *part == wanted)
                    .map(|(at, _)| at + 2)
                    .collect();
                assert!(!at.is_empty(), "it stands there");
                (path, old[node].clone(), at)
            }
        };
        Self {
            sound: file_bytes(disk, &path),
            world,
            node,
            path,
            stale,
            at,
        }
    }

    /// Makes the file rot. A read error stays until the file is moved away or written anew.
    fn inject(&self, fault: Fault) {
        let disk = &self.world.disks[self.node];
        let pages = self.at.iter().map(|at| at / PAGE * PAGE);
        match fault {
            Fault::Flip => disk.corrupt(&self.path, |bytes| {
                self.at.iter().for_each(|at| bytes[*at] ^= 0x10);
            }),
            Fault::Truncated => disk.corrupt(&self.path, |bytes| bytes.truncate(self.at[0])),
            Fault::ZeroPage => disk.corrupt(&self.path, |bytes| {
                for page in pages {
                    let end = (page + PAGE).min(bytes.len());
                    bytes[page..end].fill(0);
                }
            }),
            Fault::StalePage => disk.corrupt(&self.path, |bytes| {
                for page in pages {
                    let end = (page + PAGE).min(bytes.len()).min(self.stale.len());
                    let from = page.min(end);
                    bytes[from..end].copy_from_slice(&self.stale[from..end]);
                }
            }),
            Fault::Missing => disk.remove(&self.path).unwrap(),
            Fault::ReadError => {
                let rotten = self.path.clone();
                let gone = Arc::new(AtomicBool::new(false));
                let is_seal = rotten.extension().is_some_and(|kind| kind == "seal");
                disk.watch(move |event, path| {
                    let replaces = is_seal && path.ends_with("new-seal");
                    if path != rotten && !(replaces && event == Event::Rename) {
                        return Ok(());
                    }
                    match event {
                        Event::Rename | Event::Write | Event::Remove => {
                            gone.store(true, Ordering::SeqCst);
                            Ok(())
                        }
                        Event::Read if !gone.load(Ordering::SeqCst) => {
                            Err(io::Error::other("injected"))
                        }
                        _ => Ok(()),
                    }
                });
            }
        }
    }

    /// Reads everything on the node: what comes must be right; gives how many reads were refused.
    fn read_all(&self) -> usize {
        let log = self.world.node(self.node).log();
        let mut refused = 0;
        let mut at = 0;
        while at < RECORDS {
            match log.log().read(LogId::DEFAULT, Offset(at), 1) {
                Ok(records) => {
                    let record = &records[0];
                    assert_eq!(record.offset, Offset(at), "served another record");
                    assert_eq!(record.value, value(at), "served wrong bytes at {at}");
                }
                Err(_) => refused += 1,
            }
            at += 1;
        }
        refused
    }

    /// Rot in a running node: found by a read or a scrub, mended from another node.
    async fn while_running(&self) -> String {
        let began = Instant::now();
        let disk = &self.world.disks[self.node];
        let refused = self.read_all();
        let log = self.world.node(self.node).log();
        log.scrub_once(u64::MAX).await;
        let found = refused > 0 || !log.log().damaged().is_empty();
        if !found && file_bytes(disk, &self.path) == self.sound {
            return "written anew".to_owned();
        }
        until("it is mended", async || {
            log.log().damaged().is_empty().then_some(())
        })
        .await;
        let took = began.elapsed().as_millis();
        assert_eq!(self.read_all(), 0, "all can be read again");
        assert!(found, "a sealed file that rots is found");
        if self.path.extension().is_some_and(|kind| kind == "seal") {
            assert_eq!(file_bytes(disk, &self.path), self.sound, "it is made anew");
        }
        format!("repaired in {took} ms")
    }

    /// Rot that a node finds when it starts.
    async fn on_start(&mut self) -> String {
        let began = Instant::now();
        let started = self.world.try_start(self.node).await;
        let agent = match started {
            Ok(agent) => agent,
            Err(error) => {
                let error = error.to_string();
                self.others_go_on().await;
                assert!(!error.is_empty());
                return "refused to start".to_owned();
            }
        };
        self.world.nodes[self.node] = Some(agent);
        let log = self.world.node(self.node).log();
        let mut applied = log.watch_applied();
        let there = applied.wait_for(|applied| applied.next_offset >= Offset(RECORDS));
        timeout(PATIENCE, there)
            .await
            .expect("it catches up")
            .unwrap();
        let refused = self.read_all();
        let mut damaged = !log.log().damaged().is_empty() || refused > 0;
        log.scrub_once(u64::MAX).await;
        damaged |= !log.log().damaged().is_empty();
        until("it is mended", async || {
            log.log().damaged().is_empty().then_some(())
        })
        .await;
        let took = began.elapsed().as_millis();
        assert_eq!(self.read_all(), 0, "all can be read again");
        self.world.settled().await;
        if damaged {
            format!("repaired in {took} ms")
        } else {
            "no harm".to_owned()
        }
    }

    /// The other two take records and hold all of them.
    async fn others_go_on(&mut self) {
        let others: Vec<_> = (0..ADDRS.len())
            .filter(|number| *number != self.node)
            .collect();
        let addrs: Vec<_> = others.iter().map(|number| ADDRS[*number]).collect();
        let offsets = self.world.produce(&addrs, RECORDS, RECORDS + 10).await;
        assert_eq!(offsets, (RECORDS..RECORDS + 10).collect::<Vec<_>>());
    }
}

fn sealed(node: &Agent) -> Vec<Index> {
    let segments = node.log().log().segments();
    let sealed = segments
        .iter()
        .filter(|segment| segment.next_position.is_some());
    sealed.map(|segment| segment.base).collect()
}

async fn run(file: Rotten, fault: Fault, role: Role) -> [String; 2] {
    let mut cell = Cell::new(file, role).await;
    let sealed = !matches!(file, Rotten::Stable | Rotten::Identity | Rotten::Vote);
    let mut running = "-".to_owned();
    if sealed {
        cell.inject(fault);
        running = cell.while_running().await;
        cell.world.disks[cell.node].watch(|_, _| Ok(()));
    }
    cell.world.kill(cell.node).await;
    cell.inject(fault);
    [running, cell.on_start().await]
}

/// Each cell has a node of its own, so that all cells run in the time of one.
fn row(file: Rotten) {
    for fault in FAULTS {
        for role in [Role::Leader, Role::Follower] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let [running, on_start] = runtime.block_on(run(file, fault, role));
            println!(
                "{file:<9?} {fault:<10?} {role:<9?} running: {running:<20} started: {on_start}"
            );
            let mended = |outcome: &str| outcome.starts_with("repaired") || outcome == "no harm";
            match file {
                Rotten::Store | Rotten::Index => {
                    assert!(mended(&running), "{running}");
                    assert!(mended(&on_start), "{on_start}");
                }
                // By a read that looks for a log, or by the scrub.
                Rotten::Seal | Rotten::Directory => {
                    assert!(mended(&running) || running == "written anew", "{running}");
                    assert!(mended(&on_start), "{on_start}");
                }
                Rotten::Stable | Rotten::Identity => {
                    assert!(
                        on_start == "refused to start" || mended(&on_start),
                        "{on_start}"
                    );
                }
                Rotten::Vote => assert_eq!(on_start, "no harm"),
            }
        }
    }
}

#[test]
fn rot_in_a_store_is_never_served_and_is_repaired() {
    row(Rotten::Store);
}

#[test]
fn rot_in_an_index_is_never_served_and_is_repaired() {
    row(Rotten::Index);
}

#[test]
fn rot_in_a_seal_is_written_anew() {
    row(Rotten::Seal);
    row(Rotten::Directory);
}

#[test]
fn rot_in_the_stable_store_keeps_the_node_from_voting() {
    row(Rotten::Stable);
    row(Rotten::Identity);
}

#[test]
fn rot_in_the_second_copy_of_the_vote_does_no_harm() {
    row(Rotten::Vote);
}

#[test]
fn every_file_has_its_row() {
    assert_eq!(FILES.len() * FAULTS.len() * 2, 84);
}
