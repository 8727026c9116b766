//! What records take on the disk, counted over the files of sealed segments.

use bytes::Bytes;

use super::{DIR, append, publish};
use crate::batch::{self, Compression};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::log::format::files::Paths;
use crate::log::format::record::{BatchBuilder, Conditions, join, packed};
use crate::log::*;

const RECORD_BYTES: usize = 100;

/// How records come, and how many times their bytes they may take.
struct Case {
    /// Whether they come by the native API.
    native: bool,
    of_batch: usize,
    batches_of_entry: usize,
    logs: u32,
    times_max: f64,
}

fn batch_of(case: &Case, log: LogId) -> Bytes {
    if !case.native {
        let mut builder = BatchBuilder::of(log, None);
        (0..case.of_batch).for_each(|_| builder.push(&[7; RECORD_BYTES], 0, 0));
        return builder.finish();
    }
    let mut builder = batch::Builder::default();
    for _ in 0..case.of_batch {
        builder.push(&batch::Record {
            value: Bytes::from_static(&[7; RECORD_BYTES]),
            ..batch::Record::default()
        });
    }
    let (records, count) = builder.take();
    let (none, conditions) = (Compression::None, Conditions::default());
    packed(log, None, &conditions, none, count, &records)
}

/// The bytes of the files of sealed segments, and of the records in them.
fn taken(case: &Case) -> (u64, u64) {
    let disk = MemoryDisk::default();
    let config = Config {
        segment_bytes_max: 2 << 20,
        index_bytes_max: 1 << 20,
        inline_io: true,
        ..Config::default()
    };
    let shared = Arc::new(disk.clone());
    let opened = Log::open(shared, Path::new(DIR), config, Floor::default(), None);
    let (log, _) = opened.unwrap();
    let mut index = 0;
    while log.segments().len() < 4 {
        let first = index as usize * case.batches_of_entry;
        let log_of = |number: usize| LogId((first + number) as u32 * 7919 % case.logs);
        let batches: Vec<_> = (0..case.batches_of_entry)
            .map(|number| batch_of(case, log_of(number)))
            .collect();
        let payload = join(batches.iter(), Some(1_700_000_000_000));
        let entry = super::entry(1, index, Kind::Records, payload);
        append(&log, vec![entry.clone()]);
        publish(&log, &entry);
        index += 1;
    }
    log.sync_index().unwrap();
    assert_eq!(log.seal_covered(Index(index - 1)).unwrap(), 3);
    let (mut bytes, mut records) = (0, 0);
    for segment in log.manifest(Index(index)).unwrap().iter().take(3) {
        for path in Paths::new(Path::new(DIR), segment.base).all() {
            bytes += disk.len_of(path).unwrap();
        }
        let positions = segment.next_position.0 - segment.first_position.0;
        records += positions * RECORD_BYTES as u64;
    }
    (bytes, records)
}

#[test]
fn records_take_little_more_than_their_bytes() {
    let single = |native, logs, times_max| Case {
        native,
        of_batch: 1,
        batches_of_entry: 64,
        logs,
        times_max,
    };
    let hundred = |native, logs| Case {
        native,
        of_batch: 100,
        batches_of_entry: 1,
        logs,
        times_max: 1.06,
    };
    let cases = [
        single(false, 1, 1.6),
        single(true, 1, 1.6),
        hundred(false, 1),
        hundred(true, 1),
        // A row's number in the directory, and the log's id in the batch.
        single(true, 1000, 1.7),
        hundred(true, 1000),
    ];
    for case in cases {
        let (bytes, records) = taken(&case);
        let times = bytes as f64 / records as f64;
        let Case {
            native,
            of_batch,
            logs,
            times_max,
            ..
        } = case;
        println!(
            "batches of {of_batch}, native {native}, logs {logs}: {times:.3} times the records"
        );
        assert!(
            times <= times_max,
            "{times} of {of_batch}, {native}, {logs}"
        );
        assert!(times > 1.0);
    }
}
