//! The log's limits, and what it opens at most.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The largest store file, in bytes.
pub const STORE_BYTES_MAX: u32 = 1 << 30;

/// Bytes of the last entries that are kept in memory, besides those that are not synced.
const TAIL_CACHE_BYTES: usize = 8 << 20;
/// Files of sealed segments that are open at once, unless the process may have few.
const FILES_MAX: usize = 256;
/// Fewer open files than this make readers wait for each other.
pub(super) const FILES_MIN: usize = 8;
/// Removed stores that are kept open to be freed a piece at a time, unless the process may have few files open. Where there
/// are more, the oldest goes at once.
pub(super) const REMAINS_MAX: usize = 16;
/// Descriptors that the log needs besides: for the files of segments that are not sealed yet, the spare, a
/// seal, a cut or a directory that is being synced, a copy that is fetched, the stable store and the vote, and for stores
/// that were removed and are yet to be freed.
const FILES_BESIDES: usize = 64 + REMAINS_MAX;
/// The part of the process's descriptors that the log's sealed segments may take.
const FILES_SHARE: u64 = 8;

/// The log's limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The size of a store file, in bytes: 1 KiB to [`STORE_BYTES_MAX`].
    pub segment_bytes_max: u32,
    /// The size of an index file while it grows, in bytes; 32 a batch.
    pub index_bytes_max: usize,
    /// How many bytes of recent entries' payloads are kept in memory. Entries that are not written yet come on
    /// top.
    pub tail_cache_bytes_max: usize,
    /// The room on the disk, in bytes, below which no segment is made ahead of need.
    pub spare_above_bytes: u64,
    /// Files of sealed segments that are open at once; see [`Self::descriptors_max`].
    pub files_max: usize,
    /// Do the IO on the caller's thread: for simulation.
    pub inline_io: bool,
    /// With `inline_io`: how late the writer begins with what it is asked for, in a task of its own.
    pub io_delay: Option<IoDelay>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            index_bytes_max: 8 << 20,
            tail_cache_bytes_max: TAIL_CACHE_BYTES,
            spare_above_bytes: 0,
            files_max: FILES_MAX,
            inline_io: false,
            io_delay: None,
        }
    }
}

impl Config {
    /// The descriptors that the log holds at most.
    pub fn descriptors_max(&self) -> usize {
        self.files_max + FILES_BESIDES
    }

    /// Keeps to a process's limit of descriptors; the rest is for connections.
    pub fn keep_to(&mut self, descriptors: u64) {
        let share = usize::try_from(descriptors / FILES_SHARE).unwrap_or(usize::MAX);
        self.files_max = self.files_max.min(share).max(FILES_MIN);
    }
}

/// How late a simulated writer begins with what it is asked for.
#[derive(Clone)]
pub struct IoDelay(Arc<dyn Fn() -> Duration + Send + Sync>);

impl IoDelay {
    /// It is asked each time that the writer has something to do.
    pub fn new(delay: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(delay))
    }

    pub(super) fn drawn(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for IoDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IoDelay")
    }
}
