//! What a node of a local cluster costs its machine.

use std::time::Duration;

use anyhow::Context;

use super::LocalCluster;
use crate::cli::files;

impl LocalCluster {
    /// The node's resident memory.
    pub fn resident_bytes(&self, place: usize) -> anyhow::Result<u64> {
        files::resident_bytes(self.pid(place).context("the node does not run")?)
    }

    /// The CPU time that the node's process has used.
    pub fn cpu_time(&self, place: usize) -> anyhow::Result<Duration> {
        files::cpu_time(self.pid(place).context("the node does not run")?)
    }

    /// What the node's data takes on disk, holes not counted.
    pub fn disk_bytes(&self, place: usize) -> anyhow::Result<u64> {
        files::disk_bytes(&self.data_dir(place))
    }
}
