//! The engine's own storage suite, over our stores.

use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, OsDisk};
use crate::log;
use crate::raft::engine::log_store::LogStore;
use crate::raft::engine::state_machine::StateMachine;
use crate::raft::entry::types::TypeConfig;
use crate::raft::home::stable_store::StableStore;

struct InMemory;

struct OnDisk;

fn build(disk: Arc<dyn Disk>, dir: &Path, inline_io: bool) -> (LogStore, StateMachine) {
    let config = log::Config {
        segment_bytes_max: 1 << 16,
        index_bytes_max: 1 << 12,
        inline_io,
        ..log::Config::default()
    };
    let stable = StableStore::open(&disk, dir).unwrap();
    let machine = StateMachine::open(disk, dir.to_owned(), config, &stable).unwrap();
    let store = LogStore::new(machine.log().clone(), stable).unwrap();
    (store, machine)
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (store, machine) = build(Arc::new(MemoryDisk::default()), Path::new("/node"), true);
        Ok(((), store, machine))
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (store, machine) = build(Arc::new(OsDisk), dir.path(), false);
        Ok((dir, store, machine))
    }
}

#[tokio::test]
async fn the_engines_suite_passes_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn the_engines_suite_passes_on_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}
