//! The checker's rules of reads, judged: each must flag a history that breaks it, and it alone.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::checker::{
    Append, Entry, FinalLogs, History, NodeLog, Outcome, Read, ReadKind, Rule, Violation, check,
    hash,
};

const BOUND: ReadKind = ReadKind::Bounded(Duration::from_millis(100));

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn entry(offset: u64) -> Entry {
    let hash = hash(&offset.to_le_bytes());
    Entry { offset, hash }
}

/// Ten records; the one at offset `n` was acknowledged from `n` hundred milliseconds to ten more.
fn log_of_ten(reads: impl IntoIterator<Item = Read>) -> (History, FinalLogs) {
    let append = |offset: u64| Append {
        producer: 0,
        seq: offset,
        hash: entry(offset).hash,
        begin: ms(offset * 100),
        end: ms(offset * 100 + 10),
        outcome: Outcome::Acked(offset),
    };
    let log = NodeLog {
        node: "n1".to_owned(),
        first: 0,
        entries: (0..10).map(entry).collect(),
    };
    let history = History {
        appends: (0..10).map(append).collect(),
        reads: reads.into_iter().collect(),
    };
    (history, FinalLogs(vec![log]))
}

/// A read of all from `from` up to `tail`, from `begin` on for five milliseconds.
fn read(kind: ReadKind, begin: u64, from: u64, tail: u64) -> Read {
    Read {
        session: None,
        kind,
        node: "n2".to_owned(),
        begin: ms(begin),
        end: ms(begin + 5),
        from,
        seen: (from..tail).map(entry).collect(),
        tail,
    }
}

fn of_session(session: u32, read: Read) -> Read {
    Read {
        session: Some(session),
        ..read
    }
}

fn broken(reads: impl IntoIterator<Item = Read>) -> BTreeSet<Rule> {
    let (history, logs) = log_of_ten(reads);
    let found = check(&history, &logs).err().unwrap_or_default();
    found.iter().map(Violation::rule).collect()
}

#[test]
fn sound_reads_pass() {
    let reads = [
        // At 350 ms, offsets 0 to 3 are acknowledged.
        read(ReadKind::Strong, 350, 0, 4),
        // While offset 4 is under way it may be seen or not.
        read(ReadKind::Strong, 405, 4, 4),
        read(ReadKind::Strong, 405, 2, 5),
        // 100 ms before, there were three.
        of_session(1, read(BOUND, 350, 0, 3)),
        of_session(1, read(ReadKind::Relaxed, 360, 3, 3)),
        of_session(2, read(ReadKind::Relaxed, 900, 0, 0)),
        of_session(2, read(ReadKind::Relaxed, 905, 0, 1)),
        of_session(7, read(ReadKind::Stream, 300, 1, 3)),
        of_session(7, read(ReadKind::Stream, 400, 3, 4)),
    ];
    let (history, logs) = log_of_ten(reads);
    let report = check(&history, &logs).expect("they are sound");
    let counts = [
        (Rule::StrongRead, 3),
        (Rule::BoundedRead, 1),
        (Rule::SessionRead, 4),
        (Rule::Stream, 3),
    ];
    for (rule, count) in counts {
        assert_eq!(report.of(rule), count, "{rule:?}");
    }
    assert!(report.of(Rule::Prefix) >= 9);
}

#[test]
fn a_strong_read_that_misses_an_acknowledged_record_is_flagged() {
    let stale = read(ReadKind::Strong, 350, 0, 3);
    assert_eq!(broken([stale]), [Rule::StrongRead].into());
    // "Out of range at 3", though 3 was acknowledged.
    let denied = read(ReadKind::Strong, 350, 3, 3);
    assert_eq!(broken([denied]), [Rule::StrongRead].into());
    // The same answer is right for the relaxed, and for the bounded if the bound allows it.
    assert_eq!(broken([read(ReadKind::Relaxed, 350, 3, 3)]), [].into());
    assert_eq!(broken([read(BOUND, 350, 3, 3)]), [].into());
    assert_eq!(broken([read(BOUND, 350, 2, 2)]), [Rule::BoundedRead].into());
}

#[test]
fn a_strong_read_that_goes_back_is_flagged() {
    // Offset 4 is under way: the first of the two saw it, so the second must.
    let first = read(ReadKind::Strong, 401, 0, 5);
    let mut second = read(ReadKind::Strong, 407, 0, 4);
    assert_eq!(
        broken([first.clone(), second.clone()]),
        [Rule::StrongRead].into()
    );
    assert_eq!(
        broken([second.clone(), first.clone()]),
        [Rule::StrongRead].into(),
        "in whatever order they are told"
    );
    // Side by side they may differ.
    second.begin = ms(405);
    assert_eq!(broken([first, second]), [].into());
}

#[test]
fn a_read_of_what_the_log_does_not_hold_is_flagged() {
    let mut wrong = read(ReadKind::Relaxed, 350, 0, 3);
    wrong.seen[1].hash ^= 1;
    assert_eq!(broken([wrong]), [Rule::Prefix].into());
    let mut gap = read(ReadKind::Relaxed, 350, 0, 3);
    gap.seen.remove(1);
    assert_eq!(broken([gap]), [Rule::Prefix].into());
    let mut elsewhere = read(ReadKind::Relaxed, 350, 1, 3);
    elsewhere.from = 0;
    assert_eq!(broken([elsewhere]), [Rule::Prefix].into());
    // More than there is, and more than the node said that it had.
    let beyond = read(ReadKind::Relaxed, 950, 0, 11);
    assert_eq!(broken([beyond]), [Rule::Prefix].into());
    let mut ahead = read(ReadKind::Relaxed, 950, 0, 5);
    ahead.tail = 4;
    assert_eq!(broken([ahead]), [Rule::Prefix].into());
}

#[test]
fn a_session_that_goes_back_is_flagged() {
    let reads = |second: u32| {
        [
            of_session(1, read(ReadKind::Relaxed, 800, 0, 5)),
            of_session(second, read(ReadKind::Relaxed, 810, 0, 4)),
        ]
    };
    assert_eq!(broken(reads(1)), [Rule::SessionRead].into());
    assert_eq!(broken(reads(2)), [].into(), "of another session");
    // Overlapping reads have no order, and yet what both saw holds for what comes after.
    let [mut first, second] = reads(1);
    first.end = ms(812);
    let third = of_session(1, read(ReadKind::Relaxed, 820, 0, 4));
    assert_eq!(broken([first.clone(), second.clone()]), [].into());
    assert_eq!(broken([first, second, third]), [Rule::SessionRead].into());
}

#[test]
fn a_stream_with_a_gap_or_a_repetition_is_flagged() {
    let part = |begin, from, tail| of_session(7, read(ReadKind::Stream, begin, from, tail));
    let mut gap = part(900, 0, 5);
    gap.seen.remove(2);
    assert_eq!(broken([gap]), [Rule::Stream].into());
    let mut again = part(900, 0, 5);
    again.seen[3] = entry(2);
    assert_eq!(broken([again]), [Rule::Stream].into());
    // Across connections.
    let skips = [part(900, 0, 5), part(910, 6, 8)];
    assert_eq!(broken(skips), [Rule::Stream].into());
    let repeats = [part(900, 0, 5), part(910, 4, 8)];
    assert_eq!(broken(repeats), [Rule::Stream].into());
    assert_eq!(broken([part(910, 5, 8), part(900, 0, 5)]), [].into());
}
