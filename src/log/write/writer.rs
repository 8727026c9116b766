//! What the log's one writer does: makes files, writes entries to them in groups, syncs once a
//! group, then tells the callers.
//!
//! After a failed write or sync nothing is written until a restart: retrying a sync proves nothing
//! (Rebello et al., "Can applications recover from fsync failures?", ATC 2020). A file that cannot
//! be made for want of room is no such failure: nothing was written to it. The requests wait in
//! order for room, and callers for their answers.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::io::{Done, Marks, Request};
use super::making::{Maker, Plan};
use crate::log::format::frame::Entry;
use crate::log::format::gather::Gathered;
use crate::log::segment::store::Store;
use crate::log::{Error, Index};
use crate::metrics::{Lately, Passed, Times};

/// Bytes that are handed to the disk in one write.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Bytes that one sync may cover: how much a torn write can take with it.
const GROUP_BYTES_MAX: u64 = 64 << 20;

/// An entry on its way to its place.
#[derive(Debug)]
pub struct Write {
    pub store: Arc<Store>,
    pub position: u32,
    pub entry: Entry,
    /// Its [`entry_crc`](crate::log::format::frame::entry_crc).
    pub crc: u32,
    /// The files to make before, if it is the first in its segment.
    pub begins: Option<Plan>,
}

/// What the writer took for its work.
#[derive(Debug, Default)]
pub struct Counts {
    /// From when an append was queued until it was written and its sync began.
    pub append: Times,
    /// The syncs, one for each group.
    pub sync: Times,
    /// The same, of the last minutes.
    pub syncs_lately: Lately,
    /// When the sync began that made an append durable, by the index after its last entry.
    pub sync_began: Passed,
}

/// Writes groups of requests.
pub struct Writer {
    maker: Maker,
    marks: Arc<Mutex<Marks>>,
    /// What was asked for and not begun.
    backlog: VecDeque<Request>,
    /// The store that the group goes to, and where in it the group began.
    target: Option<(Arc<Store>, u64)>,
    /// Where `buffer` belongs in the target.
    buffer_at: u64,
    buffer: Gathered,
    unsynced: bool,
    /// When the last sync began.
    synced_from: Instant,
    stopped: bool,
    waiting: Vec<Waiting>,
    counts: Arc<Counts>,
}

/// An append whose entries are all in the group, or before.
struct Waiting {
    /// The raft index after its last entry.
    next: Index,
    bytes: u64,
    since: Instant,
    done: Done,
}

/// Why an append is not done.
enum Halt {
    /// A file cannot be made now.
    Room(Error),
    Failed(Error),
}

impl Writer {
    pub fn new(maker: Maker, marks: Arc<Mutex<Marks>>, counts: Arc<Counts>) -> Self {
        Self {
            maker,
            marks,
            backlog: VecDeque::new(),
            target: None,
            buffer_at: 0,
            buffer: Gathered::default(),
            unsynced: false,
            synced_from: Instant::now(),
            stopped: false,
            waiting: Vec::new(),
            counts,
        }
    }

    /// Does what waits and what comes. Gives the error if the next request waits for room.
    pub fn run(&mut self, requests: VecDeque<Request>) -> Option<Error> {
        self.backlog.extend(requests);
        self.withdraw();
        while let Some(request) = self.backlog.pop_front() {
            match request {
                Request::Append(mut append) => {
                    let last = append.writes.back();
                    let next = last.map_or(Index(0), |write| Index(write.entry.index.0 + 1));
                    match self.put_all(&mut append.writes) {
                        Ok(()) => {
                            let (bytes, since, done) = (append.bytes, append.since, append.done);
                            self.waiting.push(Waiting {
                                next,
                                bytes,
                                since,
                                done,
                            });
                        }
                        Err(Halt::Failed(error)) => self.stop(error, Some(append.done)),
                        Err(Halt::Room(error)) => {
                            self.backlog.push_front(Request::Append(append));
                            self.complete();
                            return Some(error);
                        }
                    }
                }
                Request::Run(mut job, done) => {
                    self.complete();
                    let result = if self.stopped {
                        Err(Error::Stopped)
                    } else {
                        job()
                    };
                    match result {
                        Err(error) if !self.stopped && error.waits_for_room() => {
                            self.backlog.push_front(Request::Run(job, done));
                            return Some(error);
                        }
                        Err(error) if !self.stopped => self.stop(error, Some(done)),
                        result => done(result),
                    }
                }
                Request::Withdraw(told) => told(Vec::new()),
            }
        }
        self.complete();
        None
    }

    /// Gives back the appends that are to be withdrawn. What waits for room keeps nobody waiting who would give it room.
    fn withdraw(&mut self) {
        let is_asked = |request: &Request| matches!(request, Request::Withdraw(_));
        let Some(last) = self.backlog.iter().rposition(is_asked) else {
            return;
        };
        self.complete();
        if self.stopped {
            return;
        }
        self.target = None;
        let (mut withdrawn, mut left) = (Vec::new(), self.backlog.split_off(last));
        let asked = left.pop_front();
        for request in std::mem::take(&mut self.backlog).into_iter().rev() {
            match request {
                Request::Append(append) => {
                    self.marks.lock().unsynced -= append.bytes;
                    withdrawn.push(append.done);
                }
                other => left.push_front(other),
            }
        }
        self.backlog = left;
        withdrawn.reverse();
        if let Some(Request::Withdraw(told)) = asked {
            told(withdrawn);
        }
    }

    /// Fails what waits for room: the log is closed.
    pub fn give_up(&mut self, error: Error) {
        self.stop(error, None);
        for request in std::mem::take(&mut self.backlog) {
            match request {
                Request::Append(append) => (append.done)(Err(Error::Stopped)),
                Request::Run(_, done) => done(Err(Error::Stopped)),
                Request::Withdraw(told) => told(Vec::new()),
            }
        }
    }

    /// Adds entries to the group; those that it added are gone from `writes`.
    fn put_all(&mut self, writes: &mut VecDeque<Write>) -> Result<(), Halt> {
        while let Some(write) = writes.front() {
            if let Some(plan) = &write.begins
                && !self.stopped
            {
                self.maker.make(&write.store, plan).map_err(|error| {
                    if error.waits_for_room() {
                        Halt::Room(error)
                    } else {
                        Halt::Failed(error)
                    }
                })?;
            }
            self.put(write).map_err(Halt::Failed)?;
            writes.pop_front();
        }
        Ok(())
    }

    fn put(&mut self, write: &Write) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::Stopped);
        }
        let position = u64::from(write.position);
        let group = self.target.as_ref();
        let same = group.is_some_and(|(store, began)| {
            Arc::ptr_eq(store, &write.store)
                && position == self.buffer_at + self.buffer.len() as u64
                && position - began < GROUP_BYTES_MAX
        });
        if !same {
            self.sync()?;
            self.leave(write)?;
            self.target = Some((write.store.clone(), position));
            self.buffer_at = position;
        }
        let began = self.target.as_ref().map_or(position, |(_, began)| *began);
        let distance = u32::try_from(position - began).expect("a group is smaller than 4 GiB");
        self.buffer.push(&write.entry, write.crc, distance);
        self.unsynced = true;
        if self.buffer.len() >= WRITE_BYTES_MAX {
            self.write_out()?;
        }
        Ok(())
    }

    /// Gives the room behind a full store back, once the next one is written to.
    fn leave(&mut self, next: &Write) -> Result<(), Error> {
        match &self.target {
            Some((store, _)) if store.base() < next.store.base() => {
                let end = u32::try_from(self.buffer_at).expect("a store is smaller than 4 GiB");
                store.give_back(end)
            }
            _ => Ok(()),
        }
    }

    fn write_out(&mut self) -> Result<(), Error> {
        if let Some((store, _)) = &self.target
            && !self.buffer.is_empty()
        {
            store.write(&self.buffer.parts(), self.buffer_at)?;
            self.buffer_at += self.buffer.len() as u64;
            self.buffer.clear(WRITE_BYTES_MAX);
        }
        Ok(())
    }

    /// Makes the group durable and begins another.
    fn sync(&mut self) -> Result<(), Error> {
        if !self.unsynced {
            return Ok(());
        }
        self.write_out()?;
        if let Some((store, began)) = &mut self.target {
            self.synced_from = Instant::now();
            store.sync()?;
            let took = self.synced_from.elapsed();
            self.counts.sync.note(took);
            self.counts.syncs_lately.note(took);
            *began = self.buffer_at;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Syncs, then answers everybody who waits for it.
    fn complete(&mut self) {
        if self.stopped {
            return;
        }
        if let Err(error) = self.sync() {
            return self.stop(error, None);
        }
        for waiting in self.waiting.drain(..) {
            let Waiting { next, bytes, .. } = waiting;
            let written = self.synced_from.saturating_duration_since(waiting.since);
            self.counts.append.note(written);
            self.counts.sync_began.note(next.0, self.synced_from);
            let mut marks = self.marks.lock();
            marks.unsynced -= bytes;
            marks.durable = marks.cut.map_or(next, |cut| next.min(cut));
            drop(marks);
            (waiting.done)(Ok(()));
        }
        if self.target.is_some() {
            // After the answers: nobody waits for what is made ahead.
            self.maker.look_ahead(self.buffer_at);
        }
    }

    /// Fails everybody who waits, the first with the cause, and writes nothing ever after.
    fn stop(&mut self, error: Error, last: Option<Done>) {
        self.stopped = true;
        let mut error = Some(error);
        let waiting = self.waiting.drain(..).map(|waiting| waiting.done);
        for done in waiting.chain(last) {
            done(Err(error.take().unwrap_or(Error::Stopped)));
        }
    }
}
