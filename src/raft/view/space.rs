//! Room on the disk: below a reserve nothing is taken that needs room, so that all else can go on.
//!
//! Refusing happens at the proposal. The leader refuses records, and commands that take room, while
//! its own disk is low or while too few voters have room. What is in its log by then is bounded, and
//! what makes room stands behind it: so a follower takes it, from the rest of its reserve and then
//! into the files that it has in hand. It refuses, first, records that others hold already: nobody
//! waits for those. Trims, membership changes and elections still pass, and make room. All is taken
//! again by itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::Disk;
use crate::live::Live;
use crate::log::{self, Log};
use crate::raft::error::DiskFull;
use crate::tasks;

use super::View;

/// Between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a follower counts as full after it said so. This is longer than the time between two answers.
const FULL_FOR: Duration = Duration::from_secs(1);
/// The part of the reserve below which a follower takes no records that others hold already: one
/// that lags must not use up what it needs for those that wait for it.
const FOLLOWER_SHARE: u64 = 2;
/// The part below which it takes none at all but into files in hand: votes and checkpoints need
/// room, too. What was under way when the leader began to refuse fits into the part above.
const LAST_SHARE: u64 = 4;
/// A disk counts as having room again only with this part of the reserve to spare. Otherwise records would be
/// taken and refused in turns.
const SPARE_SHARE: u64 = 8;

/// What is known of the room; clones share it.
#[derive(Debug, Clone)]
pub struct Space(Arc<DiskRoom>);

#[derive(Debug)]
struct DiskRoom {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    reserve: Live<u64>,
    looked: Mutex<Look>,
    full_peers: Mutex<HashMap<u64, Instant>>,
    /// The log, whose writer may wait for room.
    log: Log,
}

/// What a look at the disk found. Both change together: a refusal tells the number that it follows from.
#[derive(Debug, Clone, Copy)]
struct Look {
    available: u64,
    low: bool,
}

/// The last part of the reserve is not for segments that may not be needed.
pub fn leave_room(config: log::Config, reserve: u64) -> log::Config {
    log::Config {
        spare_above_bytes: reserve / LAST_SHARE,
        ..config
    }
}

impl Space {
    /// Watches the disk that holds a directory.
    pub fn start(disk: Arc<dyn Disk>, dir: PathBuf, reserve: Live<u64>, log: Log) -> Self {
        let space = Self(Arc::new(DiskRoom {
            disk,
            dir,
            reserve,
            looked: Mutex::new(Look {
                available: u64::MAX,
                low: false,
            }),
            full_peers: Mutex::default(),
            log,
        }));
        space.look();
        tasks::spawn("room on the disk", Self::watch(Arc::downgrade(&space.0)));
        space
    }

    /// Looks at the disk now and then, for as long as anybody wants to know.
    async fn watch(space: Weak<DiskRoom>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match space.upgrade() {
                Some(inner) => Self(inner).look(),
                None => return,
            }
        }
    }

    fn look(&self) {
        let inner = &self.0;
        inner.log.look_for_room();
        let Ok(available) = inner.disk.available(&inner.dir) else {
            // A disk that cannot say will fail the next write, which stops the node.
            return;
        };
        let (was_low, reserve) = (self.is_low(), inner.reserve.get());
        let spare = if was_low { reserve / SPARE_SHARE } else { 0 };
        let low = available < reserve.saturating_add(spare);
        *inner.looked.lock() = Look { available, low };
        if low != was_low {
            let dir = inner.dir.display();
            if low {
                tracing::error!(
                    available,
                    reserve,
                    %dir,
                    "the disk is full: records are refused; make room, or trim the log with \
                     `ferrolog log trim`"
                );
            } else {
                tracing::info!(available, reserve, %dir, "the disk has room again");
            }
        }
    }

    /// What is free at the last look, and what must stay free, in bytes.
    pub fn room(&self) -> (u64, u64) {
        (self.available(), self.0.reserve.get())
    }

    fn available(&self) -> u64 {
        self.0.looked.lock().available
    }

    /// Whether a leader takes what needs room now.
    pub fn check(&self, view: &View) -> Result<(), DiskFull> {
        let (reserve, Look { available, low }) = (self.0.reserve.get(), *self.0.looked.lock());
        let error = |voter: Option<String>| {
            Err(DiskFull {
                available,
                reserve,
                voter,
            })
        };
        if low {
            return error(None);
        }
        match self.full_voter(view) {
            Some(voter) => error(Some(voter)),
            None => Ok(()),
        }
    }

    /// A follower without room, if fewer than a majority of the voters have room.
    pub fn full_voter(&self, view: &View) -> Option<String> {
        let mut full = self.0.full_peers.lock();
        if full.is_empty() {
            return None;
        }
        full.retain(|_, said| said.elapsed() < FULL_FOR);
        let voters = view.members.iter().filter(|member| member.voter);
        let (full, roomy): (Vec<_>, Vec<_>) =
            voters.partition(|member| full.contains_key(&member.id));
        let first = full.first()?;
        let too_few = roomy.len() <= (full.len() + roomy.len()) / 2;
        too_few.then(|| first.member.name.clone())
    }

    /// Whether this disk is below its reserve.
    pub fn is_low(&self) -> bool {
        self.0.looked.lock().low
    }

    /// Whether a follower takes any records now, also those that others hold already.
    pub fn takes_records(&self) -> bool {
        self.available() >= self.0.reserve.get() / FOLLOWER_SHARE
    }

    /// Whether it takes records that may wait for it, into new files if need be.
    pub fn takes_what_waits(&self) -> bool {
        self.available() >= self.0.reserve.get() / LAST_SHARE
    }

    /// What a follower said of its room.
    pub fn note(&self, peer: u64, full: bool) {
        let mut peers = self.0.full_peers.lock();
        if full {
            peers.insert(peer, Instant::now());
        } else {
            peers.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::memory::MemoryDisk;
    use crate::log::Floor;

    #[tokio::test(start_paused = true)]
    async fn nobody_watches_the_disk_of_a_node_that_is_gone() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let dir = Path::new("/node");
        let config = crate::log::Config {
            inline_io: true,
            ..crate::log::Config::default()
        };
        disk.create_dir(dir).unwrap();
        let (log, _) = Log::open(disk.clone(), dir, config, Floor::default(), None).unwrap();
        let space = Space::start(disk, dir.to_owned(), Live::new(0), log);
        tokio::time::sleep(LOOK_EVERY * 3).await;
        let inner = Arc::downgrade(&space.0);
        drop(space);
        assert_eq!(inner.strong_count(), 0);
    }
}
