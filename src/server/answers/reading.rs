//! Reading within the budget: an answer's room is taken before its records are read.
//!
//! A look at the index tells how much a read brings into memory. If there is no room for it, the read waits, and
//! looks again. What an answer takes is known exactly only once it is made: it gives back what is too much. If it
//! needs more, as compressed records do, and there is no more room, the read gives up what it has, waits for the
//! room, and begins again. Few reads run at once, so that records without room are bounded, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;

use crate::log::record::Stored;
use crate::log::{self, Found, Log, LogId, Offset, Read, Stretch};
use crate::net::budget::{Accounts, Held};
use crate::tasks;

use super::bulk::Bulk;
use crate::server::status;

/// How many reads of the disk run at once. Each has a thread, and holds what it reads.
const DISK_READS_MAX: usize = 8;
/// How long a read waits for room.
const ROOM_WAIT: Duration = Duration::from_secs(30);
/// What each small part of an answer takes in memory, beside its bytes.
pub const PART_BYTES: usize = 64;
/// An answer that is a smaller part of what was read is copied out of it, so that it keeps nothing larger in
/// memory.
const KEPT_PART: usize = 2;

/// How a node reads for its clients.
#[derive(Debug)]
pub struct Reading {
    disk: Arc<Semaphore>,
    bulk: Bulk,
}

/// Which records are read.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Those of a log from an offset on.
    Log(LogId, Offset),
    /// Those of many logs.
    Stretch(Arc<Stretch>),
}

impl Asked {
    /// Where they stand, if that can be told without a look at the disk.
    fn find_now(&self, log: &Log, bytes_max: usize) -> Result<Option<Found>, log::Error> {
        match self {
            Self::Log(id, from) => log.find_now(*id, *from, bytes_max),
            Self::Stretch(stretch) if log.is_at_hand(stretch) => {
                log.find_stretch(stretch, bytes_max).map(Some)
            }
            Self::Stretch(_) => Ok(None),
        }
    }

    fn find(&self, log: &Log, bytes_max: usize) -> Result<Found, log::Error> {
        match self {
            Self::Log(id, from) => log.find(*id, *from, bytes_max),
            Self::Stretch(stretch) => log.find_stretch(stretch, bytes_max),
        }
    }
}

/// Makes an answer of what was read.
pub trait Shape: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Whether making the answer takes a processor for long.
    fn is_long(&self, stored: &[Stored]) -> bool;

    /// About how many bytes the answer may take.
    fn bytes_max(&self) -> usize;

    /// The answer, and the bytes that it takes: those of what was read, where it shares their memory.
    fn make(&self, read: &Read) -> Result<(Self::Answer, usize), log::Error>;
}

/// Whether an answer of so many bytes is copied out of what was read.
pub fn is_copied(bytes: usize, read: &Read) -> bool {
    bytes.saturating_mul(KEPT_PART) < read.kept_bytes
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

    /// Where long work is done.
    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Reads of what is asked about so much, and makes the answer, which is expected to take `expected`
    /// bytes. The room that it takes comes with it.
    pub async fn answer<S: Shape>(
        &self,
        log: &Log,
        accounts: Option<&Accounts>,
        asked: Asked,
        expected: usize,
        shape: S,
    ) -> Result<(S::Answer, Option<Held>), Failed> {
        let mut wanted = expected;
        let bytes_max = shape.bytes_max();
        loop {
            let mut room = Room::take(accounts, wanted).await.map_err(Failed::Status)?;
            let found = self.find(log, &asked, bytes_max).await?;
            let brings = found.bytes();
            if !room.grow(brings) {
                wanted = brings;
                continue;
            }
            let read = self.read(log, found, bytes_max).await?;
            let long = shape.is_long(&read.stored);
            let needed = read.bytes() + if long { bytes_max } else { 0 };
            if !room.grow(needed) {
                wanted = needed;
                continue;
            }
            let (answer, bytes) = if long {
                let shape = shape.clone();
                let made = self.bulk.run(accounts, move || shape.make(&read)).await;
                made.unwrap_or(Err(log::Error::Stopped))?
            } else {
                shape.make(&read)?
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

    /// Where the records stand. The runtime's threads do not wait for the disk.
    async fn find(&self, log: &Log, asked: &Asked, bytes_max: usize) -> Result<Found, log::Error> {
        if let Some(found) = asked.find_now(log, bytes_max)? {
            return Ok(found);
        }
        let (log, asked) = (log.clone(), asked.clone());
        self.on_disk("look for records", move || asked.find(&log, bytes_max))
            .await
    }

    /// What was found, and what follows it.
    async fn read(&self, log: &Log, found: Found, bytes_max: usize) -> Result<Read, log::Error> {
        if found.in_memory() {
            return log.read_found(found, bytes_max);
        }
        let log = log.clone();
        let read = move || log.read_found(found, bytes_max);
        self.on_disk("read of the log", read).await
    }

    /// Does what waits for the disk, in its turn.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, log::Error> + Send + 'static,
    ) -> Result<T, log::Error> {
        let turn = self.disk.acquire().await;
        let _turn = turn.map_err(|_| log::Error::Stopped)?;
        let done = tasks::spawn_blocking(what, work).await;
        done.unwrap_or(Err(log::Error::Stopped))
    }
}

/// Waits for room for an answer of so many bytes.
pub async fn room(accounts: Option<&Accounts>, bytes: usize) -> Result<Option<Held>, Status> {
    Ok(Room::take(accounts, bytes).await?.held)
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::poll;

    use super::*;
    use crate::disk::memory::{Event, MemoryDisk};
    use crate::log::record::{BatchBuilder, batches, join};
    use crate::log::{Entry, Floor, Index, Kind, Run, Term};
    use crate::net::budget::{ANSWERS, BYTES, Budget};

    const VALUE_BYTES: usize = 300 << 10;

    /// An answer of what was read, whole.
    #[derive(Clone)]
    struct Whole;

    impl Shape for Whole {
        type Answer = usize;

        fn is_long(&self, _: &[Stored]) -> bool {
            false
        }

        fn bytes_max(&self) -> usize {
            1000
        }

        fn make(&self, read: &Read) -> Result<(usize, usize), log::Error> {
            Ok((read.stored.len(), read.kept_bytes))
        }
    }

    /// A log of one large record that memory does not hold.
    fn log_of_one(disk: &MemoryDisk) -> Log {
        let config = log::Config {
            inline_io: true,
            tail_cache_bytes_max: 0,
            ..log::Config::default()
        };
        let disk = Arc::new(disk.clone());
        let (log, _) = Log::open(disk, Path::new("/log"), config, Floor::default(), None).unwrap();
        for number in 0..2 {
            let mut batch = BatchBuilder::new(None);
            batch.push(&[7; VALUE_BYTES], 0, 0);
            let payload = join([batch.finish()].iter(), Some(1));
            let entry = Entry {
                term: Term(1),
                index: Index(number),
                kind: Kind::Records,
                payload: payload.clone(),
            };
            log.append(vec![entry], Box::new(|done| done.unwrap()))
                .unwrap();
            let runs = batches(&payload).unwrap();
            let run = Run::of(&runs[0], 0, Offset(number));
            log.publish(Index(number), &[run]).unwrap();
        }
        log
    }

    #[tokio::test]
    async fn what_has_no_room_is_not_read_before_there_is() {
        let disk = MemoryDisk::default();
        let log = log_of_one(&disk);
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        disk.watch(move |event, _| {
            counted.fetch_add(usize::from(event == Event::Read), Ordering::Relaxed);
            Ok(())
        });
        let reading = Reading::new(Bulk::new(tokio::runtime::Handle::current()));
        let accounts = Budget::new(BYTES).accounts("a");
        // Room for what is asked for, and not for the record.
        let most = ANSWERS.connection_bytes_max - VALUE_BYTES / 2;
        let held = accounts.answers.try_take(most).unwrap();
        let answer = reading.answer(
            &log,
            Some(&accounts),
            Asked::Log(LogId::DEFAULT, Offset(0)),
            1000,
            Whole,
        );
        let mut answer = std::pin::pin!(answer);
        assert!(poll!(&mut answer).is_pending());
        let free = reading.disk.available_permits();
        assert_eq!(free, DISK_READS_MAX, "nothing is being read");
        drop(held);
        let (parts, held) = answer.await.unwrap();
        assert_eq!((parts, reads.load(Ordering::Relaxed)), (1, 1));
        assert!(held.unwrap().bytes() > VALUE_BYTES);
        assert_eq!(accounts.answers.held(), 0, "what was held is given back");
    }
}
