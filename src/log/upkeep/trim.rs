//! Giving up a log's oldest records: logically at once, on disk a sealed segment at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::env::Instant;

use crate::log::format::files::{self, SegmentName};
use crate::log::index_maps::Looked;
use crate::log::segment::Segment;
use crate::log::segment::store::Store;
use crate::log::{Error, Floor, Index, Log, LogId, LogState, Offset, Position, Seal, Term};

/// Keeps segments from removal until dropped.
#[derive(Debug)]
pub struct Pin {
    log: Log,
    from: Index,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.log.0.state.write();
        let held = state.pins.iter().position(|from| *from == self.from);
        if let Some(held) = held {
            state.pins.swap_remove(held);
        }
    }
}

/// One segment, for those who decide what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first raft index.
    pub base: Index,
    /// What its files are called after.
    pub name: SegmentName,
    /// How many positions its records take, those that are gone among them; 0 while it is open.
    pub positions: u64,
    /// Its rows: one for each batch, and for each place where records are gone; 0 while it is open.
    pub rows: u64,
    /// The raft index after its last.
    pub next_index: Index,
    /// What it takes on disk, about, in bytes.
    pub bytes: u64,
    /// The position after its last record; `None` while it is open.
    pub next_position: Option<Position>,
    /// Since when this process has it: the one before has ended by then.
    pub opened: Instant,
    /// It is older than that by what times say: it was found, or came from another node.
    pub found: bool,
    /// The log's time when it was sealed, or while it is open that of its first records, in
    /// milliseconds since 1970; 0 before any.
    pub since_ms: u64,
    /// Whether the log says that it ends where it does.
    pub rolled: bool,
    /// Whether it waits for repair.
    pub damaged: bool,
}

impl Log {
    /// Lets a log begin at `first`, as far as readers see. Never goes back, nor past the end.
    pub fn trim(&self, log: LogId, first: Offset) {
        let mut state = self.0.state.write();
        let Some(part) = state.logs.get_mut(&log) else {
            return;
        };
        let first = part.ends.first.max(first.min(part.ends.next));
        let was = std::mem::replace(&mut part.ends.first, first);
        state.given_up += u64::from(was < first);
    }

    /// How often records were given up. Until it changes, what lives of a sealed segment does not.
    pub fn given_up(&self) -> u64 {
        self.0.state.read().given_up
    }

    /// A leader's log began at this raft index, as an applied entry says. Of compacted logs nothing is kept before it.
    pub fn let_go_before(&self, begins: Index) {
        let mut state = self.0.state.write();
        state.given_up_before = state.given_up_before.max(begins);
    }

    /// Keeps every segment that is held now.
    pub fn pin(&self) -> Arc<Pin> {
        let mut state = self.0.state.write();
        let from = state.first_base();
        state.pins.push(from);
        let log = self.clone();
        Arc::new(Pin { log, from })
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.0.state.read();
        let info = |segment: &Segment| SegmentInfo {
            base: segment.base(),
            name: segment.name(),
            positions: segment
                .seal()
                .map_or(0, |seal| seal.next_position.0 - seal.first_position.0),
            rows: segment.seal().map_or(0, |seal| seal.rows.into()),
            next_index: segment.next_index(),
            bytes: segment.bytes(),
            next_position: segment.seal().map(|seal| seal.next_position),
            opened: segment.opened,
            found: segment.found,
            since_ms: segment.since_ms,
            rolled: segment.is_rolled(),
            damaged: segment.damage.is_some(),
        };
        state.segments.iter().map(info).collect()
    }

    /// Where the log could begin if all sealed segments went that hold only trimmed records, or such as
    /// [`Log::let_go_before`] lets go, and entries before `covered`, and that nobody has pinned; and the term of the
    /// last entry that would go. `None` if none could.
    pub fn droppable(&self, covered: Index) -> Result<Option<(Floor, Term)>, Error> {
        self.with_directories(|state| state.droppable(covered))
    }

    /// Where a log would begin if it kept no sealed segment that nothing else is kept in; `None` if it keeps none.
    pub fn held_back(&self, log: LogId) -> Result<Option<Offset>, Error> {
        self.with_directories(|state| state.held_back(log))
    }

    /// Removes the segments below a floor that [`Log::droppable`] gave and that is durable; false
    /// if one of them was pinned since.
    pub fn drop_below(&self, floor: Floor) -> Result<bool, Error> {
        let _upkeep = self.0.upkeep.lock();
        let able = self.droppable(floor.index)?;
        let (gone, stores): (Vec<_>, Vec<_>) = {
            let mut state = self.0.state.write();
            // What is trimmed stays so. A segment may be pinned meanwhile.
            let is_pinned = state.pins.iter().any(|pinned| *pinned < floor.index);
            if is_pinned || able.is_none_or(|(able, _)| able.index < floor.index) {
                return Ok(false);
            }
            let below = |segment: &mut Segment| segment.base() < floor.index;
            let mut gone = Vec::new();
            while let Some(segment) = state.segments.pop_front_if(below) {
                gone.push((segment.name(), segment.store.clone()));
            }
            state.floor = floor.index;
            state.first_position = floor.position;
            state.forget_tail_before(floor.index);
            gone.into_iter().unzip()
        };
        self.remove_segments(&gone, stores)?;
        Ok(true)
    }

    /// Removes the files of segments that the log holds no more. The names go now, and what their stores take a piece at a
    /// time.
    pub(super) fn remove_segments(
        &self,
        gone: &[SegmentName],
        stores: Vec<Arc<Store>>,
    ) -> Result<(), Error> {
        let remains = self.remains_of(stores.into_iter());
        gone.iter().for_each(|name| self.forget_files(*name));
        files::remove_all(&*self.0.disk, &self.0.dir, gone.iter())?;
        // A read that began before may have opened one anew, which would keep its room on the disk.
        gone.iter().for_each(|name| self.forget_files(*name));
        self.keep_remains(remains);
        Ok(())
    }
}

impl LogState {
    fn droppable(&self, covered: Index) -> Result<Looked<Option<(Floor, Term)>>, Error> {
        let pinned = self.pins.iter().min();
        let covered = pinned.map_or(covered, |pinned| covered.min(*pinned));
        let mut last = None;
        for (number, segment) in self.segments.iter().enumerate() {
            let Some(seal) = segment.seal().filter(|seal| seal.next_index() <= covered) else {
                break;
            };
            match self.is_dead(number, seal, None)? {
                Looked::Found(true) => last = Some(seal),
                Looked::Found(false) => break,
                Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
            }
        }
        Ok(Looked::Found(last.map(|last| {
            let floor = Floor {
                index: last.next_index(),
                position: last.next_position,
            };
            (floor, last.last_term())
        })))
    }

    fn held_back(&self, log: LogId) -> Result<Looked<Option<Offset>>, Error> {
        let first = self.ends(log).unwrap_or_default().first;
        let mut behind = None;
        for (number, segment) in self.segments.iter().enumerate() {
            let Some(seal) = segment.seal() else {
                break;
            };
            match self.is_dead(number, seal, Some(log))? {
                Looked::Found(true) => {}
                Looked::Found(false) => break,
                Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
            }
            if seal.logs.contains(log) {
                match self.end_in(number, log)? {
                    Looked::Found(next) => behind = behind.max(Some(next)),
                    Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
                }
            }
        }
        Ok(Looked::Found(behind.filter(|next| *next > first)))
    }

    /// Whether a sealed segment holds no record that may be read, but for those of one log.
    fn is_dead(
        &self,
        number: usize,
        seal: &Seal,
        but: Option<LogId>,
    ) -> Result<Looked<bool>, Error> {
        // Where tens of thousands of logs are dead, the one that lives is to be found at once: it was asked a moment ago.
        let likely = LogId(self.keeper.load(Ordering::Relaxed));
        let likely = Some(likely).filter(|log| seal.logs.contains(*log));
        for log in likely.into_iter().chain(seal.logs.iter()) {
            if Some(log) == but {
                continue;
            }
            match self.keeps(number, log)? {
                Looked::Found(true) => {
                    self.keeper.store(log.0, Ordering::Relaxed);
                    return Ok(Looked::Found(false));
                }
                Looked::Found(false) => {}
                Looked::Needs(lazy) => return Ok(Looked::Needs(lazy)),
            }
        }
        Ok(Looked::Found(true))
    }

    /// Whether a record of a log that has some in this segment may be read.
    fn keeps(&self, number: usize, log: LogId) -> Result<Looked<bool>, Error> {
        // A log that begins at its end, or is deleted, holds nothing: no look at the rows is needed.
        let Some(ends) = self.ends(log).filter(|ends| ends.first < ends.next) else {
            return Ok(Looked::Found(false));
        };
        // A leader gave up all of this segment by then: what is not trimmed, later records stand for.
        let is_given_up = self.segments[number].next_index() <= self.given_up_before;
        if is_given_up && self.may_have_gaps(log) {
            return Ok(Looked::Found(false));
        }
        // Nothing of it was trimmed.
        if ends.first == Offset(0) {
            return Ok(Looked::Found(true));
        }
        Ok(match self.end_in(number, log)? {
            Looked::Found(next) => Looked::Found(next > ends.first),
            Looked::Needs(lazy) => Looked::Needs(lazy),
        })
    }
}
