//! What happens in a run, in order: its digest tells two histories apart, its counts what they were made of.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Duration;

use super::harness::checker::hash;
use super::system;

/// What each of many seeds does sometimes: all of it must have happened over a thousand.
pub const SOMETIMES: [&str; 28] = [
    "a leader was elected after the first",
    "a leader was deposed with entries unsynced",
    "a cut took whole segments",
    "a node crashed in the middle of a disk operation",
    "a snapshot was installed",
    "a snapshot was installed under load",
    "a session ended with batches in flight",
    "a record was refused for the room on the disk",
    "the outcome of an append stayed unknown",
    "a batch that was sent again was known",
    "a conditional append came too late",
    "a producer was fenced off",
    "a bounded read was refused",
    "a damaged segment was read",
    "the log was trimmed",
    "a subscriber was overtaken by a trim",
    "a segment was sealed",
    "segments were rewritten",
    "records were compacted",
    "a key was forgotten",
    "the log ended a segment",
    "a node ended a segment by itself",
    "a call appended to several logs",
    "a call to several logs was refused for one of them",
    "a log was deleted",
    "a log was made anew under its name",
    "a stream was told that its log was deleted",
    "a stream over several logs was gone on with",
];

thread_local! {
    static UNDER_LOAD: Cell<bool> = const { Cell::new(false) };
    static EVENTS: RefCell<Events> = RefCell::default();
}

#[derive(Default)]
struct Events {
    digest: u64,
    count: u64,
    /// For whoever looks for the first that differs.
    written: Option<BufWriter<File>>,
    line: String,
    lasted: Duration,
    counts: BTreeMap<&'static str, u64>,
    seen: BTreeSet<&'static str>,
}

/// Writes every event to a file, too.
pub fn write_to(file: File) {
    EVENTS.with_borrow_mut(|events| events.written = Some(BufWriter::new(file)));
}

/// Something happened, now.
pub fn note(what: impl Display) {
    EVENTS.with_borrow_mut(|events| {
        let mut line = std::mem::take(&mut events.line);
        line.clear();
        events.lasted = system::elapsed();
        let at = events.lasted.as_micros();
        write!(line, "{at} {what}").expect("a string takes all");
        events.digest = hash(&[&events.digest.to_le_bytes(), line.as_bytes()].concat());
        events.count += 1;
        if let Some(written) = &mut events.written {
            writeln!(written, "{line}").expect("room for the events");
        }
        events.line = line;
    });
}

/// A fault of this kind.
pub fn fault(kind: &'static str, what: impl Display) {
    note(format_args!("fault {kind} {what}"));
    EVENTS.with_borrow_mut(|events| *events.counts.entry(kind).or_default() += 1);
}

/// Clients are at work from now on, or are not.
pub fn load(is_on: bool) {
    UNDER_LOAD.set(is_on);
}

pub fn is_under_load() -> bool {
    UNDER_LOAD.get()
}

/// One of [`SOMETIMES`] has happened.
pub fn sometimes(what: &'static str) {
    debug_assert!(SOMETIMES.contains(&what), "{what}: not in the list");
    EVENTS.with_borrow_mut(|events| events.seen.insert(what));
}

/// What came of a run.
pub struct Told {
    pub digest: u64,
    pub count: u64,
    pub lasted: Duration,
    pub faults: BTreeMap<&'static str, u64>,
    pub seen: BTreeSet<&'static str>,
}

pub fn told() -> Told {
    EVENTS.with_borrow_mut(|events| {
        if let Some(written) = &mut events.written {
            written.flush().expect("room for the events");
        }
        Told {
            digest: events.digest,
            count: events.count,
            lasted: events.lasted,
            faults: events.counts.clone(),
            seen: events.seen.clone(),
        }
    })
}
