//! What is due next in a read: an offset of its log, or a position among the records of several logs.
//!
//! Offsets have no gaps, but for those that compaction left: the server says so of each. Positions count the records of
//! all logs, so a selection of logs has gaps in them. There the server says how far it looked, and each record must lie behind the one before it.

use std::collections::HashMap;

use crate::client::ClientError;
use crate::client::consume::reading::{ConsumeOptions, Selection};
use crate::client::consume::unpacked::ConsumedRecord;
use crate::proto::v1::{ConsumeStreamResponse, StoredBatch};

/// Where a read is, and where it ends.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether the numbers are positions, not offsets.
    is_many: bool,
    /// The number due next; `None` until the start is known.
    pub next: Option<u64>,
    /// Where the read ends; `None` for one that follows.
    pub end: Option<u64>,
    /// How far the server has looked: the position at which it goes on.
    passed: u64,
    /// If logs are read by name: the id of each log of which a record came.
    ids: Option<HashMap<String, u32>>,
}

impl Due {
    pub fn new(options: &ConsumeOptions) -> Self {
        let named = matches!(options.selection, Some(Selection::Logs(_)));
        Self {
            is_many: options.selection.is_some(),
            ids: named.then(HashMap::new),
            ..Self::default()
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.next
            .zip(self.end)
            .is_some_and(|(next, end)| next >= end)
    }

    /// Notes where the read begins and, unless it follows, where it ends. `first` is the first answer.
    pub fn begin(
        &mut self,
        server: &str,
        first: &ConsumeStreamResponse,
        follow: bool,
    ) -> Result<(), ClientError> {
        let next = match self.is_many {
            true => first.next_position,
            false => first.next_offset,
        };
        let begin = first.batches.first().map_or(next, |batch| self.of(batch));
        if !follow {
            let Some(freshness) = &first.freshness else {
                return Err(ClientError::Protocol {
                    server: server.to_owned(),
                    what: "ConsumeStream does not say where the log ends",
                });
            };
            let end = match self.is_many {
                true => freshness.applied_position,
                false => freshness.applied_offset,
            };
            if begin > end {
                let (asked, next) = (begin, end);
                return Err(ClientError::PastEnd { asked, next });
            }
            self.end = Some(end);
        }
        self.next = Some(begin);
        Ok(())
    }

    /// Checks that an answer holds the records that are due. True if the answer moves the read on.
    pub fn take(
        &mut self,
        server: &str,
        answer: &ConsumeStreamResponse,
    ) -> Result<bool, ClientError> {
        let begin = self.next.unwrap_or(0);
        let mut expected = begin;
        let check = |expected, got, is_due| match is_due {
            true => Ok(()),
            false => Err(ClientError::Gap {
                server: server.to_owned(),
                expected,
                got,
            }),
        };
        for batch in &answer.batches {
            let first = self.of(batch);
            let is_due = match self.is_many {
                true => first >= expected,
                false => first.checked_sub(batch.skipped) == Some(expected),
            };
            check(expected, first, is_due)?;
            self.check_log(batch)?;
            expected = first + batch.batch.as_ref().map_or(0, |batch| batch.count) as u64;
        }
        if self.is_many {
            let next = answer.next_position;
            check(expected, next, next >= expected)?;
            self.passed = next;
            return Ok(next > begin);
        }
        // A server that goes on at a later offset would have skipped records.
        let next = answer.next_offset;
        check(expected, next, next <= expected)?;
        Ok(!answer.batches.is_empty())
    }

    /// Checks that a named log is still the one of which records came: one made anew under the name is another log.
    fn check_log(&mut self, batch: &StoredBatch) -> Result<(), ClientError> {
        let Some(ids) = &mut self.ids else {
            return Ok(());
        };
        match ids.get(&batch.log) {
            Some(id) if *id != batch.log_id => Err(ClientError::LogDeleted),
            Some(_) => Ok(()),
            None => {
                ids.insert(batch.log.clone(), batch.log_id);
                Ok(())
            }
        }
    }

    /// Notes that a record was handed out.
    pub fn handed_out(&mut self, record: &ConsumedRecord) {
        self.next = Some(record.position.unwrap_or(record.offset) + 1);
    }

    /// Notes that all records that came were handed out.
    pub fn all_handed_out(&mut self) {
        if self.is_many {
            self.next = self.next.map(|next| next.max(self.passed));
        }
    }

    fn of(&self, batch: &StoredBatch) -> u64 {
        match self.is_many {
            true => batch.position,
            false => batch.first_offset,
        }
    }
}
