//! The announcement of a cut of the log's end, so that a crash in the middle is not taken for damage.
//!
//! A filesystem may write the zeros behind a cut before it forgets the blocks after them: then old
//! frames stand behind a hole, as they do in a damaged file. So the cut is announced first, in a
//! small file, and a start that finds the announcement makes the cut again.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::disk::crc32c;
use crate::log::format::file_header::{self, FILE_HEADER_BYTES, Magic};
use crate::log::format::files;
use crate::log::format::files::Paths;
use crate::log::format::frame::ROLL_FRAME_BYTES;
use crate::log::segment::store::Store;
use crate::log::{Config, Error, Index};

/// The file's name.
const NAME: &str = "cut";
/// The file header, the place of the cut and a checksum of both.
const BYTES: usize = FILE_HEADER_BYTES + 8;
const _: () = assert!(BYTES == 40);

/// Where a cut is announced.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Says that the log is about to end where `place` says: at a byte of the store of a segment or, if
/// that is 0, before the segment. Durable on return.
pub fn announce(disk: &dyn Disk, dir: &Path, place: (Index, u32)) -> Result<(), Error> {
    let (base, end) = place;
    let path = path(dir);
    let mut bytes = file_header::encode(Magic::Cut, base).to_vec();
    bytes.extend_from_slice(&end.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let file = disk
        .open_or_create(&path)
        .map_err(Error::io("create", &path))?;
    file.write_all_at(&bytes, 0)
        .map_err(Error::io("write", &path))?;
    file.sync_data().map_err(Error::io("sync", &path))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

/// Removes the announcement once the cut is durable. When this returns, entries may be appended behind the cut.
pub fn finish(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    files::remove_files(disk, dir, std::iter::once(path(dir)))
}

/// Makes an announced cut, if there is one.
pub fn redo(disk: &dyn Disk, dir: &Path, config: &Config) -> Result<(), Error> {
    let Some((base, end)) = announced(disk, &path(dir))? else {
        return finish(disk, dir);
    };
    let behind = files::bases(disk, dir)?;
    let goes = |other: &&Index| **other > base || (**other == base && end == 0);
    let behind = behind.iter().filter(goes);
    files::remove_all(disk, dir, behind.collect::<Vec<_>>().into_iter())?;
    if end == 0 {
        return finish(disk, dir);
    }
    let store = Paths::new(dir, base).store;
    match Store::open(disk, &store, base) {
        // A cut never makes a store longer: an announcement that would is not ours.
        Ok(Some(store)) if store.len()? >= end.into() => {
            let room = end.saturating_add(ROLL_FRAME_BYTES);
            store.cut(end, Some(config.segment_bytes_max.max(room)))?;
            store.sync()?;
        }
        // The start will find out what became of the store.
        Ok(_) => {}
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    finish(disk, dir)
}

/// The announcement; `None` if there is none or its own writing was cut short, so that no cut began.
pub fn announced(disk: &dyn Disk, path: &Path) -> Result<Option<(Index, u32)>, Error> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        done => done.map_err(Error::io("open", path))?,
    };
    let mut bytes = [0; BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        // What cannot be read may announce a cut.
        done => done.map_err(Error::io("read", path))?,
    }
    let number = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes))
    };
    let crc = crc32c::crc32c(&bytes[..BYTES - 4]);
    if number(BYTES - 4) != Some(crc) {
        return Ok(None);
    }
    let base = bytes[16..]
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes));
    let (Some(base), Some(end)) = (base.map(Index), number(FILE_HEADER_BYTES)) else {
        return Ok(None);
    };
    file_header::read(&*file, path, Magic::Cut, base)?;
    Ok(Some((base, end)))
}
