//! The one writer of a log: drains what is queued, writes it, syncs once, then tells the callers.
//!
//! Group commit: while one sync runs, the next group gathers. Callbacks come in the order of the
//! requests, and none before the sync that covers it (I1). After a failed write or sync nothing is
//! written until a restart: retrying a sync proves nothing (Rebello et al., "Can applications
//! recover from fsync failures?", ATC 2020).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::disk::Disk;
use super::frame::Entry;
use super::gather::Gathered;
use super::store::Store;
use super::{Error, Index};
use crate::tasks;

/// Bytes that are handed to the disk in one write.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Bytes that one sync may cover: how much a torn write can take with it.
const GROUP_BYTES_MAX: u64 = 64 << 20;

/// Told once whether a request is on disk.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Work that must come after every earlier write is durable.
pub type Job = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// An entry on its way to its place.
#[derive(Debug)]
pub struct Write {
    pub store: Arc<Store>,
    pub position: u32,
    pub entry: Entry,
    /// Its [`entry_crc`](super::frame::entry_crc).
    pub crc: u32,
}

/// What the writer is asked to do.
pub enum Request {
    /// Write these entries.
    Append(Vec<Write>, Done),
    /// Sync what came before, then run this.
    Run(Job, Done),
}

/// Hands requests to the writer, in order.
pub struct Queue {
    mode: Mode,
    marks: Arc<Mutex<Marks>>,
}

/// How far the log is durable. Both change together: a group that becomes durable while a cut is
/// queued must not raise the one that the cut has lowered.
struct Marks {
    /// The first raft index that is not durable.
    durable: Index,
    /// Where a cut under way begins: what was queued before it counts up to here only, since the
    /// entries behind it are no longer the log's.
    cut: Option<Index>,
}

enum Mode {
    Thread(Arc<Shared>, Mutex<Option<JoinHandle<()>>>),
    Inline(Mutex<Writer>),
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Queue {
    /// A writer on a thread of its own, or one that does each request at once on the caller's: for
    /// simulation, where no thread may run beside the paused clock.
    pub fn start(disk: Arc<dyn Disk>, durable: Index, inline: bool) -> Result<Self, Error> {
        let marks = Arc::new(Mutex::new(Marks { durable, cut: None }));
        let writer = Writer::new(disk, marks.clone());
        if inline {
            let mode = Mode::Inline(Mutex::new(writer));
            return Ok(Self { mode, marks });
        }
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let thread = tasks::spawn_thread("log-io", move || serve(&theirs, writer))
            .map_err(Error::io("start the thread of", "the log"))?;
        let mode = Mode::Thread(shared, Mutex::new(Some(thread)));
        Ok(Self { mode, marks })
    }

    /// Queues a request. Its callback comes once it is durable, or failed.
    pub fn push(&self, request: Request) {
        match &self.mode {
            Mode::Inline(writer) => writer.lock().run(VecDeque::from([request])),
            Mode::Thread(shared, _) => {
                shared.state.lock().requests.push_back(request);
                shared.filled.notify_one();
            }
        }
    }

    /// The first raft index that is not durable yet.
    pub fn durable(&self) -> Index {
        self.marks.lock().durable
    }

    /// Queues the work that cuts the entries from `index` on off the files. From now on they do
    /// not count as durable. One cut is under way at a time.
    pub fn push_cut(&self, index: Index, job: Job, done: Done) {
        {
            let mut marks = self.marks.lock();
            marks.cut = Some(index);
            marks.durable = marks.durable.min(index);
        }
        let marks = self.marks.clone();
        let job = Box::new(move || {
            job()?;
            // Every append that was queued before the cut has been counted.
            marks.lock().cut = None;
            Ok(())
        });
        self.push(Request::Run(job, done));
    }

    /// Whether a cut has not been made yet.
    pub fn cuts(&self) -> bool {
        self.marks.lock().cut.is_some()
    }

    /// Everything below `index` is durable, by other means than the writer's.
    pub fn set_durable(&self, index: Index) {
        self.marks.lock().durable = index;
    }

    /// Finishes what is queued and ends the thread.
    pub fn close(&self) {
        if let Mode::Thread(shared, thread) = &self.mode {
            shared.state.lock().closed = true;
            shared.filled.notify_one();
            if let Some(thread) = thread.lock().take() {
                // A panic there was told already, and its callers got no answer.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue(durable below {:?})", self.durable())
    }
}

fn serve(shared: &Shared, mut writer: Writer) {
    loop {
        let mut state = shared.state.lock();
        while state.requests.is_empty() && !state.closed {
            shared.filled.wait(&mut state);
        }
        if state.requests.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut state.requests);
        drop(state);
        writer.run(requests);
    }
}

/// Writes groups of requests.
struct Writer {
    disk: Arc<dyn Disk>,
    marks: Arc<Mutex<Marks>>,
    /// The store that the group goes to, and where in it the group began.
    target: Option<(Arc<Store>, u64)>,
    /// Where `buffer` belongs in the target.
    buffer_at: u64,
    buffer: Gathered,
    unsynced: bool,
    stopped: bool,
    waiting: Vec<(Index, Done)>,
}

impl Writer {
    fn new(disk: Arc<dyn Disk>, marks: Arc<Mutex<Marks>>) -> Self {
        Self {
            disk,
            marks,
            target: None,
            buffer_at: 0,
            buffer: Gathered::default(),
            unsynced: false,
            stopped: false,
            waiting: Vec::new(),
        }
    }

    fn run(&mut self, requests: VecDeque<Request>) {
        for request in requests {
            match request {
                Request::Append(writes, done) => {
                    let next = writes
                        .last()
                        .map_or(Index(0), |write| Index(write.entry.index.0 + 1));
                    let result = writes.into_iter().try_for_each(|write| self.put(&write));
                    match result {
                        Ok(()) => self.waiting.push((next, done)),
                        Err(error) => self.stop(error, Some(done)),
                    }
                }
                Request::Run(job, done) => {
                    self.complete();
                    let result = if self.stopped {
                        Err(Error::Stopped)
                    } else {
                        job()
                    };
                    match result {
                        Err(error) if !self.stopped => self.stop(error, Some(done)),
                        result => done(result),
                    }
                }
            }
        }
        self.complete();
    }

    /// Adds an entry to the group.
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
                store.cut(end, None)
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
            store.sync(&*self.disk)?;
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
        for (next, done) in self.waiting.drain(..) {
            let mut marks = self.marks.lock();
            marks.durable = marks.cut.map_or(next, |cut| next.min(cut));
            drop(marks);
            done(Ok(()));
        }
    }

    /// Fails everybody who waits, the first with the cause, and writes nothing ever after.
    fn stop(&mut self, error: Error, last: Option<Done>) {
        self.stopped = true;
        let mut error = Some(error);
        let waiting = self.waiting.drain(..).map(|(_, done)| done);
        for done in waiting.chain(last) {
            done(Err(error.take().unwrap_or(Error::Stopped)));
        }
    }
}
