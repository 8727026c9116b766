//! The judge of the cluster tests, judged: each rule must flag a history that breaks it, and it alone.
//! So is the measure of a gap.

mod harness;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::Record;

use harness::checker::{Attempt, NodeLog, Rule, check};
use harness::load::longest_gap;

/// Producer and sequence number as in `p1-2`, acknowledged at this offset, between these milliseconds.
fn attempt(name: &str, acked: Option<u64>, started: u64, ended: u64) -> Attempt {
    let (producer, seq) = name.split_once('-').expect("a name such as p1-2");
    Attempt {
        producer: producer[1..].parse().expect("a producer"),
        seq: seq.parse().expect("a number"),
        value: Bytes::copy_from_slice(name.as_bytes()),
        started: Duration::from_millis(started),
        acked: acked.map(|offset| (offset, Duration::from_millis(ended))),
    }
}

fn log(node: &str, records: &[(u64, &str)]) -> NodeLog {
    let record = |(offset, value): &(u64, &str)| Record {
        offset: *offset,
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    NodeLog {
        node: node.to_owned(),
        records: records.iter().map(record).collect(),
    }
}

fn on_all(records: &[(u64, &str)]) -> Vec<NodeLog> {
    ["n1", "n2", "n3"].map(|node| log(node, records)).to_vec()
}

fn broken(attempts: &[Attempt], logs: &[NodeLog]) -> HashSet<Rule> {
    let found = check(attempts, logs);
    found.iter().map(|violation| violation.rule).collect()
}

fn good() -> Vec<Attempt> {
    vec![
        attempt("p1-0", Some(0), 0, 10),
        attempt("p2-0", Some(1), 5, 20),
        attempt("p1-1", Some(2), 15, 30),
    ]
}

const GOOD: [(u64, &str); 3] = [(0, "p1-0"), (1, "p2-0"), (2, "p1-1")];

#[test]
fn a_sound_history_passes() {
    assert_eq!(broken(&good(), &on_all(&GOOD)), HashSet::new());
    // Of unknown outcome: in the log once, and in it not at all.
    let mut attempts = good();
    attempts.push(attempt("p2-1", None, 40, 0));
    attempts.push(attempt("p2-2", None, 41, 0));
    let mut records = GOOD.to_vec();
    records.push((3, "p2-1"));
    assert_eq!(broken(&attempts, &on_all(&records)), HashSet::new());
}

#[test]
fn durability_is_judged_on_every_node() {
    let lost_everywhere = on_all(&GOOD[..2]);
    assert_eq!(
        broken(&good(), &lost_everywhere),
        HashSet::from([Rule::Durability])
    );
    // The last node alone lost the end.
    let mut logs = on_all(&GOOD);
    logs[2] = log("n3", &GOOD[..2]);
    assert_eq!(
        broken(&good(), &logs),
        HashSet::from([Rule::Durability, Rule::Agreement])
    );
    // There, but at another offset than was acknowledged: the two ran side by side, so no order is broken.
    let attempts = [
        attempt("p1-0", Some(1), 0, 10),
        attempt("p2-0", Some(0), 0, 10),
    ];
    let swapped = on_all(&[(0, "p1-0"), (1, "p2-0")]);
    assert_eq!(
        broken(&attempts, &swapped),
        HashSet::from([Rule::Durability])
    );
}

#[test]
fn nodes_that_differ_are_flagged() {
    // None of the two was acknowledged, so only the nodes' difference is wrong.
    let attempts = [
        attempt("p1-0", None, 0, 0),
        attempt("p2-0", None, 0, 0),
        attempt("p3-0", None, 0, 0),
    ];
    let mut logs = on_all(&[(0, "p1-0")]);
    logs[1] = log("n2", &[(0, "p2-0")]);
    assert_eq!(broken(&attempts, &logs), HashSet::from([Rule::Agreement]));
    logs[1] = log("n2", &[(0, "p1-0"), (1, "p2-0")]);
    assert_eq!(broken(&attempts, &logs), HashSet::from([Rule::Agreement]));
}

#[test]
fn a_gap_is_flagged() {
    let attempts = [
        attempt("p1-0", Some(0), 0, 10),
        attempt("p1-1", Some(2), 11, 20),
    ];
    let gap = on_all(&[(0, "p1-0"), (2, "p1-1")]);
    assert_eq!(broken(&attempts, &gap), HashSet::from([Rule::Density]));
    let late = on_all(&[(1, "p1-0")]);
    let attempts = [attempt("p1-0", Some(1), 0, 10)];
    assert_eq!(broken(&attempts, &late), HashSet::from([Rule::Density]));
}

#[test]
fn a_value_twice_is_flagged() {
    let attempts = [attempt("p1-0", Some(0), 0, 10)];
    let twice = on_all(&[(0, "p1-0"), (1, "p1-0")]);
    assert_eq!(broken(&attempts, &twice), HashSet::from([Rule::Uniqueness]));
}

#[test]
fn what_nobody_sent_is_flagged() {
    let attempts = [attempt("p1-0", Some(0), 0, 10)];
    let phantom = on_all(&[(0, "p1-0"), (1, "p1-00")]);
    assert_eq!(
        broken(&attempts, &phantom),
        HashSet::from([Rule::NoPhantom])
    );
}

#[test]
fn a_producers_records_out_of_order_are_flagged() {
    // Pipelined, so that real time allows either order.
    let attempts = [
        attempt("p1-0", Some(1), 0, 10),
        attempt("p1-1", Some(0), 1, 10),
    ];
    let crossed = on_all(&[(0, "p1-1"), (1, "p1-0")]);
    assert_eq!(
        broken(&attempts, &crossed),
        HashSet::from([Rule::ProducerOrder])
    );
}

#[test]
fn an_order_against_real_time_is_flagged() {
    // p2-0 began after p1-0 was acknowledged, and yet stands before it: not next to it, either.
    let attempts = [
        attempt("p1-0", Some(2), 0, 10),
        attempt("p2-0", Some(0), 11, 20),
        attempt("p3-0", Some(1), 5, 25),
    ];
    let crossed = on_all(&[(0, "p2-0"), (1, "p3-0"), (2, "p1-0")]);
    assert_eq!(
        broken(&attempts, &crossed),
        HashSet::from([Rule::RealTimeOrder])
    );
    // The earlier one began later, but its outcome is unknown only to the client: still an order.
    let attempts = [
        attempt("p1-0", Some(1), 0, 10),
        attempt("p2-0", None, 11, 0),
    ];
    let crossed = on_all(&[(0, "p2-0"), (1, "p1-0")]);
    assert_eq!(
        broken(&attempts, &crossed),
        HashSet::from([Rule::RealTimeOrder])
    );
}

#[test]
fn a_gap_belongs_to_the_fault_that_made_it() {
    let at = Duration::from_millis;
    let acks = || [0, 10, 500, 510, 2_000, 2_010].map(at).to_vec();
    // Faults at 12 and at 520: the first cost 490 ms, the second 1,490.
    assert_eq!(longest_gap(acks(), at(12), at(520)), at(490));
    assert_eq!(longest_gap(acks(), at(520), at(2_020)), at(1_490));
    // An outage that lasts to the end counts, and so does one without any answer at all.
    assert_eq!(longest_gap(acks(), at(2_015), at(9_010)), at(7_000));
    assert_eq!(longest_gap(Vec::new(), at(5), at(105)), at(100));
}
