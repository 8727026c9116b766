//! The parts of a node that take more than one step to start.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Log;
use crate::raft::engine::log_store::LogStore;
use crate::raft::engine::state_machine;
use crate::raft::error::Error;
use crate::raft::home::commit_file;
use crate::raft::home::directory::{Directory, Identity};
use crate::raft::peer::transport::Transport;
use crate::raft::read::ReadBarrier;
use crate::raft::read::confirm::Confirmer;
use crate::raft::view::{self, Heard, View};
use crate::tasks;

use super::Raft;

/// Who the node in a directory is.
pub(crate) fn identity_of(directory: &Directory) -> Result<Identity, Error> {
    let identity = directory.identity().cloned();
    identity.ok_or_else(|| Error::Engine("the node has no id".to_owned()))
}

/// The log as the engine stores into it, with its file of what is committed.
pub(crate) fn store(directory: &Directory, log: &Log, inline: bool) -> Result<LogStore, Error> {
    let store = LogStore::new(log.clone(), directory.stable.clone())?;
    commit_file::keep(directory, &store, inline)?;
    Ok(store)
}

/// The cluster as the engine sees it, from now on.
pub(crate) fn views(
    raft: &Raft,
    heard: &Arc<Heard>,
    transport: &Transport,
) -> watch::Receiver<View> {
    let (tell, views) = watch::channel(View::default());
    let addresses = transport.addresses().clone();
    let follows = view::follow(raft.clone(), heard.clone(), addresses, tell);
    tasks::spawn("view", follows);
    views
}

/// What reads wait at.
pub(crate) fn barrier(
    me: u64,
    confirmer: &Confirmer,
    views: &watch::Receiver<View>,
    fsm: &state_machine::Shared,
    transport: &Transport,
) -> ReadBarrier {
    ReadBarrier::start(
        me,
        confirmer.clone(),
        views.clone(),
        fsm.watch_applied(),
        transport.clone(),
    )
}
