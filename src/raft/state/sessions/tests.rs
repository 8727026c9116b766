//! Sessions: what a retry gets, whose they are, and how much of them is remembered.

use crate::log::Offset;
use crate::raft::entry::command::{CloseSession, OpenSession};
use crate::raft::entry::outcome::OffsetRange;

use super::*;

const ANN: u128 = 71;
const BOB: u128 = 72;
const LOG: LogId = LogId(5);

fn producer(session: u128, sequence: u64) -> Producer {
    Producer {
        session,
        sequence,
        owner: ANN,
    }
}

fn open_of(subject: &str, owner: u128, now_ms: u64) -> OpenSession {
    OpenSession {
        subject: subject.to_owned(),
        owner,
        now_ms,
        idle_before_ms: 0,
    }
}

fn open(owner: u128, now_ms: u64) -> OpenSession {
    open_of("", owner, now_ms)
}

fn range(first: u64, count: u32) -> OffsetRange {
    OffsetRange {
        first: Offset(first),
        count,
    }
}

/// Records that were appended to the log.
fn run(first: u64, count: u32) -> Run {
    Run {
        log: LOG,
        first: Offset(first),
        at: 0,
        check: 0,
        count,
    }
}

/// Of plain records with these digests.
fn each(digests: impl IntoIterator<Item = u32>) -> Digests {
    Digests::Each(digests.into_iter().collect())
}

fn one_session() -> Sessions {
    let mut all = Sessions::default();
    assert_eq!(all.open(Index(1), &open(ANN, 10)), Ok(1));
    assert_eq!(all.open(Index(2), &open(ANN, 20)), Ok(1), "a retry");
    all
}

fn full(limit: usize, of_subject: bool) -> Result<u64, StateRefusal> {
    let limit = limit as u64;
    Err(StateRefusal::TooManySessions(Full { limit, of_subject }))
}

#[test]
fn plain_records_that_come_again_get_their_first_offsets_however_they_are_cut() {
    let mut all = one_session();
    let judge = |all: &Sessions, sequence: u64, digests: std::ops::Range<u32>| {
        let count = digests.len() as u32;
        all.judge(LOG, producer(1, sequence), count.into(), &each(digests))
    };
    assert_eq!(judge(&all, 0, 0..3), Ok(Verdict::new_batch()));
    all.appended(50, 1, &[run(10, 3)], each(0..3));
    all.appended(60, 1, &[run(20, 2)], each(3..5));

    let whole = judge(&all, 0, 0..3).unwrap();
    assert_eq!((whole.known, whole.skip), (vec![range(10, 3)], 3));
    let across = judge(&all, 2, 2..4).unwrap();
    assert_eq!(across.known, [range(12, 1), range(20, 1)]);
    let partly = judge(&all, 4, 4..9).unwrap();
    assert_eq!((partly.known, partly.skip), (vec![range(21, 1)], 1));
    assert_eq!(judge(&all, 5, 5..6), Ok(Verdict::new_batch()));

    let reused = Err(Refusal::SequenceReused { expected: 5 });
    assert_eq!(judge(&all, 0, 1..4), reused, "other records");
    assert_eq!(judge(&all, 2, 12..14), reused);
    assert_eq!(judge(&all, 4, 0..5), reused, "also before new ones");
    let one_differs = all.judge(LOG, producer(1, 1), 3, &each([1, 2, 9]));
    assert_eq!(one_differs, reused);
    let packed = all.judge(LOG, producer(1, 0), 3, &Digests::Whole(0));
    assert_eq!(packed, Err(Refusal::SequenceOverlap { expected: 5 }));
}

/// A session counts its records whatever logs they are for. Under its numbers a batch is the one that came, for
/// the log that it was for.
#[test]
fn a_session_writes_to_several_logs_and_takes_none_for_another() {
    let mut all = one_session();
    let other = LogId(6);
    let to_other = Run {
        log: other,
        ..run(12, 2)
    };
    all.appended(50, 1, &[run(10, 2)], each(0..2));
    // Side by side, were it one log.
    all.appended(50, 1, &[to_other], each(2..4));
    all.appended(50, 1, &[run(12, 1)], Digests::Whole(7));
    let judge = |log, sequence, digests: &Digests, count: u32| {
        let judged = all.judge(log, producer(1, sequence), count.into(), digests);
        judged.map(|verdict| verdict.known)
    };
    let plain = |log, from: u32, to: u32| {
        let digests = each(from..to);
        judge(log, from.into(), &digests, to - from)
    };
    assert_eq!(plain(LOG, 0, 2), Ok(vec![range(10, 2)]));
    assert_eq!(plain(other, 2, 4), Ok(vec![range(12, 2)]));
    assert_eq!(judge(LOG, 4, &Digests::Whole(7), 1), Ok(vec![range(12, 1)]));

    let reused = Err(Refusal::SequenceReused { expected: 5 });
    assert_eq!(plain(other, 0, 2), reused);
    assert_eq!(plain(LOG, 2, 4), reused);
    assert_eq!(
        plain(LOG, 1, 3),
        reused,
        "its second record was for another"
    );
    assert_eq!(plain(other, 1, 3), reused);
    assert_eq!(judge(other, 4, &Digests::Whole(7), 1), reused);
    assert_eq!(
        judge(other, 5, &Digests::Whole(7), 1),
        Ok(vec![]),
        "a new one"
    );
    let copy = restored(&rows(&all)).unwrap();
    assert_eq!(copy.by_id, all.by_id);
}

#[test]
fn a_packed_batch_is_known_as_it_was_sent_alone() {
    let mut all = one_session();
    let judge = |all: &Sessions, sequence, count: u32, digest| {
        all.judge(
            LOG,
            producer(1, sequence),
            count.into(),
            &Digests::Whole(digest),
        )
    };
    all.appended(50, 1, &[run(10, 3)], Digests::Whole(7));
    all.appended(60, 1, &[run(13, 2)], Digests::Whole(8));
    let known = judge(&all, 0, 3, 7).unwrap();
    assert_eq!((known.known, known.skip), (vec![range(10, 3)], 3));
    let known = judge(&all, 3, 2, 8).unwrap();
    assert_eq!((known.known, known.skip), (vec![range(13, 2)], 2));
    assert_eq!(judge(&all, 5, 9, 9), Ok(Verdict::new_batch()));

    let reused = Err(Refusal::SequenceReused { expected: 5 });
    assert_eq!(judge(&all, 3, 2, 7), reused);
    let overlap = Err(Refusal::SequenceOverlap { expected: 5 });
    for (sequence, count) in [(0, 2), (0, 5), (1, 2), (4, 1), (3, 5)] {
        assert_eq!(judge(&all, sequence, count, 7), overlap, "{sequence}");
    }
    let plain = all.judge(LOG, producer(1, 3), 2, &each(0..2));
    assert_eq!(plain, overlap);
}

#[test]
fn a_gap_and_an_unknown_session_are_refused() {
    let mut all = one_session();
    let judge = |all: &Sessions, session, sequence| {
        all.judge(LOG, producer(session, sequence), 1, &Digests::Whole(0))
    };
    let expired = Err(Refusal::SessionExpired);
    assert_eq!(judge(&all, 9, 0), expired, "even its first");
    let gap = Refusal::SequenceGap { expected: 0 };
    assert_eq!(judge(&all, 1, 2), Err(gap));
    let close = CloseSession {
        session: 1,
        owner: None,
    };
    assert_eq!(all.close(&close), Ok(()));
    assert_eq!(all.close(&close), Ok(()), "it is gone already");
    assert_eq!(judge(&all, 1, 0), expired);
    assert_eq!(all.open(Index(3), &open(ANN, 30)), Ok(3), "a new one");
}

#[test]
fn a_session_is_its_openers() {
    let mut all = one_session();
    all.appended(50, 1, &[run(10, 3)], Digests::Whole(7));
    let not_his = Err(Refusal::NotOwner);
    for sequence in [0, 3, 99] {
        let bobs = Producer {
            owner: BOB,
            ..producer(1, sequence)
        };
        let judged = all.judge(LOG, bobs, 3, &Digests::Whole(7));
        assert_eq!(judged, not_his, "known, new or neither");
    }
    let close = |owner| CloseSession { session: 1, owner };
    assert_eq!(all.close(&close(Some(BOB))), Err(StateRefusal::NotOwner));
    assert!(all.by_id.rows().contains_key(&1));
    assert_eq!(all.close(&close(Some(ANN))), Ok(()));
    assert!(all.by_id.rows().is_empty() && all.by_owner.is_empty());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut all = one_session();
    // No two batches side by side.
    for number in 0..200_u64 {
        let digest = Digests::Whole(number.into());
        all.appended(number, 1, &[run(number * 2, 1)], digest);
    }
    let judge = |number: u64, digest: u64| {
        let digest = Digests::Whole(digest.into());
        all.judge(LOG, producer(1, number), 1, &digest)
    };
    assert_eq!(judge(119, 119), Err(Refusal::SessionExpired));
    assert_eq!(judge(120, 120).unwrap().known, [range(240, 1)]);
    let reused = Refusal::SequenceReused { expected: 200 };
    assert_eq!(judge(120, 121), Err(reused));

    // Single records in a row, in batches of any size.
    let mut remembered = Remembered::default();
    for number in 0..500_u32 {
        let first = u64::from(number) * 3;
        remembered.push(&[run(first, 3)], each(number * 3..number * 3 + 3));
    }
    let look = |behind: u32| {
        let first = 1500 - behind;
        remembered.look(LOG, behind.into(), 2, &each(first..first + 2))
    };
    assert_eq!(look(632), Retold::Known(vec![range(868, 2)]));
    assert_eq!(look(633), Retold::Forgotten);
    assert_eq!(remembered.to_pb().len(), 1, "they share a stretch");
}

#[test]
fn sessions_are_bounded_in_all_and_for_each_subject() {
    let mut all = one_session();
    for number in 2..=OF_SUBJECT_MAX as u64 + 1 {
        let opened = all.open(Index(number), &open_of("bob", u128::from(number) << 32, 50));
        assert_eq!(opened, Ok(number));
    }
    let more = open_of("bob", BOB << 96, 60);
    let index = Index(5000);
    assert_eq!(all.open(index, &more), full(OF_SUBJECT_MAX, true));
    let mut idle = more.clone();
    idle.idle_before_ms = 51;
    assert_eq!(
        all.open(index, &idle),
        Ok(5000),
        "his own idle ones give way"
    );
    assert!(all.by_id.rows().contains_key(&1), "and nobody else's");
    assert_eq!(all.by_id.rows().len(), 2);

    for number in 3..=SESSIONS_MAX as u64 {
        let opened = all.open(
            Index(9999 + number),
            &open(u128::from(number) << 64, 99_999),
        );
        assert_eq!(opened, Ok(9999 + number), "without TLS there is one limit");
    }
    let one_more = open(1 << 100, 99_999);
    assert_eq!(
        all.open(Index(20_000), &one_more),
        full(SESSIONS_MAX, false)
    );
    assert!(all.any_idle(99_999) && !all.any_idle(10));
    let one_more = OpenSession {
        idle_before_ms: 99_999,
        ..one_more
    };
    assert_eq!(all.open(Index(20_000), &one_more), Ok(20_000));
    assert!(!all.by_id.rows().contains_key(&1), "it was idle");
    assert_eq!(all.list(0, 2).len(), 2);
    assert_eq!(all.list(20_000, 2), []);
    assert_eq!(all.expire(u64::MAX), SESSIONS_MAX - 1);
    assert!(all.by_id.rows().is_empty() && all.by_owner.is_empty());
}

/// What a checkpoint holds of them.
fn rows(all: &Sessions) -> Vec<pb::Session> {
    let row = |row: pb::StateRow| match row.row {
        Some(pb::state_row::Row::Session(session)) => session,
        other => panic!("{other:?} is no session"),
    };
    all.by_id.to_pb().map(row).collect()
}

fn restored(rows: &[pb::Session]) -> Result<Sessions, WireError> {
    let mut all = Sessions::default();
    let mut rows = rows.iter();
    rows.try_for_each(|row| all.restore(row)).map(|()| all)
}

#[test]
fn a_checkpoint_brings_them_back() {
    let mut all = one_session();
    all.open(Index(2), &open_of("bob", BOB, 20)).unwrap();
    all.appended(30, 1, &[run(0, 2)], each([4, 5]));
    all.appended(50, 1, &[run(3, 1)], Digests::Whole(u128::MAX - 9));
    for number in 0..100 {
        all.appended(50, 2, &[run(9 + number * 9, 1)], each([7]));
    }
    let copy = restored(&rows(&all)).unwrap();
    assert_eq!((&copy.by_id, &copy.by_owner), (&all.by_id, &all.by_owner));

    let mut broken = rows(&all);
    broken[0].next_sequence = 2;
    assert!(restored(&broken).is_err(), "more than came");
    let mut broken = rows(&all);
    broken[0].stretches[0].records.push(1);
    assert!(restored(&broken).is_err(), "more than they are");
}

#[test]
fn a_bundle_is_known_as_a_whole_and_by_its_logs() {
    let mut all = one_session();
    let at = |log, first, count| Run {
        log: LogId(log),
        ..run(first, count)
    };
    let runs = [at(3, 10, 2), at(4, 70, 1), at(5, 0, 4)];
    all.appended(50, 1, &runs, Digests::Whole(9));
    all.appended(50, 1, &[at(4, 71, 1)], Digests::Whole(8));
    let all = restored(&rows(&all)).unwrap();
    let judge = |log, sequence, count, digest| {
        let producer = producer(1, sequence);
        let digests = Digests::Whole(digest);
        all.judge(LogId(log), producer, count, &digests)
    };
    let known = Verdict {
        known: vec![range(10, 2), range(70, 1), range(0, 4)],
        skip: 7,
    };
    assert_eq!(judge(3, 0, 7, 9), Ok(known));
    assert_eq!(judge(4, 7, 1, 8).unwrap().known, [range(71, 1)]);
    assert_eq!(judge(4, 8, 1, 7), Ok(Verdict::new_batch()), "it is new");
    let expected = 8;
    let reused = Err(Refusal::SequenceReused { expected });
    assert_eq!(judge(3, 0, 7, 1), reused, "other records");
    assert_eq!(judge(4, 0, 7, 9), reused, "another log first");
    let overlap = Err(Refusal::SequenceOverlap { expected });
    assert_eq!(judge(3, 0, 2, 9), overlap, "a part of it");
    assert_eq!(judge(3, 2, 5, 9), overlap, "the rest of it");
}

#[test]
fn bundles_weigh_what_their_batches_do() {
    let mut all = one_session();
    let bundle = |number: u64| -> Vec<Run> {
        let at = |log| Run {
            log: LogId(log),
            ..run(number, 1)
        };
        (0..10).map(at).collect()
    };
    for number in 0..100 {
        all.appended(50, 1, &bundle(number), Digests::Whole(number.into()));
    }
    let judge = |number: u64| {
        let digests = Digests::Whole(number.into());
        all.judge(LogId(0), producer(1, number * 10), 10, &digests)
    };
    // The 16 that can be under way, and some more.
    assert!((76..100).all(|number| judge(number).unwrap().skip == 10));
    assert_eq!(judge(75), Err(Refusal::SessionExpired));
}
