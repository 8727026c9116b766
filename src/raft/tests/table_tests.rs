//! The state with every table full: how large its checkpoint is, how long it takes, and that it travels.

use futures::stream;
use prost::Message;
use tokio::time::Instant;

use crate::log::record::{Batch, BatchBuilder, Conditions, Producer, check_batch, packed};
use crate::log::{Index, NUMBER_MAX, Offset};
use crate::name::NAME_BYTES_MAX;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::command::{ClaimEpoch, CommitCursor, OpenSession};
use crate::raft::entry::types;
use crate::raft::peer::transport::MESSAGE_BYTES_MAX;
use crate::raft::snapshot::{self, gather};
use crate::raft::state::cursors::CURSORS_MAX;
use crate::raft::state::digests::Digests;
use crate::raft::state::fences::FENCES_MAX;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::sessions::{OF_SUBJECT_MAX, SESSIONS_MAX};

/// What a session remembers, and more: batches side by side would be the same.
const BATCHES: u64 = 100;
/// What the largest checkpoint may take: far from what one message holds.
const CHECKPOINT_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
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
            producer,
            &conditions,
            crate::batch::Compression::None,
            65_536,
            &records,
        )
    };
    let found: Batch<'_> = check_batch(&batch).unwrap();
    (Digests::of(&batch, &found).unwrap(), found.count)
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
            let offset = Offset(high + place as u64 * 100_000);
            let (session, digests) = (session.into(), digests.clone());
            fsm.sessions
                .appended(high, session, offset, *count, digests);
        }
    }
    for number in 0..CURSORS_MAX {
        let commit = CommitCursor {
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
                name: name(number),
                holder: name(number),
                subject: Some(subject(number)),
                token,
                expected: None,
            };
            fsm.fences.claim(&claim, Offset(high)).unwrap();
        }
    }
    fsm
}

#[tokio::test]
async fn the_checkpoint_of_full_tables_is_small_and_travels_in_parts() {
    for plain in [false, true] {
        let fsm = full(plain);
        let begun = Instant::now();
        let checkpoint = fsm.to_checkpoint((Offset(0), Offset(NUMBER_MAX / 2)));
        let taken = begun.elapsed();
        let bytes = checkpoint.encode_to_vec();
        let encoded = begun.elapsed();
        let restored = Fsm::from_checkpoint(checkpoint.clone()).unwrap();
        let all = begun.elapsed();
        println!(
            "plain {plain}: {} bytes, taken in {taken:?}, encoded by {encoded:?}, restored by {all:?}",
            bytes.len()
        );
        let again = restored.to_checkpoint((Offset(0), Offset(NUMBER_MAX / 2)));
        assert!(again == checkpoint, "it comes back as it was");
        assert!(bytes.len() < CHECKPOINT_BYTES_MAX, "{} bytes", bytes.len());
        assert!(all.as_secs() < SECONDS_MAX, "{all:?}");

        let request = pb::InstallSnapshotRequest {
            checkpoint: Some(checkpoint),
            ..pb::InstallSnapshotRequest::default()
        };
        let parts: Vec<_> = snapshot::to_parts(&request).collect();
        assert!(parts.len() > 5 && parts.iter().all(|part| part.bytes.len() <= 1 << 20));
        let gathered = gather::gather(stream::iter(parts.into_iter().map(Ok))).await;
        assert!(gathered.unwrap() == request);
    }
}

#[tokio::test]
async fn a_state_that_is_too_large_is_refused_before_it_is_held() {
    let part = pb::SnapshotPart {
        bytes: vec![0; 1 << 20].into(),
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
