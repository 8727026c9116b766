//! The other side of each comparison: the plain system calls for the same bytes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that is written from its start to its end, in room that was reserved before.
pub struct RawFile {
    file: File,
    at: u64,
    reserved: u64,
    bytes: Vec<u8>,
}

impl RawFile {
    /// A file for writes of `chunk_bytes` each.
    pub fn create(path: &Path, chunk_bytes: usize) -> Self {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path);
        Self {
            file: file.expect("make a file"),
            at: 0,
            reserved: 0,
            bytes: vec![b'x'; chunk_bytes],
        }
    }

    /// Writes so many chunks one after the other, each with a sync of its own.
    pub fn append(&mut self, chunks: usize) -> Duration {
        self.reserve((chunks * self.bytes.len()) as u64);
        let start = Instant::now();
        for _ in 0..chunks {
            self.file.write_all_at(&self.bytes, self.at).expect("write");
            self.file.sync_data().expect("sync");
            self.at += self.bytes.len() as u64;
        }
        start.elapsed()
    }

    /// Reserves room as the engine does: by `fallocate`, a segment at a time.
    fn reserve(&mut self, more: u64) {
        const ROOM_BYTES: u64 = 64 << 20;
        if self.at + more > self.reserved {
            use rustix::fs::{FallocateFlags, fallocate};
            self.reserved = (self.at + more).next_multiple_of(ROOM_BYTES);
            fallocate(&self.file, FallocateFlags::empty(), 0, self.reserved).expect("reserve");
            self.file.sync_all().expect("sync");
        }
    }
}

/// Reads files from start to end, so many bytes at a time, and then from the start again.
pub struct RawReader {
    files: Vec<File>,
    number: usize,
    at: u64,
    buffer: Vec<u8>,
    /// Whole chunks in the first file; the others are as long, but for the last.
    file_chunks: u64,
}

impl RawReader {
    pub fn open(paths: &[PathBuf], chunk_bytes: usize) -> Self {
        let open = |path| File::open(path).expect("open a store");
        let files: Vec<_> = paths.iter().map(open).collect();
        let first_bytes = files[0].metadata().expect("a length").len();
        Self {
            files,
            file_chunks: (first_bytes / chunk_bytes as u64).max(1),
            number: 0,
            at: 0,
            buffer: vec![0; chunk_bytes],
        }
    }

    /// Reads about this many bytes.
    pub fn read(&mut self, bytes: usize) -> Duration {
        let start = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let file = &self.files[self.number];
            match file.read_at(&mut self.buffer, self.at).expect("read") {
                0 => (self.number, self.at) = ((self.number + 1) % self.files.len(), 0),
                read => {
                    self.at += read as u64;
                    left = left.saturating_sub(read);
                }
            }
        }
        start.elapsed()
    }

    /// One read of a chunk at each of these places, which count chunks from the first file's start on.
    pub fn read_at(&mut self, places: &[u64]) -> Duration {
        let start = Instant::now();
        let chunk_bytes = self.buffer.len() as u64;
        for place in places {
            let file = (place / self.file_chunks) as usize % self.files.len();
            let at = place % self.file_chunks * chunk_bytes;
            let read = self.files[file].read_at(&mut self.buffer, at);
            read.expect("read");
        }
        start.elapsed()
    }

    pub fn bytes(&self) -> u64 {
        let length = |file: &File| file.metadata().expect("a length").len();
        self.files.iter().map(length).sum()
    }
}
