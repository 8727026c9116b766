//! The parts of a node that take more than one step to start.

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Log;
use crate::tasks;

use super::Raft;
use super::commit_file;
use super::confirm::Confirmer;
use super::directory::{Directory, Identity};
use super::error::Error;
use super::log_store::LogStore;
use super::reads::ReadBarrier;
use super::state_machine;
use super::transport::Transport;
use super::view::{self, Heard, View};

/// Who the node in a directory is.
pub(super) fn identity_of(directory: &Directory) -> Result<Identity, Error> {
    let identity = directory.identity().cloned();
    identity.ok_or_else(|| Error::Engine("the node has no id".to_owned()))
}

/// The log as the engine stores into it, with its file of what is committed.
pub(super) fn store(directory: &Directory, log: &Log, inline: bool) -> Result<LogStore, Error> {
    let store = LogStore::new(log.clone(), directory.stable.clone())?;
    commit_file::keep(directory, &store, inline)?;
    Ok(store)
}

/// The cluster as the engine sees it, from now on.
pub(super) fn views(
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
pub(super) fn barrier(
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
