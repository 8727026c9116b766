//! The log store: what the engine sees of the log and of the vote.
//!
//! All writes, votes included, go through the log's one writer, in order. So a vote is saved only after the
//! appends before it are durable. Otherwise the old leader could be told of a success for bytes that are not on
//! disk.

use std::fmt::Debug;
use std::io;
use std::ops::{RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::log::{self, Index, Log};
use crate::raft::engine::entries::{bounds, entries_of};
use crate::raft::engine::failure::{Failure, note};
use crate::raft::engine::promised::{Memory, Promised};
use crate::raft::entry::codec;
use crate::raft::entry::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::raft::error::StableError;
use crate::raft::home::blocking::{DESCRIPTOR_LOOK, on_disk};
use crate::raft::home::stable_store::{self, StableStore, system_error};
use crate::raft::view::counts::Counts;

/// How many bytes of entries one message to a follower carries at most; one larger entry travels alone.
const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// How long a starting engine waits for entries in a damaged segment.
const REPAIR_MAX: Duration = Duration::from_secs(60);
/// How long a follower's entries wait for a damaged segment before the leader gives that try up.
const REPAIR_OF_A_TRY: Duration = Duration::from_secs(1);
const REPAIR_LOOK: Duration = Duration::from_millis(50);

/// Raft's log store; clones share it.
#[derive(Debug, Clone)]
pub struct LogStore {
    log: Log,
    stable: StableStore,
    memory: Arc<Mutex<Memory>>,
    /// Tells how far the log is committed.
    committed: Arc<watch::Sender<Option<LogId>>>,
    /// Tells whether the last segment is full.
    full: Arc<watch::Sender<bool>>,
    failure: Failure,
    /// The node, once it is known whose votes these are.
    me: u64,
    counts: Arc<Counts>,
}

impl LogStore {
    pub fn new(log: Log, stable: StableStore) -> Result<Self, StableError> {
        let floor = stable.floor()?;
        let floor = floor.and_then(|floor| floor.last.as_ref().map(types::log_id_from_pb));
        let rewritten = log.rewritten_to();
        let rewritten = rewritten.map(|(term, index)| types::log_id(term, index));
        let memory = Memory {
            vote: stable.vote()?,
            committed: stable.committed()?,
            purged: floor.max(rewritten),
            applied_before: None,
        };
        Ok(Self {
            log,
            stable,
            memory: Arc::new(Mutex::new(memory)),
            committed: Arc::default(),
            full: Arc::default(),
            failure: Failure::default(),
            me: 0,
            counts: Arc::default(),
        })
    }

    /// The same, of the node `me`, and what it counts is counted there.
    pub fn counting(self, me: u64, counts: Arc<Counts>) -> Self {
        Self { me, counts, ..self }
    }

    /// Shows how far the log is committed, and each change of that.
    pub fn watch_committed(&self) -> watch::Receiver<Option<LogId>> {
        self.committed.subscribe()
    }

    /// Shows whether the log's last segment is full and to be ended, and each change of that.
    pub fn watch_full(&self) -> watch::Receiver<bool> {
        self.full.subscribe()
    }

    /// Looks whether the last segment is full.
    fn tell_full(&self) {
        let is_full = self.log.full().is_some();
        self.full
            .send_if_modified(|was| std::mem::replace(was, is_full) != is_full);
    }

    /// Says up to which entry all are applied while the engine starts; `None` once it has started. A starting
    /// engine needs only the ids of applied entries.
    pub fn set_applied_before(&self, applied: Option<LogId>) {
        self.memory.lock().applied_before = applied;
    }

    /// The first entry, without its payload, if it is applied and nothing else is asked for. A starting engine
    /// reads this entry for its id alone. So the node can start although the entry's file is damaged, and mends
    /// the file later.
    fn first_as_known(&self, from: u64, to: u64) -> Option<Entry> {
        let memory = self.memory.lock();
        let is_applied = memory.applied_before.is_some_and(|last| from <= last.index);
        let first = memory.purged.map_or(0, |id| id.index + 1);
        let is_it = is_applied && from == first && to == from + 1;
        let term = self.log.term(Index(from)).ok().filter(|_| is_it)?;
        Some(openraft::entry::RaftEntry::new_blank(types::log_id(
            term,
            Index(from),
        )))
    }

    /// Takes the word of an earlier process for how far the log is committed, as far as this log
    /// goes and agrees.
    pub fn recall(&self, committed: LogId) {
        let Some(last) = self.last_log_id() else {
            return;
        };
        let known = if committed.index > last.index {
            // More is committed than this log holds. Then everything that it holds is committed, unless its
            // last entry is of a later term than the committed one.
            (committed >= last).then_some(last)
        } else {
            let here = self.log.term(Index(committed.index));
            let here = here.map(|term| types::log_id(term, Index(committed.index)));
            here.ok().filter(|here| *here == committed)
        };
        match known {
            Some(_) => {
                let mut memory = self.memory.lock();
                memory.committed = memory.committed.max(known);
            }
            None => tracing::warn!(%committed, %last, "what was told to be committed is not here"),
        }
    }

    /// Where the first error that ended writing is kept.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// What this node has promised.
    pub fn promised(&self) -> Promised {
        Promised::new(&self.memory)
    }

    /// The id of the last entry; of the last removed one if the log is empty.
    fn last_log_id(&self) -> Option<LogId> {
        let purged = self.memory.lock().purged;
        let last = self
            .log
            .last()
            .map(|(term, index)| types::log_id(term, index));
        last.max(purged)
    }

    /// Runs a step of the log's writer and waits for it.
    async fn written<E: std::error::Error + Send + Sync + 'static>(
        &self,
        start: impl FnOnce(log::Done) -> Result<(), E>,
    ) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |result| drop(tell.send(result)));
        start(done).map_err(io::Error::other)?;
        let result = told
            .await
            .map_err(|_| io::Error::other(log::Error::Stopped))?;
        result.map_err(|error| note(&self.failure, error))
    }

    /// Reads entries. If their segment is damaged, waits until it is mended, for so long at most.
    async fn read(
        &self,
        (from, to): (u64, u64),
        bytes_max: usize,
        repair_max: Duration,
    ) -> Result<Vec<log::Entry>, log::Error> {
        let deadline = Instant::now() + repair_max;
        loop {
            let read = if from >= to || self.log.entry_in_memory(Index(from)) {
                self.read_now(from, to, bytes_max)
            } else {
                // These are entries for a follower that lags. The disk is read on another thread, so that the
                // engine's task does not wait for it.
                let store = self.clone();
                on_disk(move || store.read_now(from, to, bytes_max)).await
            };
            match read {
                Err(log::Error::Damaged { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(REPAIR_LOOK).await;
                }
                // All descriptors are in use: the file can be opened once some are closed.
                Err(error) if error.is_short_of_files() => {
                    tokio::time::sleep(DESCRIPTOR_LOOK).await;
                }
                read => return read,
            }
        }
    }

    fn read_now(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<log::Entry>, log::Error> {
        let from = from.max(self.log.first_entry().0);
        let next = self.log.last().map_or(0, |(_, index)| index.0 + 1);
        self.log
            .entries(Index(from), Index(to.min(next)), bytes_max)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (mut from, to) = bounds(&range);
        if let Some(known) = self.first_as_known(from, to) {
            return Ok(vec![known]);
        }
        let purged = self.memory.lock().purged;
        from = from.max(purged.map_or(0, |id| id.index + 1));
        let mut entries = Vec::new();
        loop {
            let more = self.read((from, to), ENTRIES_BYTES_MAX, REPAIR_MAX).await;
            let more = entries_of(more.map_err(io::Error::other)?)?;
            let Some(last) = more.last() else {
                return Ok(entries);
            };
            from = last.log_id.index + 1;
            entries.extend(more);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory.lock().vote)
    }

    /// The last entry of each term. The log knows these without reading the disk.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let (first, last) = (*range.start(), *range.end());
        let ends = self.log.term_ends(Index(first.index)).into_iter();
        let ids = ends.map(|(term, index)| types::log_id(term, index));
        let mut ids: Vec<_> = ids.take_while(|id| id.index < last.index).collect();
        ids.retain(|id| id.leader_id != last.leader_id);
        ids.push(last);
        Ok(ids)
    }

    /// Entries for a follower; none while their segment is damaged, or once the first of them were given up: a task of
    /// the engine may take up a try that it has left for a snapshot. An error would stop the engine, and the node with
    /// it, over bytes of which other nodes may have whole copies. A request without the entries that come next ends the
    /// try (`raft/peer`), so the engine takes the next one from a snapshot where that holds them by then.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let range = (start, end);
        match self.read(range, ENTRIES_BYTES_MAX, REPAIR_OF_A_TRY).await {
            Err(log::Error::Damaged { .. }) => Ok(Vec::new()),
            _ if Index(start) < self.log.first_entry() => Ok(Vec::new()),
            read => entries_of(read.map_err(io::Error::other)?),
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.memory.lock().purged;
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: self.last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if vote.leader_id.voted_for == self.me && !vote.committed {
            self.counts.elections.one_more();
        }
        let (stable, saved) = (self.stable.clone(), *vote);
        self.written::<log::Error>(|done| {
            let job = move || {
                let result = stable.save_vote(&saved);
                result.map_err(|error| log::Error::Io {
                    action: "save the vote in",
                    path: stable_store::FILE.into(),
                    source: system_error(error),
                })
            };
            self.log.run_after_appends(Box::new(job), done);
            Ok(())
        })
        .await?;
        // The engine answers nobody before this line has run; [`Promised`] relies on that.
        self.memory.lock().vote = Some(saved);
        Ok(())
    }

    /// Keeps the index in memory alone. It is written to a file soon after, and made durable with each
    /// checkpoint. The engine waits for this call inside its loop; and an index that lags only makes a restarted
    /// node show less until it hears a leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.memory.lock().committed = committed;
        self.committed.send_replace(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let last = self.last_log_id();
        Ok(self.memory.lock().committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| codec::to_log(&entry));
        let entries: Vec<_> = entries.collect();
        let next = self.log.next_index();
        if let Some(first) = entries.first()
            && self.log.last().is_none()
            && first.index != next
        {
            // Only the engine's own test suite does this: it begins logs at any index, a node at 0 or its floor.
            self.written::<log::Error>(|done| {
                self.log.reset(first.index, done);
                Ok(())
            })
            .await?;
        }
        let next = self.log.next_index();
        if entries.first().is_some_and(|first| first.index != next) {
            let what = format!("the engine leaves a gap in the log: {next} comes next");
            return Err(io::Error::other(what));
        }
        let now = Instant::now();
        for entry in &entries {
            self.counts.appended_at.note(entry.index.0, now);
        }
        let failure = self.failure.clone();
        // Not the log itself: whoever holds it keeps the thread that calls this.
        let (counts, on_disk) = (self.counts.clone(), self.log.counts().clone());
        let range = next.0..next.0 + entries.len() as u64;
        let done = Box::new(move |result: Result<(), log::Error>| {
            let (now, began) = (Instant::now(), on_disk.sync_began.at(range.end));
            for index in range {
                counts.synced_at.note(index, now);
                began
                    .into_iter()
                    .for_each(|began| counts.sync_began_at.note(index, began));
            }
            callback.io_completed(result.map_err(|error| note(&failure, error)));
        });
        // This hands the entries to the log's writer and returns: the engine's task never waits for the disk.
        let appended = self.log.append(entries, done);
        self.tell_full();
        appended.map_err(|error| note(&self.failure, error))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let keep = last_log_id.map(|id| Index(id.index));
        let cut = self.written(|done| self.log.truncate_after(keep, done));
        cut.await.inspect(|()| self.tell_full())
    }

    /// Moves a pointer in memory and deletes nothing: the same files serve readers, and only a trim removes them.
    /// A restarted node shows the engine all of them again.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.memory.lock().purged = Some(log_id);
        let beyond = self
            .log
            .last()
            .is_none_or(|(_, last)| last.0 < log_id.index);
        let (first, next) = self.log.positions();
        if beyond && first == next {
            // Only the engine's own test suite does this: it purges a whole log and appends behind it.
            self.written::<log::Error>(|done| {
                self.log.reset(Index(log_id.index + 1), done);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
