//! Several logs read as one: which they are, and how far a stream is among the records of all.
//!
//! The log tells rows by the ids of logs. Which ids are meant, a selection looks up in the state when it meets
//! them, and keeps that: an id is given once, and the name behind it never changes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;

use crate::log::{self, Course, LogId, Position, Stretch, Wanted};
use crate::name::{Shown, is_meant};
use crate::net::budget::{Accounts, Held};
use crate::proto::v1::{self, ConsumeStreamStart, Edge, StoredBatch, selection::Of, start::At};
use crate::raft::{ReadError, ReplicatedLog};

use super::super::auth::{Action, On, Rights};
use super::super::{ApiContext, status};
use super::batches::LogNames;
use super::be_current;
use super::consume::count_of;
use super::position::Consistency;

/// Logs that one stream names. A request holds about so many; a prefix has no limit.
pub const NAMES_MAX: usize = 1000;
/// What the names of logs of a prefix take that a stream keeps, in bytes, and how many others it knows not to be meant: it
/// looks them up anew after that. Those of one look stay until the next.
const KNOWN_BYTES_MAX: usize = 96 << 10;
const OTHERS_MAX: usize = 4096;
/// What a name takes beside its letters.
const NAME_OVERHEAD: usize = 64;
/// What both take together. It counts for as long as the stream lasts.
const PREFIX_BYTES: usize = 144 << 10;

/// The logs of a stream, and where it is.
pub struct Selection {
    /// Of a prefix, only the logs that the caller may read are meant.
    rights: Rights,
    /// What names begin with; `None` if they were named one by one.
    prefix: Option<String>,
    /// Those that are meant, as far as they were met.
    names: Arc<LogNames>,
    /// What these names take, of a prefix.
    known_bytes: usize,
    /// The ids of those that were named, in order.
    ids: Arc<[LogId]>,
    /// Those that are not meant.
    others: Arc<HashSet<LogId>>,
    /// What the last look left for the next one.
    course: Course,
    /// How often logs had gone when all that were named were there.
    forgotten: u64,
    /// The position to read on from.
    pub next: Position,
    /// Where the log ended as the stream's first answer said. A client may wait to hear that this is passed.
    end: Option<Position>,
    /// The room of what is kept of a prefix.
    _held: Option<Held>,
}

impl Selection {
    /// The logs that a request selects of those that its caller may read, and where it begins.
    pub async fn begin(
        api: &ApiContext<ReplicatedLog>,
        (rights, accounts): (Rights, Option<&Accounts>),
        until: Option<Instant>,
        selection: &v1::Selection,
        start: &ConsumeStreamStart,
    ) -> Result<(ReplicatedLog, Self), Status> {
        let log = api.several_for(&rights, Action::Consume, until)?;
        let consistency = Consistency::new(start.consistency);
        if !start.log.is_empty() {
            let what = "a stream reads a log, or a selection of logs: name one of them";
            return Err(status::invalid(what));
        }
        if matches!(consistency, Consistency::AtLeast(_)) {
            let what = "an offset is a place in one log: in a selection of logs, ask for a strong read instead";
            return Err(status::invalid(what));
        }
        // Before names are looked up: who asks for what was acknowledged means the logs that have them by then.
        consistency.reached(&log).await?;
        // A log that goes after that is noticed.
        let forgotten = log.log().forgotten();
        let (prefix, names) = match &selection.of {
            Some(Of::Prefix(prefix)) => (Some(prefix.clone()), LogNames::new()),
            Some(Of::Logs(logs)) => (None, listed(api, &rights, until, &logs.names).await?),
            None => return Err(status::invalid("the selection names no log and no prefix")),
        };
        let calls = accounts.filter(|_| prefix.is_some());
        let held = calls.map(|accounts| accounts.calls.try_take(PREFIX_BYTES));
        let held = held.transpose().map_err(|full| status::in_flight(&full))?;
        let mut ids: Vec<_> = names.keys().copied().collect();
        ids.sort_unstable();
        let mut selection = Self {
            rights,
            prefix,
            ids: ids.into(),
            names: Arc::new(names),
            known_bytes: 0,
            others: Arc::default(),
            course: Course::default(),
            forgotten,
            next: Position(0),
            end: None,
            _held: held,
        };
        selection.next = begins(&log, &selection.rights, start.start.clone()).await?;
        selection.are_there(&log)?;
        Ok((log, selection))
    }

    /// The names of the logs that were met.
    pub fn names(&self) -> Arc<LogNames> {
        self.names.clone()
    }

    /// Whether a look may find something: a record, or that a log went.
    pub fn is_past(&self, log: &log::Log) -> bool {
        log.positions().1 > self.next
            || (self.prefix.is_none() && log.forgotten() != self.forgotten)
    }

    /// An error if a log that was named is gone. One that a prefix selected leaves by itself.
    pub fn are_there(&mut self, log: &ReplicatedLog) -> Result<(), Status> {
        let forgotten = log.log().forgotten();
        if self.prefix.is_some() || forgotten == self.forgotten {
            return Ok(());
        }
        let gone = |id: &&LogId| log.log().ends(**id).is_none();
        if self.names.keys().find(gone).is_some() {
            return Err(status::log_deleted());
        }
        self.forgotten = forgotten;
        Ok(())
    }

    /// Looks at the rows from where the stream is on; what is found are records of these logs alone.
    pub async fn look(
        &mut self,
        api: &ApiContext<ReplicatedLog>,
        log: &ReplicatedLog,
    ) -> Result<Stretch, Status> {
        self.are_there(log)?;
        let found = self.rows(api, log).await;
        let mut found = found.map_err(|error| status::log(&error))?;
        if self.prefix.is_some() {
            self.learn(log, &found)?;
        }
        found.retain(|id| self.names.contains_key(&id));
        Ok(found)
    }

    async fn rows(
        &mut self,
        api: &ApiContext<ReplicatedLog>,
        log: &ReplicatedLog,
    ) -> Result<Stretch, log::Error> {
        let meant = match self.prefix {
            Some(_) => Meant::AllBut(self.others.clone()),
            None => Meant::These(self.ids.clone()),
        };
        let (log, next) = (log.log().clone(), self.next);
        let mut course = std::mem::take(&mut self.course);
        let now = meant.ask(|wanted| log.stretch_now(next, wanted, &mut course));
        if let Some(found) = now? {
            self.course = course;
            return Ok(found);
        }
        let look = move || {
            let found = meant.ask(|wanted| log.stretch(next, wanted, &mut course));
            Ok((found?, course))
        };
        let (found, course) = api.reading.on_disk("look for records", look).await?;
        self.course = course;
        Ok(found)
    }

    /// Looks up the logs that were not met before.
    fn learn(&mut self, log: &ReplicatedLog, found: &Stretch) -> Result<(), Status> {
        let Some(prefix) = &self.prefix else {
            return Ok(());
        };
        let (names, others) = (
            Arc::make_mut(&mut self.names),
            Arc::make_mut(&mut self.others),
        );
        if self.known_bytes > KNOWN_BYTES_MAX || others.len() > OTHERS_MAX {
            names.clear();
            others.clear();
            self.known_bytes = 0;
        }
        let met: BTreeSet<LogId> = found.logs().collect();
        let is_new = |id: &LogId| !names.contains_key(id) && !others.contains(id);
        let new: Vec<_> = met.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let known = log.names_of(&new).ok_or_else(|| {
            // The records of a snapshot are there a moment before what it says of their logs.
            status::read(&ReadError::Lagging { waited_ms: 0 })
        })?;
        for (id, name) in new.into_iter().zip(known) {
            // One that is deleted never comes back.
            let may_read = |name: &String| self.rights.may(Action::Consume, name);
            match name.filter(|name| is_meant(name, prefix) && may_read(name)) {
                Some(name) => {
                    self.known_bytes += NAME_OVERHEAD + name.len();
                    names.insert(id, name.into());
                }
                None => drop(others.insert(id)),
            }
        }
        Ok(())
    }

    /// The client was told that the log ends here.
    pub fn told(&mut self, end: Position) {
        self.end = Some(end);
    }

    /// Whether the stream has just come to where the log ended at its begin: that is told at once, even if no
    /// record led there.
    pub fn is_news(&mut self) -> bool {
        let next = self.next;
        self.end.take_if(|end| *end <= next).is_some()
    }

    /// Takes note of what was sent of a stretch.
    pub fn sent(&mut self, found: &Stretch, batches: &[StoredBatch]) {
        self.next = match batches.last() {
            Some(last) => found.behind(Position(last.position + count_of(last))),
            None => self.next,
        };
    }
}

/// The logs that a look may find, for whichever thread looks.
enum Meant {
    These(Arc<[LogId]>),
    AllBut(Arc<HashSet<LogId>>),
}

impl Meant {
    fn ask<T>(&self, look: impl FnOnce(&Wanted<'_>) -> T) -> T {
        match self {
            Self::These(ids) => look(&Wanted::These(ids)),
            Self::AllBut(others) => look(&Wanted::Those(&|id| !others.contains(&id))),
        }
    }
}

/// The logs of these names.
async fn listed(
    api: &ApiContext<ReplicatedLog>,
    rights: &Rights,
    until: Option<Instant>,
    names: &[String],
) -> Result<LogNames, Status> {
    if names.is_empty() || names.len() > NAMES_MAX {
        let what = format!(
            "a selection names 1 to {NAMES_MAX} logs, and not {}: select more by a prefix",
            names.len()
        );
        return Err(status::invalid(what));
    }
    let mut found = HashMap::new();
    for name in names {
        let log = api.log_of(rights, name, Action::Consume, until).await?;
        let id = log.id();
        if found.insert(id, Arc::from(name.as_str())).is_some() {
            let what = format!("the selection names the log {} twice", Shown(name));
            return Err(status::invalid(what));
        }
    }
    Ok(found)
}

/// Where a read of several logs begins.
async fn begins(
    log: &ReplicatedLog,
    rights: &Rights,
    start: Option<v1::Start>,
) -> Result<Position, Status> {
    let at = start.and_then(|start| start.at);
    if let Some(At::Cursor(name)) = &at {
        rights.check(Action::Consume, On::Cursor { log: None, name })?;
        // Where it stood when the call came, and what it stands behind is applied here.
        be_current(log).await?;
        let cursor = log.of(log::LogId::SEVERAL).cursor(name);
        let stands = cursor.ok_or_else(|| status::no_such_cursor(name))?.offset;
        return Ok(Position(stands.0));
    }
    let (first, next) = log.log().positions();
    let position = match at.unwrap_or(At::Edge(Edge::Earliest.into())) {
        At::Edge(edge) => match Edge::try_from(edge) {
            Ok(Edge::Unspecified | Edge::Earliest) => first,
            Ok(Edge::Latest) => next,
            Err(_) => return Err(status::invalid(format!("edge {edge} is none"))),
        },
        At::Position(position) => Position(position),
        At::Offset(_) | At::TimestampMs(_) | At::Tail(_) | At::Cursor(_) => {
            let what = "a selection of logs is read from a position, an edge or a cursor: offsets and times are \
                        places in one log";
            return Err(status::invalid(what));
        }
    };
    if position > next {
        let asked = position;
        return Err(status::log(&log::Error::PastEnd { asked, next }));
    }
    Ok(position)
}
