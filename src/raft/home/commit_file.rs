//! Keeps in a file how far the log is known to be committed, so that a node that restarts without the others
//! shows the records that it showed before.
//!
//! The file is written soon after the index changes, beside the engine, and synced only by the next start: a
//! killed process loses the last moment, a power cut a little more. What the file says is true however old it
//! is, since what is committed stays committed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;

use crate::disk::crc32c;
use crate::disk::{Disk, File};
use crate::log;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, LogId};

use super::blocking::on_disk;

/// The file's name in the data directory.
pub const NAME: &str = "committed";
/// A length, a message and a checksum of both fit into one sector, which disks write whole.
const BYTES: usize = 64;
const CRC_AT: usize = BYTES - 4;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(20);

/// The open file; clones share it.
#[derive(Debug, Clone)]
pub struct CommitFile(Arc<dyn File>);

impl CommitFile {
    /// Opens the file in `dir`, or makes an empty one.
    pub fn open(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let file = disk.open_or_create(&dir.join(NAME))?;
        file.settle()?;
        disk.sync_dir(dir)?;
        Ok(Self(file))
    }

    /// The committed entry that the file names; `None` if it names none or its checksum is wrong.
    pub fn read(&self) -> Option<LogId> {
        let mut bytes = [0; BYTES];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let crc = u32::from_le_bytes(*bytes[CRC_AT..].first_chunk()?);
        let length = usize::from(bytes[0]);
        let message = bytes.get(1..=length).filter(|_| length < CRC_AT)?;
        if length == 0 || crc != crc32c::crc32c(&bytes[..CRC_AT]) {
            return None;
        }
        let id = pb::LogId::decode(message).ok()?;
        (id.index <= log::NUMBER_MAX).then(|| types::log_id_from_pb(&id))
    }

    fn write(&self, id: &LogId) -> io::Result<()> {
        let message = types::log_id_to_pb(id).encode_to_vec();
        let mut bytes = [0; BYTES];
        bytes[0] = u8::try_from(message.len()).map_err(io::Error::other)?;
        bytes[1..=message.len()].copy_from_slice(&message);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// Writes each value that comes, until the sender is gone. `inline` writes on this thread, for simulations.
    pub async fn follow(self, mut told: watch::Receiver<Option<LogId>>, inline: bool) {
        let mut failed = false;
        while told.changed().await.is_ok() {
            let Some(id) = *told.borrow_and_update() else {
                continue;
            };
            let file = self.clone();
            let failure = log::Error::io("write", Path::new(NAME));
            let write = move || file.write(&id).map_err(failure);
            let written = if inline {
                write()
            } else {
                on_disk(write).await
            };
            if let Err(error) = written
                && !std::mem::replace(&mut failed, true)
            {
                // A disk that fails for good stops the node at the next append.
                tracing::warn!(%error, "a restart will have to ask how far the log is committed");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;
    use crate::log::{Index, Term};

    #[test]
    fn what_is_committed_comes_back_and_no_flip_passes() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/node");
        let file = CommitFile::open(&disk, dir).unwrap();
        assert_eq!(file.read(), None);
        let id = types::log_id(Term(3), Index(9));
        file.write(&types::log_id(Term(u64::MAX), Index(log::NUMBER_MAX)))
            .unwrap();
        file.write(&id).unwrap();
        let disk = disk.kill();
        let file = CommitFile::open(&disk, dir).unwrap();
        assert_eq!(file.read(), Some(id));
        for bit in 0..BYTES * 8 {
            let disk = disk.crash();
            disk.corrupt(&dir.join(NAME), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let file = CommitFile::open(&disk, dir).unwrap();
            assert_eq!(file.read(), None, "bit {bit}");
        }
    }
}
