//! The way to the one writer of a log: a queue, the thread that drains it, and how far it came.
//!
//! Group commit: while one sync runs, the next group gathers. Callbacks come in the order of the
//! requests, and none before the sync that covers it (I1). While the writer waits for room, to make
//! a file, the queue waits with it and nobody else does.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::io_task::LateWriter;
use super::making::Maker;
use super::writer::{Counts, Write, Writer};
use crate::log::{Config, Error, Index};
use crate::tasks;

/// Between two tries to make a file that there was no room for.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// Told once whether a request is on disk.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Work that must come after every earlier write is durable. Done again where it found no room, it
/// comes to the same.
pub type Job = Box<dyn FnMut() -> Result<(), Error> + Send>;

/// What the writer is asked to do.
pub enum Request {
    /// Write these entries.
    Append(Append),
    /// Sync what came before, then run this.
    Run(Job, Done),
    /// Give back, at once, what is not written of the appends that came before.
    Withdraw(Withdrawn),
}

/// Takes the callbacks of appends that are not written, and will not be.
pub type Withdrawn = Box<dyn FnOnce(Vec<Done>) + Send>;

/// Entries on their way to their places.
pub struct Append {
    /// Those that are not written yet.
    pub writes: VecDeque<Write>,
    /// Of the payloads, those that are written included.
    pub bytes: u64,
    /// When they were queued.
    pub since: Instant,
    pub done: Done,
}

/// Hands requests to the writer, in order.
pub struct Queue {
    mode: Mode,
    marks: Arc<Mutex<Marks>>,
    /// Whether a whole segment's files are ready.
    in_hand: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

/// How far the log is durable. Both change together: a group that becomes durable while a cut is
/// queued must not raise the one that the cut has lowered.
pub struct Marks {
    /// The first raft index that is not durable.
    pub durable: Index,
    /// Where a cut under way begins: what was queued before it counts up to here only, since the
    /// entries behind it are no longer the log's.
    pub cut: Option<Index>,
    /// The payloads of appends that are not answered, in bytes.
    pub unsynced: u64,
}

enum Mode {
    Thread(Arc<Shared>, Mutex<Option<JoinHandle<()>>>),
    Inline(Box<Mutex<Inline>>),
    Task(Arc<LateWriter>),
}

/// A writer without a thread of its own.
pub struct Inline {
    writer: Writer,
    told: bool,
}

impl Inline {
    /// Does what waits and what comes.
    pub fn run(&mut self, requests: VecDeque<Request>) {
        let waits = self.writer.run(requests);
        tell(&mut self.told, waits.as_ref());
    }
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
    /// A writer on a thread of its own, or for simulation, where no thread may run beside the paused clock,
    /// one that does each request at once on the caller's, or in a task.
    pub fn start(maker: Maker, durable: Index, config: &Config) -> Result<Self, Error> {
        let marks = Arc::new(Mutex::new(Marks {
            durable,
            cut: None,
            unsynced: 0,
        }));
        let in_hand = maker.in_hand();
        let counts = Arc::<Counts>::default();
        let writer = Writer::new(maker, marks.clone(), counts.clone());
        if config.inline_io {
            let told = false;
            let inline = Inline { writer, told };
            let mode = match &config.io_delay {
                None => Mode::Inline(Box::new(Mutex::new(inline))),
                Some(delay) => Mode::Task(LateWriter::start(inline, delay.clone())),
            };
            return Ok(Self {
                mode,
                marks,
                in_hand,
                counts,
            });
        }
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let thread = tasks::spawn_thread("log-io", move || serve(&theirs, writer))
            .map_err(Error::io("start the thread of", "the log"))?;
        let mode = Mode::Thread(shared, Mutex::new(Some(thread)));
        Ok(Self {
            mode,
            marks,
            in_hand,
            counts,
        })
    }

    /// Queues a request. Its callback comes once it is durable, or failed.
    pub fn push(&self, request: Request) {
        self.push_all(VecDeque::from([request]));
    }

    /// Tries again what waits for room. A writer on a thread of its own does so by itself.
    pub fn look_for_room(&self) {
        if !matches!(self.mode, Mode::Thread(..)) {
            self.push_all(VecDeque::new());
        }
    }

    fn push_all(&self, requests: VecDeque<Request>) {
        let bytes = requests.iter().map(|request| match request {
            Request::Append(append) => append.bytes,
            Request::Run(..) | Request::Withdraw(_) => 0,
        });
        self.marks.lock().unsynced += bytes.sum::<u64>();
        match &self.mode {
            Mode::Inline(inline) => inline.lock().run(requests),
            Mode::Task(late) => late.push_all(requests),
            Mode::Thread(shared, _) => {
                shared.state.lock().requests.extend(requests);
                shared.filled.notify_one();
            }
        }
    }

    /// What the writer counts.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Whether the files of a whole segment are ready, besides those that are written to.
    pub fn has_segment_in_hand(&self) -> bool {
        self.in_hand.load(Ordering::Acquire)
    }

    /// The first raft index that is not durable yet.
    pub fn durable(&self) -> Index {
        self.marks.lock().durable
    }

    /// The payloads of appends that are not answered, in bytes.
    pub fn unsynced_bytes(&self) -> u64 {
        self.marks.lock().unsynced
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
        let mut job = job;
        let job = Box::new(move || {
            job()?;
            // Every append that was queued before the cut has been counted.
            marks.lock().cut = None;
            Ok(())
        });
        self.push(Request::Run(job, done));
    }

    /// Everything below `index` is durable, by other means than the writer's.
    pub fn set_durable(&self, index: Index) {
        self.marks.lock().durable = index;
    }

    /// Finishes what is queued and ends the thread.
    pub fn close(&self) {
        match &self.mode {
            Mode::Thread(shared, thread) => {
                shared.state.lock().closed = true;
                shared.filled.notify_one();
                let thread = thread.lock().take();
                // A callback may drop the last handle: then this is the thread, and ends by itself.
                let is_this =
                    |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
                if let Some(thread) = thread.filter(|thread| !is_this(thread)) {
                    // A panic there was told already, and its callers got no answer.
                    let _ = thread.join();
                }
            }
            Mode::Task(late) => late.run(),
            Mode::Inline(_) => {}
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue(durable below {:?})", self.durable())
    }
}

fn serve(shared: &Shared, mut writer: Writer) {
    let (mut waits, mut told) = (false, false);
    loop {
        let mut state = shared.state.lock();
        if waits && !state.closed {
            shared.filled.wait_for(&mut state, ROOM_LOOK);
        }
        while !waits && state.requests.is_empty() && !state.closed {
            shared.filled.wait(&mut state);
        }
        let closed = state.closed;
        if !waits && state.requests.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut state.requests);
        drop(state);
        let room = writer.run(requests);
        tell(&mut told, room.as_ref());
        waits = room.is_some();
        if let Some(error) = room.filter(|_| closed) {
            return writer.give_up(error);
        }
    }
}

/// Says once that the log waits for room, and once that it goes on.
fn tell(told: &mut bool, waits: Option<&Error>) {
    match waits {
        Some(error) if !*told => {
            tracing::error!(
                %error,
                "the log waits for room and is written to again by itself; reads go on"
            );
        }
        None if *told => tracing::info!("the log has room again"),
        _ => {}
    }
    *told = waits.is_some();
}
