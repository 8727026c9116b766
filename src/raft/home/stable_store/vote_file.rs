//! A second copy of the vote, in a file of its own.
//!
//! A database that loses its last commit to a bad page opens at the commit before it. If a vote were in the
//! lost commit, this node could vote twice in a term. Two copies in two files do not both go back, and the later
//! one counts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use crate::disk::crc32c;
use crate::disk::{Disk, File};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, Vote};

/// The file's name in the data directory.
pub const NAME: &str = "vote";
/// A length, a message and a checksum of both fit into one sector, which disks write whole.
const BYTES: usize = 128;
const CRC_AT: usize = BYTES - 4;

/// The open file.
#[derive(Debug)]
pub struct VoteFile {
    path: PathBuf,
    file: Arc<dyn File>,
}

impl VoteFile {
    /// Opens the file in `dir`, or makes an empty one.
    pub fn open(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let path = dir.join(NAME);
        let file = disk.open_or_create(&path)?;
        // Sync what an earlier process left: a killed process may not have synced its vote, and a power cut
        // would then take it.
        file.settle()?;
        disk.sync_dir(dir)?;
        Ok(Self { path, file })
    }

    /// The vote in the file; `None` if there is none or its checksum is wrong.
    pub fn read(&self) -> Option<Vote> {
        let mut bytes = [0; BYTES];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let crc = u32::from_le_bytes(*bytes[CRC_AT..].first_chunk()?);
        let length = usize::from(bytes[0]);
        let message = bytes.get(1..=length).filter(|_| length < CRC_AT)?;
        if crc != crc32c::crc32c(&bytes[..CRC_AT]) {
            return None;
        }
        types::vote_from_pb(pb::VoteState::decode(message).ok().as_ref()).ok()
    }

    /// Writes a vote. Durable on return.
    pub fn write(&self, vote: &Vote) -> io::Result<()> {
        let message = types::vote_to_pb(vote).encode_to_vec();
        let mut bytes = [0; BYTES];
        bytes[0] = u8::try_from(message.len()).map_err(io::Error::other)?;
        bytes[1..=message.len()].copy_from_slice(&message);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, 0)?;
        self.file.sync_data()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::{Event, MemoryDisk};

    /// The system shows the next process what a killed one, or one whose sync failed, had written.
    #[test]
    fn a_vote_that_is_read_is_on_disk() {
        let (disk, dir) = (MemoryDisk::default(), Path::new("/node"));
        let file = VoteFile::open(&disk, dir).unwrap();
        let (first, second) = (Vote::new(1, 1), Vote::new(2, 1));
        file.write(&first).unwrap();
        let killed = Arc::new(parking_lot::Mutex::new(None));
        let (at, slot) = (disk.clone(), killed.clone());
        disk.watch(move |event, _| {
            if event == Event::Sync {
                *slot.lock() = Some(at.kill());
                return Err(io::Error::other("a bad sector"));
            }
            Ok(())
        });
        file.write(&second).unwrap_err();
        disk.watch(|_, _| Ok(()));
        let after_failure = VoteFile::open(&disk, dir).unwrap();
        assert_eq!(after_failure.read(), Some(first));
        let disk = killed.lock().take().unwrap();
        let after_kill = VoteFile::open(&disk, dir).unwrap();
        assert_eq!(after_kill.read(), Some(second));
        let after_both = VoteFile::open(&disk.crash(), dir).unwrap();
        assert_eq!(after_both.read(), Some(second));
    }

    #[test]
    fn a_vote_comes_back_and_no_flip_passes() {
        let disk = MemoryDisk::default();
        let dir = Path::new("/node");
        let file = VoteFile::open(&disk, dir).unwrap();
        assert_eq!(file.read(), None);
        file.write(&Vote::new(u64::MAX, u64::MAX)).unwrap();
        let vote = Vote::new_committed(7, 3);
        file.write(&vote).unwrap();
        let file = VoteFile::open(&disk.crash(), dir).unwrap();
        assert_eq!(file.read(), Some(vote));
        for bit in 0..BYTES * 8 {
            let disk = disk.crash();
            disk.corrupt(&dir.join(NAME), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let file = VoteFile::open(&disk, dir).unwrap();
            assert_eq!(file.read(), None, "bit {bit}");
        }
    }
}
