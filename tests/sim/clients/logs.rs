//! The logs of a run, and what clients were told of several of them at once.

use std::sync::{Arc, Mutex, MutexGuard};

use ferrolog::client::{LogInfo, Selection};

use super::SharedRecord;
use super::table::Table;
use crate::events;
use crate::harness::checker::{Outcome, payload};

/// Numbers of producers that only one log has: what is sent to a log is unlike all that is sent to another.
const PRODUCERS_OF_A_LOG: u32 = 1_000_000;

/// A log that stays as long as the run, and what clients were told of it.
#[derive(Clone)]
pub struct Log {
    pub name: String,
    pub record: SharedRecord,
}

/// All logs.
#[derive(Clone)]
pub struct Logs {
    /// The default log first.
    pub lasting: Arc<[Log]>,
    several: Arc<Mutex<Several>>,
    tables: Arc<Mutex<Vec<Table>>>,
}

/// What concerns several logs, or logs that come and go.
#[derive(Default)]
pub struct Several {
    /// Each call that appended to several logs: the log's number, and that of the batch in the log's record.
    pub calls: Vec<Vec<(usize, usize)>>,
    /// What readers of several logs were told.
    pub stretches: Vec<Stretch>,
    /// Logs that are made and deleted.
    pub lives: Vec<Life>,
    sent: u32,
}

/// A record, and its place among those of all logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub position: u64,
    pub log: Arc<str>,
    pub offset: u64,
    pub hash: u64,
}

/// What one stream over several logs told, from one position up to another.
pub struct Stretch {
    pub reader: String,
    pub selection: Selection,
    pub from: u64,
    pub next: u64,
    pub found: Vec<Found>,
}

/// A log from when it was made until it was deleted. One client makes it, writes to it, and deletes it.
pub struct Life {
    pub name: String,
    pub id: u32,
    /// It was asked to be deleted.
    pub is_doomed: bool,
    /// It was told to be deleted.
    pub is_over: bool,
    /// Each record that was sent to it.
    pub sent: Vec<(u64, Outcome)>,
}

impl Logs {
    /// The default log and so many others.
    pub fn new(others: u64) -> Self {
        let names = (1..=others).map(|number| format!("orders/{number}"));
        let names = std::iter::once("default".to_owned()).chain(names);
        let log = |(number, name)| Log {
            name,
            record: SharedRecord::numbered_from(number * PRODUCERS_OF_A_LOG),
        };
        Self {
            lasting: (0..).zip(names).map(log).collect(),
            several: Arc::default(),
            tables: Arc::default(),
        }
    }

    pub fn several(&self) -> MutexGuard<'_, Several> {
        self.several.lock().expect("no panic before")
    }

    /// The logs that are compacted.
    pub fn tables(&self) -> MutexGuard<'_, Vec<Table>> {
        self.tables.lock().expect("no panic before")
    }

    /// Begins to note down what is sent to such a log; gives its number.
    pub fn new_table(&self, name: &str) -> usize {
        let mut tables = self.tables();
        tables.push(Table::new(name));
        tables.len() - 1
    }

    pub fn default_log(&self) -> &Log {
        &self.lasting[0]
    }

    /// How many records were acknowledged.
    pub fn acked(&self) -> u64 {
        let of_lasting = |log: &Log| log.record.lock().history.acked() as u64;
        let several = self.several();
        let sent = several.lives.iter().flat_map(|life| &life.sent);
        let acked = sent.filter(|(_, outcome)| matches!(outcome, Outcome::Acked(_)));
        let tables: usize = self.tables().iter().map(Table::acked).sum();
        self.lasting.iter().map(of_lasting).sum::<u64>() + (acked.count() + tables) as u64
    }
}

impl Several {
    /// The life of a log that was told to be there: its number. `None` if that log was told to be gone.
    pub fn life(&mut self, log: &LogInfo) -> Option<usize> {
        let known = self.lives.iter().position(|life| life.id == log.id);
        if let Some(known) = known {
            let life = &self.lives[known];
            return (life.name == log.name && !life.is_over).then_some(known);
        }
        if self.lives.iter().any(|life| life.name == log.name) {
            events::sometimes("a log was made anew under its name");
        }
        self.lives.push(Life {
            name: log.name.clone(),
            id: log.id,
            is_doomed: false,
            is_over: false,
            sent: Vec::new(),
        });
        Some(self.lives.len() - 1)
    }

    /// A value that nobody else sends.
    pub fn value(&mut self) -> [u8; 16] {
        self.sent += 1;
        payload(u32::MAX, self.sent)
    }
}
