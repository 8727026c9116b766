//! Cursors: consumers' named positions, part of the replicated state. They never expire.

use crate::log::{LogId, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::CommitCursor;
use crate::raft::entry::outcome::StateRefusal;
use crate::raft::entry::wire_error::WireError;

use super::sessions::check_share;
use super::table::{self, Table};

/// The most cursors in the cluster.
pub const CURSORS_MAX: usize = 4096;

/// All cursors by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursors(pub Table<Kept>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    cursor: Cursor,
    /// Who made the cursor, and in whose share it counts; empty without TLS.
    subject: String,
}

impl Kept {
    pub fn offset(&self) -> Offset {
        self.cursor.offset
    }
}

/// Where a consumer reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The offset of the record that is read next.
    pub offset: Offset,
    /// When it was last set: the leader's time in milliseconds since 1970.
    pub updated_ms: u64,
}

impl Cursors {
    /// A cursor of a log, by name.
    pub fn get(&self, log: LogId, name: &str) -> Option<&Cursor> {
        let kept = self.0.get(&(log, name.to_owned()));
        kept.map(|kept| &kept.cursor)
    }

    /// Up to `count` cursors of a log by name, behind `after`.
    pub fn list(&self, log: LogId, after: &str, count: usize) -> Vec<(String, Cursor)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let all = self.0.rows();
        let behind = all.range((Excluded((log, after.to_owned())), Unbounded));
        let its = behind.take_while(|((of, _), _)| *of == log);
        its.take(count)
            .map(|((_, name), kept)| (name.clone(), kept.cursor))
            .collect()
    }

    /// Sets a cursor, if it stands where the command expects it. It may stand at any record up to `log_next`, the
    /// offset of the log's next record.
    pub fn commit(&mut self, commit: &CommitCursor, log_next: Offset) -> Result<(), StateRefusal> {
        if commit.offset > log_next {
            let (asked, next) = (commit.offset, log_next);
            return Err(StateRefusal::CursorPastEnd { asked, next });
        }
        let current = self
            .get(commit.log, &commit.name)
            .map(|cursor| cursor.offset);
        let expected = commit.expected.is_none_or(|offset| current == Some(offset));
        if !expected || (commit.create_only && current.is_some()) {
            return Err(StateRefusal::CursorDiffers { current });
        }
        let cursor = Cursor {
            offset: commit.offset,
            updated_ms: commit.now_ms,
        };
        let key = (commit.log, commit.name.clone());
        if let Some(kept) = self.0.get_mut(&key) {
            kept.cursor = cursor;
            return Ok(());
        }
        let subjects = self.0.rows().values().map(|kept| &kept.subject);
        let room = check_share(&commit.subject, subjects, CURSORS_MAX);
        room.map_err(StateRefusal::TooManyCursors)?;
        let subject = commit.subject.clone();
        self.0.insert(key, Kept { cursor, subject });
        Ok(())
    }

    /// Forgets a cursor; false if there was none.
    pub fn delete(&mut self, log: LogId, name: &str) -> bool {
        self.0.remove(&(log, name.to_owned())).is_some()
    }

    /// Forgets all cursors of a log.
    pub fn delete_of(&mut self, log: LogId) {
        let from = (log, String::new());
        let its = self.0.rows().range(from..).map(|(key, _)| key);
        let its: Vec<_> = its.take_while(|key| key.0 == log).cloned().collect();
        for key in &its {
            self.0.remove(key);
        }
    }

    /// Takes over a row of a checkpoint.
    pub fn restore(&mut self, cursor: pb::Cursor) -> Result<(), WireError> {
        let stands = Cursor {
            offset: Offset(cursor.offset),
            updated_ms: cursor.updated_ms,
        };
        let kept = Kept {
            cursor: stands,
            subject: cursor.subject,
        };
        let key = (LogId(cursor.log), cursor.name);
        let is_new = self.0.restore(key, kept).is_none();
        let fits = is_new && self.0.rows().len() <= CURSORS_MAX;
        fits.then_some(()).ok_or(WireError::Unknown("cursor"))
    }
}

impl table::Kept for Kept {
    /// A log, and a name in it.
    type Key = (LogId, String);

    fn stored_key((log, name): &Self::Key) -> Vec<u8> {
        [&b"cursor/"[..], &log.0.to_be_bytes(), name.as_bytes()].concat()
    }

    fn to_pb(&self, (log, name): &Self::Key) -> pb::StateRow {
        let cursor = pb::Cursor {
            name: name.clone(),
            offset: self.cursor.offset.0,
            updated_ms: self.cursor.updated_ms,
            subject: self.subject.clone(),
            log: log.0,
        };
        pb::StateRow {
            row: Some(pb::state_row::Row::Cursor(cursor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::outcome::Full;
    use crate::raft::state::sessions::OF_SUBJECT_MAX;

    const END: Offset = Offset(9);

    fn commit(name: &str, offset: u64, expected: Option<u64>) -> CommitCursor {
        CommitCursor {
            log: LogId(3),
            name: name.to_owned(),
            subject: String::new(),
            offset: Offset(offset),
            expected: expected.map(Offset),
            create_only: false,
            now_ms: 5,
        }
    }

    /// Cursors that are made from the rows of these.
    fn restored(all: &Cursors) -> Cursors {
        let mut again = Cursors::default();
        for row in all.0.to_pb() {
            let Some(pb::state_row::Row::Cursor(cursor)) = row.row else {
                panic!("{row:?} is no cursor")
            };
            again.restore(cursor).unwrap();
        }
        again
    }

    #[test]
    fn a_cursor_is_set_only_from_where_it_stands() {
        let mut all = Cursors::default();
        let differs = |current: Option<u64>| {
            let current = current.map(Offset);
            Err(StateRefusal::CursorDiffers { current })
        };
        assert_eq!(all.commit(&commit("a", 1, Some(0)), END), differs(None));
        assert_eq!(all.commit(&commit("a", 7, None), END), Ok(()));
        assert_eq!(all.commit(&commit("a", 9, Some(8)), END), differs(Some(7)));
        assert_eq!(all.commit(&commit("a", 9, Some(7)), END), Ok(()));
        let again = CommitCursor {
            create_only: true,
            ..commit("a", 0, None)
        };
        assert_eq!(all.commit(&again, END), differs(Some(9)));
        assert_eq!(all.get(LogId(3), "a").unwrap().offset, Offset(9));
        let past = StateRefusal::CursorPastEnd {
            asked: Offset(10),
            next: END,
        };
        assert_eq!(all.commit(&commit("a", 10, Some(9)), END), Err(past));
        assert_eq!(all.commit(&commit("b", 10, None), END), Err(past));
        assert!(all.get(LogId(3), "b").is_none());
        assert_eq!(restored(&all), all);
        assert!(all.delete(LogId(3), "a") && !all.delete(LogId(3), "a"));
    }

    #[test]
    fn they_are_bounded_and_listed_in_pages() {
        let mut all = Cursors::default();
        for number in 0..CURSORS_MAX {
            all.commit(&commit(&format!("{number:04}"), 0, None), END)
                .unwrap();
        }
        let more = all.commit(&commit("more", 0, None), END);
        let full = Full {
            limit: CURSORS_MAX as u64,
            of_subject: false,
        };
        assert_eq!(more, Err(StateRefusal::TooManyCursors(full)));
        let page = all.list(LogId(3), "0001", 2);
        assert_eq!((&*page[0].0, &*page[1].0), ("0002", "0003"));
        assert!(all.list(LogId(3), "4095", 2).is_empty());
        assert_eq!(
            all.commit(&commit("0007", 1, None), END),
            Ok(()),
            "it is there"
        );
    }

    #[test]
    fn one_subject_does_not_use_up_all() {
        let mut all = Cursors::default();
        let of = |name: usize, subject: &str| CommitCursor {
            subject: subject.to_owned(),
            ..commit(&name.to_string(), 0, None)
        };
        for number in 0..OF_SUBJECT_MAX {
            all.commit(&of(number, "ann"), END).unwrap();
        }
        let full = Full {
            limit: OF_SUBJECT_MAX as u64,
            of_subject: true,
        };
        let refused = Err(StateRefusal::TooManyCursors(full));
        assert_eq!(all.commit(&of(OF_SUBJECT_MAX, "ann"), END), refused);
        assert_eq!(all.commit(&of(OF_SUBJECT_MAX, "bob"), END), Ok(()));
        assert_eq!(restored(&all), all);
    }
}
