//! The ids of the logs that were appended to, as the answers tell them.
//!
//! A log that was made anew under its name is another log. So each request names the id that the first answer told,
//! and what follows is refused, not appended to the new log.

use std::collections::HashMap;

/// More logs than a cluster has, unless its settings say otherwise. Beyond that all are learned anew.
const KNOWN_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<Box<str>, u32>);

/// An answer told another id than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnotherLog;

impl Ids {
    /// The id of the log that was appended to under this name.
    pub(super) fn of(&self, log: &str) -> Option<u32> {
        self.0.get(log).copied()
    }

    /// Notes the id of the log to which a batch was appended; servers of before this told none.
    pub(super) fn note(&mut self, log: &str, told: Option<u32>) -> Result<(), AnotherLog> {
        let Some(id) = told else {
            return Ok(());
        };
        match self.of(log) {
            Some(known) if known != id => Err(AnotherLog),
            Some(_) => Ok(()),
            None => {
                if self.0.len() >= KNOWN_MAX {
                    self.0.clear();
                }
                self.0.insert(log.into(), id);
                Ok(())
            }
        }
    }
}
