//! The first bytes of each of a segment's files: what it is, its version, its base.

use std::path::Path;

use crate::disk::File;
use crate::disk::crc32c;
use crate::log::{Error, Index};

/// The bytes that a header takes.
pub const FILE_HEADER_BYTES: usize = 32;
const _: () = assert!(FILE_HEADER_BYTES == 8 + 4 + 4 + 8 + 8);
/// The version that this binary writes, and the only one that it reads.
pub const VERSION: u32 = 2;

/// Which of a segment's files it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// Frames.
    Store,
    /// Rows.
    Index,
    /// The summary of a sealed segment.
    Seal,
    /// The announcement of a cut.
    Cut,
}

impl Magic {
    fn bytes(self) -> &'static [u8; 8] {
        match self {
            Self::Store => b"FERSTORE",
            Self::Index => b"FERINDEX",
            Self::Seal => b"FERSEALS",
            Self::Cut => b"FERCUTTO",
        }
    }
}

/// The header of a file whose first entry has the raft index `base`.
///
/// The last eight bytes are left zero: an index file keeps the position of its first row there, once it has one, a seal
/// how the segment ended.
pub fn encode(magic: Magic, base: Index) -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    bytes[..8].copy_from_slice(magic.bytes());
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&base.0.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads and checks a file's header; `None` if the file holds nothing but zeros there, as a file
/// does whose making a crash cut short.
pub fn read(file: &dyn File, path: &Path, magic: Magic, base: Index) -> Result<Option<()>, Error> {
    let mut bytes = [0; FILE_HEADER_BYTES];
    let len = file.len().map_err(Error::io("measure", path))?;
    if len < FILE_HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, 0)
        .map_err(Error::io("read", path))?;
    if bytes == [0; FILE_HEADER_BYTES] {
        return Ok(None);
    }
    let corrupt = |what| Error::Corrupt {
        path: path.to_owned(),
        position: 0,
        what,
    };
    if bytes[..8] != *magic.bytes() {
        return Err(corrupt("the file does not begin as its name promises"));
    }
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let crc = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    if crc != checksum(&bytes) {
        return Err(corrupt("the header's checksum is wrong"));
    }
    if version != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if bytes[16..24] != base.0.to_le_bytes() {
        return Err(corrupt("the header names another base than the file name"));
    }
    Ok(Some(()))
}

fn checksum(bytes: &[u8; FILE_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..24])
}
