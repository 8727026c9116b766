//! Where a read begins, and what it must see.

use std::time::Duration;

use tonic::Status;

use crate::log::Offset;
use crate::proto::v1::{self, Edge, consistency::Level, start::At};
use crate::raft::ReplicatedLog;

use super::super::{ApiContext, status};
use crate::server::counts::Asked;

/// What a read must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    Relaxed,
    AtLeast(Offset),
    Bounded(Duration),
    Strong,
}

impl From<Consistency> for Asked {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Relaxed => Self::Relaxed,
            Consistency::AtLeast(_) => Self::AtLeast,
            Consistency::Bounded(_) => Self::Bounded,
            Consistency::Strong => Self::Strong,
        }
    }
}

impl Consistency {
    /// What a request asks for.
    pub fn new(consistency: Option<v1::Consistency>) -> Self {
        match consistency.and_then(|consistency| consistency.level) {
            None | Some(Level::Relaxed(_)) => Self::Relaxed,
            Some(Level::AtLeastOffset(offset)) => Self::AtLeast(Offset(offset)),
            Some(Level::BoundedMs(millis)) => Self::Bounded(Duration::from_millis(millis)),
            Some(Level::Strong(_)) => Self::Strong,
        }
    }

    /// Returns once a read of this node's log sees what it must.
    pub async fn reached(self, log: &ReplicatedLog) -> Result<(), Status> {
        let reached = match self {
            Self::Relaxed => Ok(()),
            Self::AtLeast(next) => log.apply_to(next).await,
            Self::Bounded(bound) => log.be_fresh(bound).await,
            Self::Strong => log.read_barrier().await,
        };
        reached.map_err(|error| status::read(&error))
    }

    /// Whether what was read before the call may still be answered with.
    pub fn holds(self, log: &ReplicatedLog) -> bool {
        match self {
            Self::Bounded(bound) => {
                let staleness = log.freshness().staleness;
                staleness.is_some_and(|staleness| staleness <= bound)
            }
            _ => true,
        }
    }
}

/// As [`begin`], but behind the end there is no place to begin at.
pub async fn begin_inside(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    start: Option<v1::Start>,
) -> Result<Offset, Status> {
    let asked = begin(api, log, start).await?;
    let (first, next) = log.offsets();
    if asked > next {
        let error = crate::log::Error::OutOfRange { asked, first, next };
        return Err(status::log(&error));
    }
    Ok(asked)
}

/// Finds where a read of a log begins.
pub async fn begin(
    api: &ApiContext<ReplicatedLog>,
    log: &ReplicatedLog,
    start: Option<v1::Start>,
) -> Result<Offset, Status> {
    let (first, next) = log.offsets();
    let at = start.and_then(|start| start.at);
    Ok(match at.unwrap_or(At::Edge(Edge::Earliest.into())) {
        At::Edge(edge) => match Edge::try_from(edge) {
            Ok(Edge::Unspecified | Edge::Earliest) => first,
            Ok(Edge::Latest) => next,
            Err(_) => return Err(status::invalid(format!("edge {edge} is none"))),
        },
        At::Offset(offset) => Offset(offset),
        At::TimestampMs(timestamp_ms) => {
            let (id, log) = (log.id(), log.log().clone());
            let search = move || log.offset_at(id, timestamp_ms);
            let found = api.reading.on_disk("search for a time", search).await;
            found.map_err(|error| status::log(&error))?
        }
        At::Position(_) => {
            let what =
                "a position is a place in a selection of logs: give an offset, or select logs";
            return Err(status::invalid(what));
        }
        At::Tail(count) => Offset(next.0.saturating_sub(count)).max(first),
        At::Cursor(name) => {
            // Where it stood when the call came: another node may have set it.
            let current = log.read_barrier().await;
            current.map_err(|error| status::read(&error))?;
            let cursor = log.cursor(&name);
            cursor.ok_or_else(|| status::no_such_cursor(&name))?.offset
        }
    })
}
