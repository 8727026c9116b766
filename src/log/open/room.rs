//! Room for what is appended to the segment that a start finds open.

use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::log::format::files::{Paths, SegmentName};

use super::recovery::LogDirectory;

/// Takes all room of the last segment, as far as it has no seal. It may have been made for less, or copied with holes:
/// what is appended to it, or written through the map of its index, is to meet no full disk. Without room it is as it was.
pub fn take(directory: &LogDirectory<'_>, last: Option<&SegmentName>) {
    let Some(last) = last.filter(|last| last.rewritten.is_none()) else {
        return;
    };
    let (disk, paths) = (directory.disk, Paths::new(directory.dir, *last));
    if disk.open(&paths.seal).is_ok() {
        return;
    }
    for (path, least) in [
        (&paths.store, directory.config.segment_bytes_max.into()),
        (&paths.index, 0),
    ] {
        let taken = take_in(disk, path, least);
        if let Err(error) = taken.or_else(none_if_missing) {
            tracing::warn!(path = %path.display(), %error, "the last segment may be short of room");
        }
    }
}

fn take_in(disk: &dyn Disk, path: &Path, least: u64) -> io::Result<()> {
    let file = disk.open(path)?;
    file.allocate(file.len()?.max(least))
}

fn none_if_missing(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
