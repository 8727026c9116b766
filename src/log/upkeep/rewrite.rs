//! Rewriting sealed segments with what lives of them.
//!
//! A run of sealed segments gives way to one that holds the batches of which a record lives, log by log and in each log
//! in order, so that the records of a log lie together. Which live, an entry of the raft log says, so the result is the
//! same on every node. Nothing waits for it: it is written beside the old segments, and takes their place at once, when
//! its seal is there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::moved_frames::{Live, Writer};
use crate::log::compaction::{Gone, Runs};
use crate::log::format::directory::Directory;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::files::{Paths, SegmentName};
use crate::log::format::moved::Cover;
use crate::log::format::row::{ROW_BYTES, Row};
use crate::log::format::seal::{Seal, TermEnd};
use crate::log::open::listing;
use crate::log::open::rewritten::Told;
use crate::log::segment::index_file::IndexFile;
use crate::log::segment::store::Store;
use crate::log::{Error, Index, Log, LogId, LogState, Offset, Position};

/// Bytes of batches that one step moves, about.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes after which what was written is synced. All of a segment at once would keep the syncs of appends waiting, on every
/// node at the same time.
const SYNC_BYTES: u64 = 1 << 20;

/// Which segments are rewritten, and what of them lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The raft index of the entry that says so.
    pub at: Index,
    /// The first raft index of the first segment.
    pub base: Index,
    /// The raft index behind the last one.
    pub next: Index,
    /// Where the log of the leader that decided it began then.
    pub begins: Index,
    /// By which entry each of them was rewritten before, if it was. A node whose segments are others would make another
    /// one of them: it takes over what a node made that has these.
    pub of: Vec<Option<Index>>,
    /// No record in them is later, in milliseconds since 1970.
    pub sealed_ms: u64,
    /// Where logs begin of which records are gone; one that was deleted, behind all offsets. The others live as a whole.
    pub firsts: BTreeMap<LogId, Offset>,
    /// The logs of which records are gone that later ones of their keys stand for.
    pub compacted: BTreeSet<LogId>,
    /// Those records.
    pub gone: Gone,
}

impl Rewrite {
    /// What the segment will be called after.
    pub fn name(&self) -> SegmentName {
        SegmentName {
            base: self.base,
            rewritten: Some(self.at),
        }
    }

    /// Whether a record of a log lives that stands before `end`, and perhaps some before it.
    fn lives(&self, log: LogId, end: u64) -> bool {
        let first = self.firsts.get(&log);
        log != LogId::GONE && first.is_none_or(|first| end > first.0)
    }
}

/// A segment that was written and is yet to take the place of others.
#[derive(Debug)]
pub struct Rewritten {
    pub(super) seal: Seal,
    pub(super) directory: Directory,
    /// The stores that it was made of.
    pub(super) of: Vec<Arc<Store>>,
}

impl Rewritten {
    /// How many segments it stands for.
    pub fn segments(&self) -> usize {
        self.of.len()
    }

    /// The bytes that it takes on the disk.
    pub fn bytes(&self) -> u64 {
        let rows = FILE_HEADER_BYTES + self.seal.rows as usize * ROW_BYTES;
        u64::from(self.seal.end) + rows as u64
    }
}

/// A segment that is rewritten.
#[derive(Debug)]
struct Source {
    name: SegmentName,
    store: Arc<Store>,
    rows: IndexFile,
    seal: Arc<Seal>,
}

/// A rewriting that is under way, a step at a time. What it has written goes if it is dropped before its end.
#[derive(Debug)]
pub struct Rewriting {
    log: Log,
    plan: Rewrite,
    sources: Vec<Source>,
    /// How many of the sources were looked at.
    looked_at: usize,
    live: Vec<Live>,
    /// The records that are gone behind the sources that were looked at.
    gone: Runs,
    /// How many of the batches that live were written.
    written: usize,
    writer: Writer,
    /// What was written since the last sync.
    unsynced: u64,
    is_finished: bool,
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let _upkeep = self.log.0.upkeep.lock();
        if let Err(error) = self.log.forget_rewritten(self.plan.name()) {
            // The next try, or the next start, removes it.
            tracing::debug!(%error, "a segment that was begun is not removed");
        }
    }
}

impl Rewriting {
    /// Goes on for about a mebibyte; gives how many bytes were read or written, `None` once all are.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a segment waits for repair: then it is to be begun again.
    pub fn step(&mut self) -> Result<Option<u64>, Error> {
        if let Some(source) = self.sources.get(self.looked_at) {
            let taken =
                source.take_live((self.looked_at, &self.plan), &mut self.gone, &mut self.live);
            taken.map_err(|error| self.log.note_bad_rows(source.name, error))?;
            self.looked_at += 1;
            if self.looked_at == self.sources.len() {
                self.live.sort_unstable_by_key(Live::order);
            }
            return Ok(Some(u64::from(source.seal.rows) * ROW_BYTES as u64));
        }
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some(live) = self.live.get(self.written) else {
                return Ok((bytes > 0).then_some(bytes));
            };
            let source = &self.sources[live.source as usize];
            let read = || {
                let batch = source.store.batch(live.row.place);
                batch.map_err(|error| self.log.note_damage(&source.store, error))
            };
            let added = self.writer.add(live, read);
            let added = added.map_err(|error| self.log.note_bad_rows(source.name, error))?;
            self.written += 1;
            bytes += added;
        }
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.writer.store.sync()?;
            self.unsynced = 0;
        }
        Ok(Some(bytes))
    }

    /// How many bytes were written, or are about to be.
    pub fn written(&self) -> u64 {
        self.writer.bytes()
    }

    /// Makes durable what was written, once [`Self::step`] has come to its end.
    ///
    /// # Errors
    ///
    /// As those of writing and reading files.
    pub fn finish(mut self) -> Result<Rewritten, Error> {
        let (disk, plan) = (self.log.0.disk.clone(), &self.plan);
        let paths = Paths::new(&self.log.0.dir, plan.name());
        self.writer.finish(&cover_of(plan, &self.sources))?;
        let store = self.writer.store.clone();
        store.sync()?;
        // It is read back whole: the rows follow from what stands there. What lives is forgotten before that, since both
        // take memory for each batch.
        self.live = Vec::new();
        let told = Told::read(&store, None)?;
        // No snapshot is adopted meanwhile, and so no other files take these names.
        let log = self.log.clone();
        let _upkeep = log.0.upkeep.lock();
        if !self.log.0.state.read().are_held(&self.sources) {
            return Err(self.log.0.state.read().no_entry(plan.base));
        }
        let seal = told.seal(plan.name());
        told.write_rows(&*disk, &paths.index, plan.base)?;
        let directory = listing::list_of(told.rows(), &store, &seal)?;
        let directory = directory.ok_or_else(|| store.corrupt(0, "its rows are not its own"))?;
        self.is_finished = true;
        Ok(Rewritten {
            seal: seal.with(&directory),
            directory,
            of: self
                .sources
                .iter()
                .map(|source| source.store.clone())
                .collect(),
        })
    }
}

impl Log {
    /// Begins to write the segment that stands for others; `None` if this log cannot: its segments end elsewhere, or are
    /// not what they were.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if one of them waits for repair.
    pub fn begin_rewrite(&self, plan: &Rewrite) -> Result<Option<Rewriting>, Error> {
        let _upkeep = self.0.upkeep.lock();
        let Some(sources) = self.0.state.read().sources(plan)? else {
            return Ok(None);
        };
        self.forget_rewritten(plan.name())?;
        let path = Paths::new(&self.0.dir, plan.name()).store;
        let store = Store::create(&*self.0.disk, &path, plan.base, FILE_HEADER_BYTES as u32)?;
        Ok(Some(Rewriting {
            log: self.clone(),
            plan: plan.clone(),
            sources,
            looked_at: 0,
            live: Vec::new(),
            gone: plan.gone.runs(),
            written: 0,
            writer: Writer::new(Arc::new(store)),
            unsynced: 0,
            is_finished: false,
        }))
    }

    /// Whether [`Self::begin_rewrite`] would begin, or find damage.
    pub fn can_rewrite(&self, plan: &Rewrite) -> bool {
        let sources = self.0.state.read().sources(plan);
        sources.map_or(true, |sources| sources.is_some())
    }
}

impl LogState {
    /// Whether these are the segments that stand here still.
    fn are_held(&self, sources: &[Source]) -> bool {
        let first = sources.first();
        let first = first.and_then(|first| self.segment_number(first.seal.base));
        let mut held = self.segments.range(first.unwrap_or(self.segments.len())..);
        sources.iter().all(|source| {
            let held = held.next();
            held.is_some_and(|held| Arc::ptr_eq(&held.store, &source.store))
        })
    }

    /// The segments that are to be rewritten; `None` if segments end elsewhere here, are not sealed, or are others.
    fn sources(&self, plan: &Rewrite) -> Result<Option<Vec<Source>>, Error> {
        let Some(first) = self.segment_number(plan.base) else {
            return Ok(None);
        };
        let (mut sources, mut next) = (Vec::new(), plan.base);
        let mut of = plan.of.iter();
        for segment in self.segments.range(first..) {
            if next >= plan.next {
                break;
            }
            let Some(seal) = segment.seal().filter(|seal| seal.base == next) else {
                return Ok(None);
            };
            if of.next() != Some(&seal.rewritten) {
                return Ok(None);
            }
            // One that this node ended by itself may end elsewhere on others.
            if !seal.rolled {
                return Ok(None);
            }
            if segment.damage.is_some() {
                return Err(segment.damaged());
            }
            next = seal.next_index();
            sources.push(Source {
                name: seal.name(),
                store: segment.store.clone(),
                rows: segment.index.file(),
                seal: seal.clone(),
            });
        }
        let is_all = next == plan.next && of.next().is_none();
        Ok((is_all && !sources.is_empty()).then_some(sources))
    }
}

impl Source {
    /// Takes the batches of which a record lives.
    fn take_live(
        &self,
        (number, plan): (usize, &Rewrite),
        gone: &mut Runs,
        live: &mut Vec<Live>,
    ) -> Result<(), Error> {
        let mut last: Option<Row> = None;
        let mut take = |row: &Row, next: Position| {
            let records = next.0.checked_sub(row.position.0);
            let records = records.and_then(|records| u32::try_from(records).ok());
            let records = records.filter(|records| *records > 0);
            let records = records.ok_or(Error::Malformed("the rows are not in order"))?;
            let mut keep = |run: Range<u64>| {
                let one = Live {
                    row: *row,
                    of: records,
                    source: number as u32,
                    first: (run.start - row.position.0) as u32,
                    count: (run.end - run.start) as u32,
                };
                if plan.lives(row.log, one.offset().0.saturating_add(one.count.into())) {
                    live.push(one);
                }
            };
            let mut within = row.position.0..next.0;
            if !plan.compacted.contains(&row.log) {
                keep(within);
                return Ok(());
            }
            while let Some(run) = gone.next_living(&mut within)? {
                keep(run);
            }
            Ok::<_, Error>(())
        };
        for row in self.rows.rows_of(&self.seal) {
            let row = row?;
            if let Some(last) = last.replace(row) {
                take(&last, row.position)?;
            }
        }
        match last {
            Some(last) => take(&last, self.seal.next_position),
            None => Ok(()),
        }
    }
}

/// What a segment covers that stands for these.
fn cover_of(plan: &Rewrite, sources: &[Source]) -> Cover {
    let mut term_ends: Vec<TermEnd> = Vec::new();
    for Source { seal, .. } in sources {
        let before = seal.base.0 - plan.base.0;
        for end in &seal.term_ends {
            let entry = u32::try_from(before + u64::from(end.entry)).unwrap_or(u32::MAX);
            match term_ends.last_mut() {
                Some(last) if last.term == end.term => last.entry = entry,
                _ => term_ends.push(TermEnd { entry, ..*end }),
            }
        }
    }
    let position = |seal: Option<&Source>, of: fn(&Seal) -> Position| {
        seal.map_or(Position(0), |source| of(&source.seal))
    };
    Cover {
        first_position: position(sources.first(), |seal| seal.first_position),
        next_position: position(sources.last(), |seal| seal.next_position),
        sealed_ms: plan.sealed_ms,
        term_ends,
    }
}
