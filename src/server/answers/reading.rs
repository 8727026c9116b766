//! Reading within the budget: an answer's room is taken before its records are read.
//!
//! The size of an answer is known only once its records were read. So a read begins with the room that it
//! expects to need, and takes more if that was too little. If there is no more room, the read gives up its
//! records, waits for the room, and reads again. Few reads run at once, so that records without room are
//! bounded, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;

use crate::log::record::Stored;
use crate::log::{self, Offset};
use crate::net::budget::{Accounts, Held};

use super::bulk::Bulk;
use crate::server::{CommitLog, status};

/// How many reads of the disk run at once. Each has a thread, and holds what it reads.
const DISK_READS_MAX: usize = 8;
/// How long a read waits for room.
const ROOM_WAIT: Duration = Duration::from_secs(30);
/// What each small part of an answer takes in memory, beside its bytes.
pub const PART_BYTES: usize = 64;
/// An answer below this is copied out of what was read, so that it keeps nothing larger in memory.
pub const COPIED_BELOW: usize = 256 << 10;

/// How a node reads for its clients.
#[derive(Debug)]
pub struct Reading {
    disk: Arc<Semaphore>,
    bulk: Bulk,
}

/// Makes an answer of what was read.
pub trait Shape: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Whether making the answer takes a processor for long.
    fn is_long(&self, stored: &[Stored]) -> bool;

    /// About how many bytes the answer may take.
    fn bytes_max(&self) -> usize;

    /// The answer, and the bytes that it takes.
    fn make(&self, stored: &[Stored]) -> Result<(Self::Answer, usize), log::Error>;
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    Log(log::Error),
    Status(Status),
}

impl From<log::Error> for Failed {
    fn from(error: log::Error) -> Self {
        Self::Log(error)
    }
}

impl Reading {
    pub fn new(bulk: Bulk) -> Self {
        Self {
            disk: Arc::new(Semaphore::new(DISK_READS_MAX)),
            bulk,
        }
    }

    /// A turn to read from the disk.
    pub fn disk(&self) -> &Semaphore {
        &self.disk
    }

    /// Where long work is done.
    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Reads from `from` on about so much, and makes the answer, which is expected to take `expected`
    /// bytes. The room that it takes comes with it.
    pub async fn answer<L: CommitLog, S: Shape>(
        &self,
        log: &L,
        accounts: Option<&Accounts>,
        from: Offset,
        expected: usize,
        shape: S,
    ) -> Result<(S::Answer, Option<Held>), Failed> {
        let mut wanted = expected;
        loop {
            let mut room = Room::take(accounts, wanted).await.map_err(Failed::Status)?;
            let stored = log.read_stored(from, shape.bytes_max(), &self.disk).await?;
            let parts = stored.iter().map(|part| part.bytes.len() + PART_BYTES);
            let long = shape.is_long(&stored);
            let needed = parts.sum::<usize>() + if long { shape.bytes_max() } else { 0 };
            if !room.grow(needed) {
                wanted = needed;
                continue;
            }
            let (answer, bytes) = if long {
                let shape = shape.clone();
                let made = self.bulk.run(accounts, move || shape.make(&stored)).await;
                made.unwrap_or(Err(log::Error::Stopped))?
            } else {
                shape.make(&stored)?
            };
            if !room.grow(bytes) {
                // One record can make the answer larger than what was asked for.
                wanted = needed.max(bytes);
                continue;
            }
            let held = room.held.map(|mut held| held.split(bytes.max(1)));
            return Ok((answer, held));
        }
    }
}

/// Room for an answer.
struct Room<'a> {
    held: Option<Held>,
    /// The accounts to take more from; `None` where nothing is counted, or where the account is taken whole.
    more: Option<&'a Accounts>,
}

impl<'a> Room<'a> {
    /// Waits for so many bytes, or for the whole account if it has fewer.
    async fn take(accounts: Option<&'a Accounts>, bytes: usize) -> Result<Self, Status> {
        let Some(accounts) = accounts else {
            let (held, more) = (None, None);
            return Ok(Self { held, more });
        };
        let taken = tokio::time::timeout(ROOM_WAIT, accounts.answers.take(bytes)).await;
        let held = match taken {
            Ok(held) => held,
            Err(_) => {
                let held = accounts.answers.try_take(bytes);
                held.map_err(|full| status::in_flight(&full))?
            }
        };
        let is_all = held.bytes() < bytes;
        Ok(Self {
            held: Some(held),
            more: (!is_all).then_some(accounts),
        })
    }

    /// Takes the missing room if it is free. It does not wait, since it holds room already: two reads that do
    /// could wait for each other.
    fn grow(&mut self, bytes: usize) -> bool {
        let (Some(held), Some(accounts)) = (&mut self.held, self.more) else {
            return true;
        };
        let missing = bytes.saturating_sub(held.bytes());
        if missing == 0 {
            return true;
        }
        let more = accounts.answers.try_take(missing);
        more.map(|more| held.merge(more)).is_ok()
    }
}
