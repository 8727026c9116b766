//! The fuzzers' seeds: small inputs that pass the first checks, made here and kept in the tree.
//!
//! Every test run plays them, and what fuzzing once found beside them, so that what was mended stays
//! so. `FERROLOG_WRITE_SEEDS=1` writes them anew after a format changed.
#![allow(clippy::disallowed_methods, reason = "it reads the tree itself")]

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;
use prost::Message;

use crate::disk::Disk;
use crate::env::Random;
use crate::log::fuzzing::{DIR, Input, batch_of, recovery, write_log};
use crate::log::{Index, LogId, Offset, Term, record};
use crate::proto::raft_v1 as pb;
use crate::raft::Member;
use crate::raft::entry::admission::Entrance;
use crate::raft::entry::catalog::{
    CreateLog, DeleteLog, Demands, LogConfig, SetRetention, Trim, UpdateLog,
};
use crate::raft::entry::codec;
use crate::raft::entry::command::{Command, Retention};
use crate::raft::entry::types::{self, Entry, EntryPayload, Membership, Vote};
use crate::raft::fuzzing::{entries_of, manifest_of, manifests, part_of, raft_frames};
use crate::raft::peer::wire;

/// A seed's name and its bytes.
type Seed = (&'static str, Vec<u8>);

/// How often each seed is played with a few bytes changed.
const VARIANTS: usize = 60;

/// Scripts for a log by the book: how many steps, then each with what it takes.
const SCRIPTS: [(&str, &[u8]); 4] = [
    ("open", &OPEN),
    ("sealed", &SEALED),
    ("trimmed", &TRIMMED),
    ("terms", &TERMS),
];
const CHECKPOINT: u8 = 5;
const SEAL: u8 = 6;
const TRIM_AND_DROP: u8 = 0xff;
/// Two batches, a blank, three batches, a checkpoint, and a batch behind it.
#[rustfmt::skip]
const OPEN: [u8; 16] = [
    5,
    1, 0x41, 0x60, 0xf8,
    1, 0x00,
    1, 0x81, 0x20, 0x22, 0x44,
    CHECKPOINT,
    1, 0x01, 0x38,
];
/// Three terms, one of them over two segments.
#[rustfmt::skip]
const TERMS: [u8; 21] = [
    9,
    1, 0x01, 0xf8,
    0,
    1, 0x01, 0xf8,
    0,
    1, 0x00,
    1, 0x41, 0xe0, 0xe0,
    1, 0x01, 0x39, 0,
    CHECKPOINT,
    SEAL,
];
const SEALED: [u8; 64] = appends([CHECKPOINT, SEAL, CHECKPOINT]);
const TRIMMED: [u8; 64] = appends([CHECKPOINT, SEAL, TRIM_AND_DROP]);

/// A script of twenty appends of large batches, then three more steps.
const fn appends(last: [u8; 3]) -> [u8; 64] {
    let mut script = [0; 64];
    script[0] = 23;
    let mut number = 0;
    while number < 20 {
        script[1 + number * 3] = 1;
        script[2 + number * 3] = 0x01;
        script[3 + number * 3] = 0xf8 - (number as u8 % 4) * 0x20;
        number += 1;
    }
    [script[61], script[62], script[63]] = last;
    script
}

fn recovery_seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, script) in SCRIPTS {
        seeds.push((name, [&[1, 0][..], script].concat()));
    }
    let spoiled = [
        ("spoiled-byte", &[7, 0, 0, 40, 0, 1][..]),
        ("spoiled-mended", &[0x84, 2, 0, 32, 0, 8, 0, 0, 0]),
        ("spoiled-cut", &[0, 1, 0, 60, 0]),
        ("spoiled-removed", &[9, 1, 0]),
    ];
    for (name, changes) in spoiled {
        seeds.push((name, [&[1, 0][..], &SEALED, changes].concat()));
    }
    for (name, script) in [("raw-open", SCRIPTS[0].1), ("raw-sealed", &TERMS)] {
        seeds.push((name, raw(script)));
    }
    let numbers = [8_u64, 0, 4, 0, 9].map(u64::to_le_bytes).concat();
    seeds.push(("numbers", [&[5, 2][..], &numbers, SCRIPTS[0].1].concat()));
    seeds
}

/// The files of a log, without the zeros at their ends, as the raw form of the input has them.
fn raw(script: &[u8]) -> Vec<u8> {
    let (kept, _log) = write_log(&mut Input(script));
    let covered = kept.checkpoint.as_ref().expect("the script has one");
    let ends = covered.logs[&LogId::DEFAULT];
    let numbers = [0, 0, covered.applied.0, ends.first.0, ends.next.0];
    let mut out = vec![4, 2];
    out.extend(numbers.map(u64::to_le_bytes).concat());
    for name in kept.disk.list(Path::new(DIR)).unwrap() {
        // The spare has no number, and is no part of the log.
        let Some((base, suffix)) = name.split_once('.') else {
            continue;
        };
        let what = ["store", "index", "seal"]
            .iter()
            .position(|known| *known == suffix);
        let base: u8 = base.parse().unwrap();
        assert!(base < 16, "the script makes small segments");
        let file = kept.disk.open(&Path::new(DIR).join(&name)).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        bytes.truncate(used.next_multiple_of(8));
        out.push(what.unwrap() as u8 | base << 2);
        out.extend((bytes.len() as u16).to_le_bytes());
        out.extend(bytes);
    }
    out
}

fn member(id: u64) -> Member {
    Member {
        name: format!("n{id}"),
        addr: format!("h{id}:1"),
        directory_id: format!("d{id}"),
    }
}

fn request(payloads: Vec<EntryPayload>) -> pb::AppendEntriesRequest {
    let numbered = payloads.into_iter().zip(5..);
    let entries = numbered.map(|(payload, index)| {
        let id = types::log_id(Term(2), Index(index));
        Entry::new(id, payload)
    });
    wire::append_to_pb(&AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: Some(types::log_id(Term(1), Index(4))),
        entries: entries.collect(),
        leader_commit: Some(types::log_id(Term(1), Index(3))),
    })
}

fn frame_seeds() -> Vec<Seed> {
    let batches = [
        batch_of(&mut Input(&[0x39, 0])),
        batch_of(&mut Input(&[0x38])),
    ];
    let append = Command::Append(record::join(batches.iter(), None));
    let register = Command::Register {
        name: "n2".to_owned(),
        directory_id: "d2".to_owned(),
        entrance: Entrance::Open,
    };
    let config = LogConfig {
        labels: [("team".to_owned(), "sales".to_owned())].into(),
        demands: Demands {
            record_bytes_max: NonZeroU32::new(1 << 20),
            timestamps_required: true,
            keys_required: true,
        },
        compaction: Some(crate::raft::Compaction {
            min_age_ms: 7,
            tombstone_ms: u64::MAX,
        }),
        ..LogConfig::default()
    };
    let commands = [
        register,
        Command::Forget {
            name: "n2".to_owned(),
        },
        append.clone(),
        Command::Trim(Trim {
            log: LogId::DEFAULT,
            first: Offset(3),
        }),
        Command::SetRetention(SetRetention {
            log: LogId(1),
            retention: Retention {
                max_bytes: Some(1 << 30),
                ..Retention::default()
            },
        }),
        Command::TrimLogs(vec![Trim {
            log: LogId(1),
            first: Offset(2),
        }]),
        Command::CreateLog(CreateLog {
            name: "orders".to_owned(),
            config: config.clone(),
            token: Bytes::from_static(b"t"),
            subject: "ann".to_owned(),
            now_ms: 5,
            logs_max: 9,
        }),
        Command::UpdateLog(UpdateLog {
            log: LogId(1),
            config,
            expected_epoch: Some(1),
        }),
        Command::CompactLog(LogId(7)),
        Command::Compacted(Index(70)),
        Command::DeleteLog(DeleteLog {
            name: "orders".to_owned(),
            log: LogId(1),
        }),
    ];
    let members = [1, 2, 3].map(|id| (id, member(id)));
    let voters = vec![[1, 2].into(), [1, 2, 3].into()];
    let membership = Membership::new(
        voters,
        members
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>(),
    );
    let one = |payload| request(vec![payload]).encode_to_vec();
    let all = commands.into_iter().map(EntryPayload::Normal).collect();
    let wire = |bytes: Vec<u8>| [vec![0], bytes].concat();
    let Command::Append(payload) = append.clone() else {
        unreachable!("it was made above");
    };
    let length = (payload.len() as u16).to_le_bytes();
    let raw = [&[1, 2][..], &length, &payload, &[1, 2, 0, 0x0a, 0]].concat();
    let scripted = [&[2][..], &SESSIONS].concat();
    let state = state().encode_to_vec();
    let length = (state.len() as u16).to_le_bytes();
    let restored = [&[3][..], &length, &state, &SESSIONS].concat();
    vec![
        ("blank", wire(one(EntryPayload::Blank))),
        (
            "membership",
            wire(one(EntryPayload::Membership(membership.unwrap()))),
        ),
        ("append", wire(one(EntryPayload::Normal(append)))),
        ("commands", wire(request(all).encode_to_vec())),
        ("raw", raw),
        ("sessions", scripted),
        ("checkpoint", restored),
    ]
}

/// Two sessions and a log of their own. Batches for it, one of them behind a gap, and for the default one. A cursor
/// and a trim in it; it is deleted and written to. Then every other command.
#[rustfmt::skip]
const SESSIONS: [u8; 43] = [
    8, 8, 0x45,
    0x44, 0x39, 0, 0x3b, 0,
    4, 0x39, 0,
    4, 0x39, 4,
    4, 0x3b, 9,
    4, 0x2b, 4,
    0x47, 2,
    0x40, 3,
    0x56,
    4, 0x39, 8,
    0, 1,
    0x11, 0x21,
    2,
    3, 1, 0, 0, 0, 0, 0, 0, 0, 5,
];

fn state() -> pb::InstallSnapshotRequest {
    let mut input = Input(&SESSIONS);
    let mut fsm = crate::raft::state::fsm::Fsm::default();
    let kept = crate::log::fuzzing::Kept::default();
    let (log, _) = kept.open().unwrap();
    for mut entry in entries_of(&mut input) {
        entry.log_id = types::log_id(Term(1), log.next_index());
        let done = Box::new(|result: Result<(), crate::log::Error>| result.unwrap());
        log.append(vec![codec::to_log(&entry)], done).unwrap();
        fsm.apply(&log, &entry).unwrap();
    }
    pb::InstallSnapshotRequest {
        checkpoint: Some(fsm.to_checkpoint(log.positions().1)),
        rows: fsm.to_rows().collect(),
        ..pb::InstallSnapshotRequest::default()
    }
}

fn manifest_seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, script) in [
        ("manifest-open", SCRIPTS[0].1),
        ("manifest-sealed", &SEALED),
    ] {
        let (kept, log) = write_log(&mut Input(script));
        let request = manifest_of(&kept, &log).expect("the script has a checkpoint");
        let bytes = request.encode_to_vec();
        let mut out = [&[0][..], &(bytes.len() as u16).to_le_bytes(), &bytes].concat();
        // A message goes to the end of the input: only the first segment comes.
        let seals = log
            .manifest(Index(kept.checkpoint.as_ref().unwrap().applied.0 + 1))
            .unwrap();
        out.extend(part_of(&log, &seals[0]).unwrap().encode_to_vec());
        seeds.push((name, out));
    }
    let (kept, _log) = write_log(&mut Input(&SEALED));
    let names = kept.disk.list(Path::new(DIR)).unwrap();
    let seal = names.iter().find(|name| name.ends_with(".seal")).unwrap();
    let file = kept.disk.open(&Path::new(DIR).join(seal)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    seeds.push(("seal", [&[1][..], &bytes].concat()));
    seeds.push(("seal-mended", [&[2][..], &bytes].concat()));
    for (name, script) in SCRIPTS {
        seeds.push((name, [&[3][..], script, &[0]].concat()));
    }
    seeds.push((
        "changed-end",
        [&[3][..], &SEALED, &[1, 0xc2, 0, 0, 0]].concat(),
    ));
    seeds.push((
        "changed-rows",
        [&[3][..], &SEALED, &[129, 0xc3, 0, 0, 0, 4, 1, 0, 2, 0]].concat(),
    ));
    seeds.push((
        "changed-row",
        [&[3][..], &SEALED, &[128, 4, 1, 0, 2, 0]].concat(),
    ));
    seeds
}

struct Target {
    name: &'static str,
    play: fn(&[u8]),
    seeds: fn() -> Vec<Seed>,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "recovery",
        play: recovery,
        seeds: recovery_seeds,
    },
    Target {
        name: "raft_frames",
        play: raft_frames,
        seeds: frame_seeds,
    },
    Target {
        name: "manifests",
        play: manifests,
        seeds: manifest_seeds,
    },
];

fn dir_of(target: &Target) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fuzz/seeds").join(target.name)
}

#[test]
fn the_seeds_in_the_tree_are_those_made_here() {
    for target in TARGETS {
        let dir = dir_of(&target);
        for (name, bytes) in (target.seeds)() {
            let path = dir.join(name);
            if std::env::var_os("FERROLOG_WRITE_SEEDS").is_some() {
                fs::create_dir_all(&dir).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let kept = fs::read(&path).unwrap_or_default();
            assert!(
                kept == bytes,
                "{}: FERROLOG_WRITE_SEEDS=1 writes it",
                path.display()
            );
            assert!(bytes.len() < 8 << 10, "{} is no small seed", path.display());
        }
    }
}

#[test]
fn no_seed_and_no_neighbour_of_one_makes_a_target_panic() {
    let random = Random::seeded(7);
    let draw = |bound: usize| (random.next_u128() as usize) % bound.max(1);
    for target in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(dir_of(&target))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty() && paths.len() < 40, "a few seeds");
        for path in paths {
            let seed = fs::read(&path).unwrap();
            println!("{}", path.display());
            (target.play)(&seed);
            for _ in 0..VARIANTS {
                let mut bytes = seed.clone();
                for _ in 0..=draw(3) {
                    let at = draw(bytes.len());
                    bytes[at] = draw(256) as u8;
                }
                (target.play)(&bytes);
            }
        }
    }
}
