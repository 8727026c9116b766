//! The judge of the cluster tests, judged: each rule must flag a history that breaks it, and it alone.
//! So is the measure of a gap. The rules of reads are judged in `checker_reads.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::checker::{
    self, Append, Entry, FinalLogs, History, NodeLog, Outcome, Rule, Violation, check, hash,
};
use crate::harness::load::longest_gap;

/// How long a check of a million records may take in a debug build on a busy machine. Alone it takes two seconds.
const MILLION_MAX: Duration = Duration::from_secs(20);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Producer and number as in `p1-2`, with its outcome, between these milliseconds.
fn append(name: &str, outcome: Outcome, begin: u64, end: u64) -> Append {
    let (producer, seq) = name.split_once('-').expect("a name such as p1-2");
    Append {
        producer: producer[1..].parse().expect("a producer"),
        seq: seq.parse().expect("a number"),
        hash: hash(name.as_bytes()),
        begin: ms(begin),
        end: ms(end),
        outcome,
    }
}

fn acked(name: &str, offset: u64, begin: u64, end: u64) -> Append {
    append(name, Outcome::Acked(offset), begin, end)
}

fn unknown(name: &str, begin: u64) -> Append {
    append(name, Outcome::Unknown, begin, begin)
}

fn history(appends: impl IntoIterator<Item = Append>) -> History {
    History {
        appends: appends.into_iter().collect(),
        reads: Vec::new(),
    }
}

fn log(node: &str, records: &[(u64, &str)]) -> NodeLog {
    let entry = |&(offset, value): &(u64, &str)| Entry {
        offset,
        hash: hash(value.as_bytes()),
    };
    NodeLog {
        node: node.to_owned(),
        first: 0,
        entries: records.iter().map(entry).collect(),
    }
}

fn on_all(records: &[(u64, &str)]) -> FinalLogs {
    FinalLogs(["n1", "n2", "n3"].map(|node| log(node, records)).to_vec())
}

fn found(history: &History, logs: &FinalLogs) -> Vec<Violation> {
    check(history, logs).err().unwrap_or_default()
}

fn broken(history: &History, logs: &FinalLogs) -> BTreeSet<Rule> {
    found(history, logs).iter().map(Violation::rule).collect()
}

fn good() -> History {
    history([
        acked("p1-0", 0, 0, 10),
        acked("p2-0", 1, 5, 20),
        acked("p1-1", 2, 15, 30),
    ])
}

const GOOD: [(u64, &str); 3] = [(0, "p1-0"), (1, "p2-0"), (2, "p1-1")];

#[test]
fn a_sound_history_passes_and_the_report_says_what_was_held_against_it() {
    let report = check(&good(), &on_all(&GOOD)).expect("it is sound");
    for rule in [
        Rule::Durability,
        Rule::Agreement,
        Rule::Density,
        Rule::Uniqueness,
        Rule::NoPhantom,
    ] {
        assert_eq!(report.of(rule), 9, "{rule:?}: each record of each node");
    }
    assert_eq!(report.of(Rule::RealTimeOrder), 3);
    assert_eq!(report.of(Rule::SessionOrder), 3);
    // Of unknown outcome: in the log once, and in it not at all. What was refused is not in it.
    let mut history = good();
    history.appends.push(unknown("p2-1", 40));
    history.appends.push(unknown("p2-2", 41));
    let refused = append("p2-3", Outcome::Refused, 42, 43);
    history.appends.push(refused);
    let mut records = GOOD.to_vec();
    records.push((3, "p2-1"));
    assert_eq!(found(&history, &on_all(&records)), []);
    // The chain tells the order.
    let crossed = [(0, "p2-0"), (1, "p1-0"), (2, "p1-1")];
    let crossed = check(&History::default(), &on_all(&crossed));
    assert!(crossed.is_err(), "phantoms");
    let same = check(&good(), &on_all(&GOOD)).expect("it is sound");
    assert_eq!(report.chain, same.chain);
}

#[test]
fn durability_is_judged_on_every_node() {
    let lost_everywhere = on_all(&GOOD[..2]);
    let lost = found(&good(), &lost_everywhere);
    assert_eq!(lost.len(), 3, "{lost:?}");
    assert_eq!(broken(&good(), &lost_everywhere), [Rule::Durability].into());
    // The last node alone lost the end.
    let mut logs = on_all(&GOOD);
    logs.0[2] = log("n3", &GOOD[..2]);
    assert_eq!(
        broken(&good(), &logs),
        [Rule::Durability, Rule::Agreement].into()
    );
    // There, but at another offset than was acknowledged: the two ran side by side, so no order is broken.
    let appends = [acked("p1-0", 1, 0, 10), acked("p2-0", 0, 0, 10)];
    let swapped = on_all(&[(0, "p1-0"), (1, "p2-0")]);
    assert_eq!(
        broken(&history(appends), &swapped),
        [Rule::Durability].into()
    );
    // An offset that no log could have.
    let absurd = history([acked("p1-0", u64::MAX, 0, 10)]);
    assert_eq!(broken(&absurd, &on_all(&[])), [Rule::Durability].into());
}

#[test]
fn what_was_trimmed_is_not_missed() {
    let trimmed = |first: u64| {
        let mut logs = on_all(&GOOD[first as usize..]);
        logs.0.iter_mut().for_each(|log| log.first = first);
        logs
    };
    let report = check(&good(), &trimmed(2)).expect("the rest is there");
    assert_eq!(report.of(Rule::Durability), 3);
    // One node begins earlier than the others.
    let mut logs = trimmed(2);
    logs.0[1] = on_all(&GOOD).0.remove(1);
    assert_eq!(found(&good(), &logs), []);
    // It begins where it should, with something else.
    let mut logs = trimmed(2);
    logs.0[0].entries[0].offset = 1;
    assert!(broken(&good(), &logs).contains(&Rule::Density));
}

#[test]
fn nodes_that_differ_are_flagged() {
    // None was acknowledged, so only the nodes' difference is wrong.
    let unknown = history(["p1-0", "p2-0", "p3-0"].map(|name| unknown(name, 0)));
    let mut logs = on_all(&[(0, "p1-0")]);
    logs.0[1] = log("n2", &[(0, "p2-0")]);
    assert_eq!(broken(&unknown, &logs), [Rule::Agreement].into());
    let differs = |found: &Violation| matches!(found, Violation::Agreement { offset: 0, .. });
    assert!(found(&unknown, &logs).iter().any(differs));
    logs.0[1] = log("n2", &[(0, "p1-0"), (1, "p2-0")]);
    assert_eq!(broken(&unknown, &logs), [Rule::Agreement].into());
    let ends = |found: &Violation| matches!(found, Violation::Tails { tails: (2, 1), .. });
    assert!(found(&unknown, &logs).iter().all(ends));
}

#[test]
fn a_gap_is_flagged() {
    let appends = [acked("p1-0", 0, 0, 10), acked("p1-1", 2, 11, 20)];
    let gap = on_all(&[(0, "p1-0"), (2, "p1-1")]);
    assert_eq!(broken(&history(appends), &gap), [Rule::Density].into());
    let late = on_all(&[(1, "p1-0")]);
    let appends = [acked("p1-0", 1, 0, 10)];
    assert_eq!(broken(&history(appends), &late), [Rule::Density].into());
}

#[test]
fn a_record_twice_is_flagged() {
    let once = history([acked("p1-0", 0, 0, 10)]);
    let twice = on_all(&[(0, "p1-0"), (1, "p1-0")]);
    assert_eq!(broken(&once, &twice), [Rule::Uniqueness].into());
    // Of unknown outcome: at most once.
    let once = history([unknown("p1-0", 0)]);
    assert_eq!(broken(&once, &twice), [Rule::Uniqueness].into());
    // A retry was answered with another offset than the first try: one of the two is not there, either.
    let tries = [acked("p1-0", 0, 0, 10), acked("p1-0", 1, 0, 20)];
    let rules = broken(&history(tries), &on_all(&[(0, "p1-0"), (1, "p1-0")]));
    assert!(rules.contains(&Rule::Uniqueness), "{rules:?}");
    let tries = history([acked("p1-0", 0, 0, 10), acked("p1-0", 0, 0, 20)]);
    assert_eq!(found(&tries, &on_all(&[(0, "p1-0")])), []);
}

#[test]
fn what_nobody_sent_and_what_was_refused_is_flagged() {
    let one = history([acked("p1-0", 0, 0, 10)]);
    let phantom = on_all(&[(0, "p1-0"), (1, "p1-00")]);
    assert_eq!(broken(&one, &phantom), [Rule::NoPhantom].into());
    let refused = history([
        acked("p1-0", 0, 0, 10),
        append("p1-1", Outcome::Refused, 11, 12),
    ]);
    let there = on_all(&[(0, "p1-0"), (1, "p1-1")]);
    assert_eq!(broken(&refused, &there), [Rule::NoPhantom].into());
    let refused = |found: &Violation| matches!(found, Violation::Refused { offset: 1, .. });
    let all = found(
        &history([
            acked("p1-0", 0, 0, 10),
            append("p1-1", Outcome::Refused, 11, 12),
        ]),
        &there,
    );
    assert!(all.iter().all(refused) && all.len() == 3, "{all:?}");
}

#[test]
fn a_producers_records_out_of_order_are_flagged() {
    // Pipelined, so that real time allows either order.
    let appends = [acked("p1-0", 1, 0, 10), acked("p1-1", 0, 1, 10)];
    let crossed = on_all(&[(0, "p1-1"), (1, "p1-0")]);
    assert_eq!(
        broken(&history(appends), &crossed),
        [Rule::SessionOrder].into()
    );
    // The same if neither was acknowledged, and if the history is not in order.
    let appends = [unknown("p1-1", 1), unknown("p2-0", 1), unknown("p1-0", 0)];
    assert_eq!(
        broken(&history(appends), &crossed),
        [Rule::SessionOrder].into()
    );
}

#[test]
fn an_order_against_real_time_is_flagged() {
    // p2-0 began after p1-0 was acknowledged, and yet stands before it: not next to it, either.
    let appends = [
        acked("p1-0", 2, 0, 10),
        acked("p2-0", 0, 11, 20),
        acked("p3-0", 1, 5, 25),
    ];
    let crossed = on_all(&[(0, "p2-0"), (1, "p3-0"), (2, "p1-0")]);
    assert_eq!(
        broken(&history(appends), &crossed),
        [Rule::RealTimeOrder].into()
    );
    // The outcome of the later one is unknown only to the client: still an order.
    let appends = [acked("p1-0", 1, 0, 10), unknown("p2-0", 11)];
    let crossed = on_all(&[(0, "p2-0"), (1, "p1-0")]);
    assert_eq!(
        broken(&history(appends), &crossed),
        [Rule::RealTimeOrder].into()
    );
}

/// Producers side by side, each with many in flight; one append in a hundred is unknown and there.
fn million() -> (History, NodeLog) {
    const PRODUCERS: u64 = 8;
    let mut log = NodeLog {
        node: "n1".to_owned(),
        first: 0,
        entries: Vec::new(),
    };
    let mut appends = Vec::new();
    for producer in 0..PRODUCERS {
        for seq in 0..1_000_000 / PRODUCERS {
            let offset = seq * PRODUCERS + producer;
            let names = (producer as u32, seq as u32);
            appends.push(Append {
                producer: names.0,
                seq,
                hash: hash(&checker::payload(names.0, names.1)),
                begin: Duration::from_micros(offset),
                end: Duration::from_micros(offset + 5_000),
                outcome: match offset % 100 {
                    99 => Outcome::Unknown,
                    _ => Outcome::Acked(offset),
                },
            });
        }
    }
    log.entries
        .resize(appends.len(), Entry { offset: 0, hash: 0 });
    for append in &appends {
        let offset = append.seq * PRODUCERS + u64::from(append.producer);
        log.entries[offset as usize] = Entry {
            offset,
            hash: append.hash,
        };
    }
    (history(appends), log)
}

#[test]
fn a_million_records_are_judged_within_seconds() {
    let (history, log) = million();
    let logs = FinalLogs(vec![log]);
    let begun = Instant::now();
    let report = check(&history, &logs).expect("it is sound");
    let took = begun.elapsed();
    println!("{} records in {took:.2?}: {report}", history.appends.len());
    assert!(took < MILLION_MAX, "{took:?}");
}

#[test]
fn a_gap_belongs_to_the_fault_that_made_it() {
    let acks = || [0, 10, 500, 510, 2_000, 2_010].map(ms).to_vec();
    // Faults at 12 and at 520: the first cost 490 ms, the second 1,490.
    assert_eq!(longest_gap(acks(), ms(12), ms(520)), ms(490));
    assert_eq!(longest_gap(acks(), ms(520), ms(2_020)), ms(1_490));
    // An outage that lasts to the end counts, and so does one without any answer at all.
    assert_eq!(longest_gap(acks(), ms(2_015), ms(9_010)), ms(7_000));
    assert_eq!(longest_gap(Vec::new(), ms(5), ms(105)), ms(100));
}
