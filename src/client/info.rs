//! What an operator is told of epochs, cursors and sessions.

use crate::proto::v1::{Cursor, HeldFence, Session};

/// A name that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The epoch that this claim gave: one above the last.
    pub epoch: u64,
    /// No record of an older epoch comes at or after this offset.
    pub next_offset: u64,
}

/// A consumer's named position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorInfo {
    /// The cursor's name.
    pub name: String,
    /// The offset of the record that is read next.
    pub offset: u64,
    /// When the cursor was last set, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// A name that was claimed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceInfo {
    /// The name.
    pub name: String,
    /// Its present epoch.
    pub epoch: u64,
    /// What the holder calls itself.
    pub holder: String,
    /// The name in the holder's certificate; empty without TLS.
    pub subject: String,
}

impl From<HeldFence> for FenceInfo {
    fn from(held: HeldFence) -> Self {
        Self {
            name: held.name,
            epoch: held.epoch,
            holder: held.holder,
            subject: held.subject,
        }
    }
}

/// A producer's session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's number, for [`close_session`](super::Admin::close_session).
    pub id: u64,
    /// The name in its producer's certificate; empty without TLS.
    pub subject: String,
    /// How many records were appended under the session.
    pub records: u64,
    /// When the last batch came under the session, in milliseconds since 1970.
    pub last_used_ms: u64,
}

impl From<Session> for SessionInfo {
    fn from(session: Session) -> Self {
        Self {
            id: session.session,
            subject: session.subject,
            records: session.records,
            last_used_ms: session.last_used_ms,
        }
    }
}

impl From<Cursor> for CursorInfo {
    fn from(cursor: Cursor) -> Self {
        Self {
            name: cursor.name,
            offset: cursor.offset,
            updated_ms: cursor.updated_ms,
        }
    }
}
