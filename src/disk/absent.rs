//! A file that is not there: nothing can be read from it or written to it.

use std::fs;
use std::io;
use std::sync::Arc;

use super::File;

/// A file in place of one that is not there: it is empty, and stays so.
pub fn absent() -> Arc<dyn File> {
    Arc::new(Absent)
}

#[derive(Debug)]
struct Absent;

impl File for Absent {
    fn read_exact_at(&self, buf: &mut [u8], _position: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn write_all_at(&self, _buf: &[u8], _position: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn mappable(&self) -> Option<&fs::File> {
        None
    }
}
