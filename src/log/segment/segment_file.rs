//! A file of a segment as those who use it hold it: yet to be made, open, or opened when it is used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::handles::{Handles, Lease, OpenFile};
use crate::disk::File;
use crate::log::Error;

/// A path, and the way to the open file.
#[derive(Debug)]
pub struct SegmentFile {
    path: PathBuf,
    state: RwLock<FileState>,
}

#[derive(Debug)]
enum FileState {
    /// The writer makes it before it writes there.
    Unmade,
    /// Its segment is written to.
    Open(Arc<dyn File>),
    /// Its segment is sealed. The file as it was opened last.
    OnDemand(Arc<Handles>, Weak<OpenFile>),
}

impl SegmentFile {
    /// An open file.
    pub fn open(path: &Path, file: Arc<dyn File>) -> Self {
        Self::new(path, FileState::Open(file))
    }

    /// A file that the writer makes before it writes there.
    pub fn unmade(path: &Path) -> Self {
        Self::new(path, FileState::Unmade)
    }

    /// A file that is opened when it is used.
    pub fn on_demand(path: &Path, handles: &Arc<Handles>) -> Self {
        Self::new(path, FileState::OnDemand(handles.clone(), Weak::new()))
    }

    fn new(path: &Path, state: FileState) -> Self {
        Self {
            path: path.to_owned(),
            state: RwLock::new(state),
        }
    }

    /// The file was made.
    pub fn made(&self, file: Arc<dyn File>) {
        *self.state.write() = FileState::Open(file);
    }

    /// It is written to no more: from now on it is opened when it is used.
    pub fn let_go(&self, handles: &Arc<Handles>) {
        *self.state.write() = FileState::OnDemand(handles.clone(), Weak::new());
    }

    /// Whether there is a file.
    pub fn is_made(&self) -> bool {
        !matches!(*self.state.read(), FileState::Unmade)
    }

    /// The file, if it is kept open.
    pub fn kept(&self) -> Option<Arc<dyn File>> {
        match &*self.state.read() {
            FileState::Open(file) => Some(file.clone()),
            FileState::OnDemand(..) | FileState::Unmade => None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. Nothing is read of one before it is made: what it will hold is in memory.
    pub fn file(&self) -> Result<Lease, Error> {
        let handles = match &*self.state.read() {
            FileState::Open(file) => return Ok(Lease::kept(file.clone())),
            FileState::OnDemand(handles, last) => match handles.again(last) {
                Some(lease) => return Ok(lease),
                None => handles.clone(),
            },
            FileState::Unmade => {
                return Err(Error::io("use", &self.path)(io::ErrorKind::NotFound.into()));
            }
        };
        let lease = handles.open(&self.path)?;
        if let FileState::OnDemand(_, last) = &mut *self.state.write() {
            *last = lease.remembered();
        }
        Ok(lease)
    }
}
