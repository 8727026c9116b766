//! What a node counts of consensus and of writes; all its parts share it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::{ByLabel, Counter, Passed, Times, labels};
use crate::raft::entry::outcome::Refusal;
use crate::raft::error::ProposeError;

labels! {
    /// Why a batch was not appended, or is not known to be.
    pub enum Why as "reason" {
        NoLeader = "no_leader",
        Unknown = "outcome_unknown",
        DiskFull = "disk_full",
        Malformed = "malformed",
        Stopping = "stopping",
        Session = "session_expired",
        Sequence = "sequence",
        NotOwner = "not_owner",
        NoSuchLog = "no_such_log",
        Offset = "offset_differs",
        Fenced = "fenced",
    }
}

impl From<&ProposeError> for Why {
    fn from(error: &ProposeError) -> Self {
        let refused = match error {
            ProposeError::NoLeader { .. } => return Self::NoLeader,
            ProposeError::Unknown => return Self::Unknown,
            ProposeError::DiskFull(_) => return Self::DiskFull,
            ProposeError::Malformed => return Self::Malformed,
            ProposeError::Stopping => return Self::Stopping,
            ProposeError::Refused(refused) => &refused.why,
        };
        match refused {
            Refusal::SessionExpired => Self::Session,
            Refusal::SequenceGap { .. }
            | Refusal::SequenceOverlap { .. }
            | Refusal::SequenceReused { .. } => Self::Sequence,
            Refusal::NotOwner => Self::NotOwner,
            Refusal::NotHolder | Refusal::Fenced { .. } => Self::Fenced,
            Refusal::NoSuchLog => Self::NoSuchLog,
            Refusal::OffsetDiffers { .. } => Self::Offset,
        }
    }
}

labels! {
    /// What became of a try to mend a segment.
    pub enum Mended as "outcome" {
        Done = "mended",
        Failed = "failed",
    }
}

labels! {
    /// Which way a snapshot went.
    pub enum Way as "direction" {
        Sent = "sent",
        Taken = "taken",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Counts {
    pub elections: Counter,
    pub leader_changes: Counter,
    pub committed: Counter,
    pub refused: ByLabel<Why, Counter>,
    /// Records and bytes of this node's clients.
    pub records: Counter,
    pub bytes: Counter,
    /// From when a batch came until it was handed to the engine.
    pub queue: Times,
    /// From when an entry was appended here until it was known to be committed.
    pub quorum: Times,
    pub apply: Times,
    /// From when an entry was applied until its batches were answered.
    pub answer: Times,
    pub appended_at: Passed,
    /// When the sync of an entry began here, and ended.
    pub sync_began_at: Passed,
    pub synced_at: Passed,
    pub committed_at: Passed,
    pub applied_at: Passed,
    pub repairs: ByLabel<Mended, Counter>,
    pub snapshots: ByLabel<Way, Counter>,
    pub scrubbed_bytes: Counter,
    peers: Mutex<BTreeMap<u64, PeerCounts>>,
}

/// What is counted of a peer.
#[derive(Debug, Clone, Copy, Default)]
pub struct PeerCounts {
    pub missed: u64,
    /// What the last heartbeat took, there and back.
    pub round_trip: Option<Duration>,
}

impl Counts {
    /// What was counted of each peer since this node began.
    pub fn peers(&self) -> BTreeMap<u64, PeerCounts> {
        self.peers.lock().clone()
    }

    /// A heartbeat begins.
    pub fn heartbeat(&self, peer: u64) -> Heartbeat<'_> {
        Heartbeat {
            counts: self,
            peer,
            began: Instant::now(),
            is_answered: false,
        }
    }

    /// An entry is about to be applied: it is committed.
    pub fn is_committed(&self, index: u64, now: Instant) {
        if let Some(took) = self.appended_at.since(index, now) {
            self.quorum.note(took);
        }
        self.committed_at.note(index, now);
    }

    /// An entry was applied, which began at this time.
    pub fn is_applied(&self, index: u64, began: Instant) {
        let now = Instant::now();
        self.apply.note(now.saturating_duration_since(began));
        self.applied_at.note(index, now);
    }
}

/// A heartbeat under way. One that is given up counts as missed.
#[derive(Debug)]
pub struct Heartbeat<'a> {
    counts: &'a Counts,
    peer: u64,
    began: Instant,
    is_answered: bool,
}

impl Heartbeat<'_> {
    /// The peer answered it.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Heartbeat<'_> {
    fn drop(&mut self) {
        let mut peers = self.counts.peers.lock();
        let peer = peers.entry(self.peer).or_default();
        match self.is_answered {
            true => peer.round_trip = Some(self.began.elapsed()),
            false => peer.missed += 1,
        }
    }
}
