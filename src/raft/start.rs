//! The parts of a node that take more than one step to start.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Log;
use crate::raft::engine::Raft;
use crate::raft::engine::follow::{self, Heard};
use crate::raft::engine::log_store::LogStore;
use crate::raft::error::Error;
use crate::raft::home::commit_file::{self, CommitFile};
use crate::raft::home::directory::{Directory, Identity};
use crate::raft::peer::transport::Transport;
use crate::raft::read::ReadBarrier;
use crate::raft::read::confirm::Confirmer;
use crate::raft::state::applied::AppliedState;
use crate::raft::view::View;
use crate::tasks;

/// Who the node in a directory is.
pub(crate) fn identity_of(directory: &Directory) -> Result<Identity, Error> {
    let identity = directory.identity().cloned();
    identity.ok_or_else(|| Error::Engine("the node has no id".to_owned()))
}

/// The log as the engine stores into it, with its file of what is committed.
pub(crate) fn store(directory: &Directory, log: &Log, inline: bool) -> Result<LogStore, Error> {
    let store = LogStore::new(log.clone(), directory.stable.clone())?;
    keep_committed(directory, &store, inline)?;
    Ok(store)
}

/// Recalls how far an earlier process knew the log to be committed, and keeps what this one does.
fn keep_committed(directory: &Directory, store: &LogStore, inline: bool) -> Result<(), Error> {
    let file = CommitFile::open(&*directory.disk, &directory.path);
    let file = file.map_err(|source| Error::Directory {
        path: directory.path.join(commit_file::NAME),
        source,
    })?;
    if let Some(committed) = file.read() {
        store.recall(committed);
    }
    let follow = file.follow(store.watch_committed(), inline);
    tasks::spawn("commit index on disk", follow);
    Ok(())
}

/// The cluster as the engine sees it, from now on.
pub(crate) fn views(
    raft: &Raft,
    heard: &Arc<Heard>,
    transport: &Transport,
) -> watch::Receiver<View> {
    let (tell, views) = watch::channel(View::default());
    let addresses = transport.addresses().clone();
    let follows = follow::follow(raft.clone(), heard.clone(), addresses, tell);
    tasks::spawn("view", follows);
    views
}

/// What reads wait at.
pub(crate) fn barrier(
    me: u64,
    confirmer: &Confirmer,
    views: &watch::Receiver<View>,
    fsm: &AppliedState,
    transport: &Transport,
) -> ReadBarrier {
    ReadBarrier::start(
        me,
        confirmer.clone(),
        views.clone(),
        fsm.watch(),
        transport.clone(),
    )
}
