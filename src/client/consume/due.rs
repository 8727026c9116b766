//! What is due next in a read: an offset of its log, or a position among the records of several logs.
//!
//! Offsets have no gaps. Positions count the records of all logs, so those of a selection have some: there the
//! server says how far it looked, and what comes must lie behind what came.

use std::collections::HashMap;

use crate::client::ClientError;
use crate::client::consume::reading::{ConsumeOptions, Selection};
use crate::client::consume::unpacked::ConsumedRecord;
use crate::proto::v1::{ConsumeStreamResponse, StoredBatch};

/// Where a read is, and where it ends.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether positions are counted.
    is_many: bool,
    /// The number due next; `None` until the start is known.
    pub next: Option<u64>,
    /// Where the read ends; `None` for one that follows.
    pub end: Option<u64>,
    /// Where the server goes on behind what came.
    passed: u64,
    /// The ids of logs that were named, as far as records of them came.
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

    /// Takes note of where the read begins, and where it ends.
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

    /// Checks that an answer's records are the ones due; tells whether the read gets on by it.
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
            let is_due = first == expected || (self.is_many && first > expected);
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

    /// A log that was named and is made anew under its name is another one.
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

    /// A record was handed out.
    pub fn handed_out(&mut self, record: &ConsumedRecord) {
        self.next = Some(record.position.unwrap_or(record.offset) + 1);
    }

    /// All that came was handed out.
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
