//! A command and the record that tells of it, in one entry: neither is there without the other.
//!
//! Such an entry is a frame of batches. The first holds the command, as a control entry has it; the second one record
//! for the log of changes, or several. Apply carries out the command, and gives the records their offsets if it changed
//! something.

use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message;

use crate::log::LogId;
use crate::log::record::{self, BatchBuilder};
use crate::proto::raft_v1 as pb;
use crate::spans::Trace;

use super::codec;
use super::command::Command;
use super::wire_error::WireError;

/// The batches of such an entry.
const BATCHES: usize = 2;

/// A command, and the bytes of its entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Audited {
    pub command: Box<Command>,
    /// Two batches.
    pub payload: Bytes,
}

impl Audited {
    /// `lines` are the records, `time_ms` is the leader's time. The command is none of records, of segments, or one that
    /// is told already.
    pub fn new(command: Command, lines: &[String], time_ms: u64) -> Self {
        let control = pb::ControlEntry {
            command: codec::command_to_control(&command),
        };
        let first = record::opaque(LogId::AUDIT, &control.encode_to_vec());
        let mut told = BatchBuilder::of(LogId::AUDIT, None);
        lines
            .iter()
            .for_each(|line| told.push(line.as_bytes(), 0, 0));
        Self {
            command: Box::new(command),
            payload: record::join([first, told.finish()].iter(), Some(time_ms)),
        }
    }

    /// Reads what [`Self::new`] made.
    ///
    /// # Errors
    ///
    /// A [`WireError`] if it made no such thing.
    pub fn read(payload: Bytes) -> Result<Self, WireError> {
        const NO_PAIR: WireError = WireError::Unknown("entry with a record that tells of it");
        let batches = record::batches(&payload).map_err(|_| NO_PAIR)?;
        let is_pair = batches.len() == BATCHES
            && batches.iter().all(|batch| batch.log == LogId::AUDIT)
            && batches
                .iter()
                .all(|batch| batch.producer.is_none() && !batch.with_next);
        if !is_pair {
            return Err(NO_PAIR);
        }
        let control = pb::ControlEntry::decode(batches[0].records(&payload))?;
        let EntryPayload::Normal(command) = codec::from_control(control)? else {
            return Err(NO_PAIR);
        };
        Ok(Self {
            command: Box::new(command),
            payload,
        })
    }
}

/// Who asked for a change, and by which call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The name in the certificate; empty without TLS.
    pub subject: String,
    /// Where the call came from, `host:port`.
    pub address: String,
    /// The name of the node that took the call.
    pub node: String,
    /// The service and the method, as `ferrolog.v1.LogService/CreateLog`.
    pub verb: String,
    /// Where the spans hang of what is done for the call. It stays in memory: nothing that is written knows of it.
    pub trace: Trace,
}

/// What is told in the log of changes of what no command does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    pub origin: Origin,
    /// What was done, or was to be; may be empty.
    pub change: String,
    /// What it came to, in a word: `begun`, `done`, `denied`, `refused`, `failed`.
    pub outcome: String,
    /// Why, for people; may be empty.
    pub reason: String,
    /// So many alike, in place of a record of each.
    pub count: u64,
}

impl Origin {
    pub fn to_pb(&self) -> pb::Origin {
        pb::Origin {
            subject: self.subject.clone(),
            address: self.address.clone(),
            node: self.node.clone(),
            verb: self.verb.clone(),
        }
    }

    pub fn from_pb(origin: pb::Origin) -> Self {
        Self {
            subject: origin.subject,
            address: origin.address,
            node: origin.node,
            verb: origin.verb,
            trace: Trace::default(),
        }
    }
}

impl Note {
    /// Whether it is told before a change, which waits for it.
    pub fn is_begun(&self) -> bool {
        self.outcome == "begun"
    }

    pub fn to_pb(&self) -> pb::Note {
        pb::Note {
            origin: Some(self.origin.to_pb()),
            change: self.change.clone(),
            outcome: self.outcome.clone(),
            reason: self.reason.clone(),
            count: self.count,
        }
    }

    pub fn from_pb(note: pb::Note) -> Self {
        Self {
            origin: Origin::from_pb(note.origin.unwrap_or_default()),
            change: note.change,
            outcome: note.outcome,
            reason: note.reason,
            count: note.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Index, Kind, Term};

    #[test]
    fn a_command_and_what_is_told_of_it_come_back_as_one() {
        let command = Command::DeleteFence("leader".to_owned());
        let lines = ["one".to_owned(), "two".to_owned()];
        let made = Audited::new(command.clone(), &lines, 77);
        let read = Audited::read(made.payload.clone()).unwrap();
        assert_eq!(
            (read.payload.clone(), *read.command.clone()),
            (made.payload, command)
        );
        assert_eq!(record::timestamp_ms(&read.payload), 77);
        let batches = record::batches(&read.payload).unwrap();
        assert_eq!(batches[1].count, 2);
        // As an entry, from log to log.
        let written = crate::log::Entry {
            term: Term(2),
            index: Index(5),
            kind: Kind::Audited,
            payload: read.payload.clone(),
        };
        let entry = codec::from_log(written.clone()).unwrap();
        assert_eq!(codec::to_log(&entry), written);
    }

    #[test]
    fn other_batches_are_no_such_entry() {
        let of = |log, value: &[u8]| {
            let mut batch = BatchBuilder::of(log, None);
            batch.push(value, 0, 0);
            batch.finish()
        };
        let whole = Audited::new(Command::DeleteFence("a".to_owned()), &["x".to_owned()], 1);
        let batches = record::batches(&whole.payload).unwrap();
        let first = whole.payload.slice(batches[0].at..batches[1].at);
        let told = of(LogId::AUDIT, b"x");
        let good = record::join([first.clone(), told.clone()].iter(), None);
        assert!(Audited::read(good).is_ok());
        let bad = [
            vec![first.clone()],
            vec![told.clone(), told.clone()],
            vec![first.clone(), of(LogId(3), b"x")],
            vec![first, told.clone(), told],
        ];
        for batches in bad {
            assert!(Audited::read(record::join(batches.iter(), None)).is_err());
        }
    }
}
