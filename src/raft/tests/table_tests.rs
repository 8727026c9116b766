//! The state with every table full: how large its checkpoint is, how long it takes, and that it travels.

use std::num::NonZeroU32;

use bytes::Bytes;
use futures::stream;
use prost::Message;
use tokio::time::Instant;

use crate::log::record::{BatchBuilder, Conditions, Producer, check_bundle, packed};
use crate::log::{Ends, Index, LogId, NUMBER_MAX, Offset, Position, Run};
use crate::name::NAME_BYTES_MAX;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::catalog::{CreateLog, Demands, LogConfig, Trim};
use crate::raft::entry::command::{ClaimEpoch, CommitCursor, OpenSession, Retention};
use crate::raft::entry::types;
use crate::raft::snapshot::rows::Rows;
use crate::raft::snapshot::{self, gather};
use crate::raft::state::cursors::CURSORS_MAX;
use crate::raft::state::fences::FENCES_MAX;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::history::{GONE_MAX, GoneLog};
use crate::raft::state::marks::{MARKS_MAX, Mark};
use crate::raft::state::sessions::digests::Digests;
use crate::raft::state::sessions::{OF_SUBJECT_MAX, SESSIONS_MAX};

/// What a session remembers, and more: batches side by side would be the same.
const BATCHES: u64 = 100;
/// As many logs as are meant to be in a cluster.
const LOGS: usize = 100_000;
/// What the largest state takes: most of it is the logs' names, whose they are, and where they stood.
const STATE_BYTES: usize = 96 << 20;
/// Far above what it takes, also without optimization and beside other tests.
const SECONDS_MAX: u64 = 30;

/// As long as a name may be.
fn name(number: usize) -> String {
    format!("{number:0>NAME_BYTES_MAX$}")
}

/// Whose something is: as many as it takes.
fn subject(number: usize) -> String {
    name(number / OF_SUBJECT_MAX)
}

fn digests(number: u64, plain: bool) -> (Digests, u32) {
    let batch = if plain {
        let mut batch = BatchBuilder::new(None);
        (0..32).for_each(|record| batch.push(&(number + record).to_le_bytes(), 0, 0));
        batch.finish()
    } else {
        let conditions = Conditions::default();
        let producer: Option<Producer> = None;
        let records = number.to_le_bytes();
        packed(
            LogId::DEFAULT,
            producer,
            &conditions,
            crate::batch::Compression::None,
            65_536,
            &records,
        )
    };
    let found = check_bundle(&batch).unwrap();
    (Digests::of(&batch, &found).unwrap(), found[0].count)
}

/// Everything at its limit, with numbers that take the most bytes.
fn full(plain: bool) -> Fsm {
    let mut fsm = Fsm::default();
    let high = NUMBER_MAX / 2;
    fsm.applied = Some(types::log_id(crate::log::Term(high), Index(high)));
    let batches: Vec<_> = (0..BATCHES).map(|number| digests(number, plain)).collect();
    for number in 0..SESSIONS_MAX {
        let index = Index(high + number as u64);
        let open = OpenSession {
            subject: subject(number),
            owner: u128::MAX - number as u128,
            now_ms: high,
            idle_before_ms: 0,
        };
        let session = fsm.sessions.open(index, &open).unwrap();
        for (place, (digests, count)) in batches.iter().enumerate() {
            // No two side by side.
            let run = Run {
                log: LogId(LOGS as u32),
                first: Offset(high + place as u64 * 100_000),
                at: 0,
                check: 0,
                count: *count,
            };
            let (session, digests) = (session.into(), digests.clone());
            fsm.sessions.appended(high, session, &[run], digests);
        }
    }
    for number in 0..CURSORS_MAX {
        let commit = CommitCursor {
            log: LogId((LOGS - number) as u32),
            name: name(number),
            subject: subject(number),
            offset: Offset(high),
            expected: None,
            create_only: true,
            now_ms: high,
        };
        fsm.cursors.commit(&commit, Offset(high)).unwrap();
    }
    for number in 0..FENCES_MAX {
        for token in 0..20 {
            let claim = ClaimEpoch {
                log: LogId::DEFAULT,
                name: name(number),
                holder: name(number),
                subject: Some(subject(number)),
                token,
                expected: None,
            };
            fsm.fences.claim(&claim, Offset(high)).unwrap();
        }
    }
    for number in 1..LOGS {
        make_log(&mut fsm, number);
    }
    for number in 0..GONE_MAX {
        let (id, name) = (LogId(u32::MAX), name(number));
        let index = Index(NUMBER_MAX - GONE_MAX as u64 + number as u64);
        let history = &mut fsm.logs.history;
        history.deleted(GoneLog { id, name }, Index(0), index);
    }
    fsm
}

/// Makes a log, which gets this number.
fn make_log(fsm: &mut Fsm, number: usize) {
    let high = NUMBER_MAX / 2;
    let create = CreateLog {
        name: name(number),
        config: LogConfig {
            retention: Retention {
                max_bytes: Some(high),
                max_age_ms: Some(high),
                wait_for_cursors: Vec::new(),
                wait_bytes_max: high,
            },
            labels: [("purpose".to_owned(), "orders".to_owned())].into(),
            demands: Demands {
                record_bytes_max: NonZeroU32::new(u32::MAX),
                timestamps_required: true,
                keys_required: true,
            },
            compaction: Some(crate::raft::Compaction {
                min_age_ms: 7,
                tombstone_ms: u64::MAX,
            }),
        },
        token: Bytes::copy_from_slice(&[7; 16]),
        subject: subject(number),
        now_ms: high,
        logs_max: LOGS as u32,
    };
    let made = fsm
        .logs
        .create(Index(high + number as u64), &create)
        .unwrap();
    assert_eq!(made.log, LogId(number as u32));
    let log = fsm.logs.by_id.get_mut(&made.log).unwrap();
    let (first, next) = (Offset(high - 1), Offset(high));
    log.ends = Ends { first, next };
    (log.epoch, log.bytes, log.last_append_ms) = (high, high, high);
    // As of a log with terabytes, in batches of 100, over years.
    let close = Retention {
        max_bytes: Some(1),
        ..Retention::default()
    };
    for number in 0..MARKS_MAX as u64 {
        let at = Mark {
            offset: Offset((number + 1) << 34),
            bytes: (number + 1) << 40,
            time_ms: (number + 1) << 36,
        };
        log.marks.note(at, &close);
    }
}

const END: Position = Position(NUMBER_MAX / 2);

/// All of it, as a snapshot sends it.
fn state(fsm: &Fsm) -> pb::InstallSnapshotRequest {
    pb::InstallSnapshotRequest {
        checkpoint: Some(fsm.to_checkpoint(END)),
        rows: fsm.to_rows().collect(),
        ..pb::InstallSnapshotRequest::default()
    }
}

#[tokio::test]
async fn the_state_with_full_tables_is_small_and_travels_in_parts() {
    for plain in [false, true] {
        let fsm = full(plain);
        let begun = Instant::now();
        let whole = state(&fsm);
        let taken = begun.elapsed();
        let bytes = whole.encoded_len();
        let restored = Fsm::restore(fsm.to_checkpoint(END), fsm.to_rows()).unwrap();
        let all = begun.elapsed();
        println!("plain {plain}: {bytes} bytes, taken in {taken:?}, restored by {all:?}");
        assert!(state(&restored) == whole, "it comes back as it was");
        assert!(bytes < STATE_BYTES, "{bytes} bytes");
        assert!(all.as_secs() < SECONDS_MAX, "{all:?}");

        let rows: Rows = fsm.to_rows().collect();
        let request = pb::InstallSnapshotRequest {
            segments: vec![pb::SegmentSeal::default(); 300_000],
            rows: Vec::new(),
            ..whole
        };
        let parts: Vec<_> = snapshot::to_parts(request.clone(), &rows).collect();
        let longest = parts.iter().map(Message::encoded_len).max().unwrap();
        assert!(parts.len() > 5 && longest <= 1 << 20, "{longest} bytes");
        let gathered = gather::gather(stream::iter(parts.into_iter().map(Ok))).await;
        let (gathered, again) = gathered.unwrap();
        assert!(gathered == request && again.iter().eq(rows.iter()));
    }
}

#[test]
fn a_checkpoint_writes_what_changed_and_not_what_is_there() {
    let mut fsm = full(false);
    assert!(
        fsm.take_changes(END).bytes() > 1 << 20,
        "nothing is stored yet"
    );
    fsm.saved(true);
    assert!(fsm.take_changes(END).rows.is_empty());
    fsm.saved(true);
    let commit = CommitCursor {
        log: LogId((LOGS - 7) as u32),
        name: name(7),
        subject: subject(7),
        offset: Offset(5),
        expected: None,
        create_only: false,
        now_ms: 9,
    };
    fsm.cursors.commit(&commit, Offset(9)).unwrap();
    fsm.fences.delete(&name(9));
    let (log, first) = (LogId(9), Offset(NUMBER_MAX));
    fsm.logs.trim(&Trim { log, first }).unwrap();
    let changes = fsm.take_changes(END);
    assert_eq!((changes.rows.len(), changes.is_all), (3, false));
    assert!(changes.bytes() < 2048, "{} bytes", changes.bytes());
}

#[tokio::test]
async fn a_state_that_is_too_large_is_refused_before_it_is_held() {
    let cursor = pb::Cursor {
        name: "9".repeat(1 << 20),
        ..pb::Cursor::default()
    };
    let row = pb::StateRow {
        row: Some(pb::state_row::Row::Cursor(cursor)),
    };
    let part = pb::InstallSnapshotRequest {
        rows: vec![row],
        ..pb::InstallSnapshotRequest::default()
    };
    let endless = stream::repeat_with(|| Ok(part.clone()));
    let refused = gather::gather(Box::pin(endless)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_falls_silent_is_not_waited_for() {
    let refused = gather::gather(stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::DeadlineExceeded);
}
