//! What a node takes from clients at most: records, batches, messages, windows.

use crate::live::Live;
use crate::log;
use crate::net::budget;
use crate::raft::Demands;

/// How many bytes a client may send on a stream before they are read.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// What a node takes from clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest record, in bytes.
    pub record_bytes_max: usize,
    /// Bytes of a stream's records that become one batch; a larger record is a batch of its own.
    pub batch_bytes_max: usize,
    /// The logs that there may be, the default one among them.
    pub logs_max: Live<u32>,
    /// Whether a log is made when somebody first appends to its name.
    pub create_logs_on_produce: Live<bool>,
    /// Calls under way on one connection.
    pub streams_per_connection_max: u32,
    /// Bytes that clients may have under way.
    pub bytes: budget::AccountLimits,
}

/// gRPC's libraries take a message of so many bytes, unless they are told otherwise.
const USUAL_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A record may be so large, unless the settings say otherwise: one that was taken can be read by a
/// client that is not told otherwise, with what stands around it in the answer.
const RECORD_BYTES_MAX: usize = USUAL_MESSAGE_BYTES_MAX - 2 * RECORD_OVERHEAD;
/// Bytes of records in an answer that has more than one record, whatever they are compressed with.
pub const ANSWER_BYTES_MAX: usize = USUAL_MESSAGE_BYTES_MAX - RECORD_OVERHEAD;
/// Bytes of a message beside the records in it.
const MESSAGE_OVERHEAD: usize = 64 << 10;
/// Records of a native batch.
pub const BATCH_RECORDS_MAX: u32 = 65_536;
/// Batches of one call. A session remembers 80 batches, and each call's further ones take a quarter of one.
pub const MANY_BATCHES_MAX: usize = 100;
/// A native batch may be so large, whatever the largest record is: what clients gather by themselves.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Records of a `log.v1` stream that wait together become one batch of at most so many bytes.
const STREAM_BATCH_BYTES_MAX: usize = 256 << 10;
/// Calls under way on one connection.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;
/// The logs that there may be, unless the settings say otherwise.
const LOGS_MAX: u32 = 100_000;
/// Lengths and tags in a record, beside its value, key and headers.
const RECORD_OVERHEAD: usize = 4 << 10;
/// A compressed batch may grow to so many times the largest one.
const DECOMPRESSED_FACTOR: usize = 4;
pub const KEY_BYTES_MAX: usize = 64 << 10;
pub const HEADERS_MAX: usize = 128;
pub const HEADER_BYTES_MAX: usize = 64 << 10;

impl Limits {
    /// The largest native batch as it is sent, in bytes.
    pub fn native_bytes_max(&self) -> usize {
        (self.record_bytes_max + RECORD_OVERHEAD).max(BATCH_BYTES_MAX)
    }

    /// The largest native batch once it is decompressed, in bytes.
    pub fn decompressed_bytes_max(&self) -> usize {
        let most = self.native_bytes_max() * DECOMPRESSED_FACTOR;
        most.min(log::record::DECOMPRESSED_BYTES_MAX)
    }

    /// The largest message that a client may send, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.native_bytes_max() + MESSAGE_OVERHEAD
    }

    /// The largest record that a log takes here.
    pub fn record_bytes_of(&self, demands: Demands) -> usize {
        let own = demands.record_bytes_max.map(|most| most.get() as usize);
        own.map_or(self.record_bytes_max, |own| own.min(self.record_bytes_max))
    }

    /// What a native batch for a log may hold.
    pub fn of_batches(&self, demands: Demands) -> crate::batch::Limits {
        crate::batch::Limits {
            records: BATCH_RECORDS_MAX,
            record_bytes: self.record_bytes_of(demands),
            timestamps_required: demands.timestamps_required,
            keys_required: demands.keys_required,
            key_bytes: KEY_BYTES_MAX,
            headers: HEADERS_MAX,
            header_bytes: HEADER_BYTES_MAX,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes_max: RECORD_BYTES_MAX,
            batch_bytes_max: STREAM_BATCH_BYTES_MAX,
            logs_max: Live::new(LOGS_MAX),
            create_logs_on_produce: Live::new(false),
            streams_per_connection_max: CALLS_PER_CONNECTION_MAX,
            bytes: budget::BYTES,
        }
    }
}
