//! Takes over what other nodes rewrote, where this node cannot do it by itself: a segment here is damaged, or ended
//! where no other node's does.

use crate::log::{self, Index, Seal};
use crate::raft::error::Error;
use crate::raft::home::blocking::on_disk;
use crate::raft::peer::fetch::{self, Coming, Copy};
use crate::raft::peer::transport::PeerClient;
use crate::raft::snapshot;

use super::{Upkeep, begins};

impl Upkeep {
    /// Takes over what some peer has in the place of the segment at `base` since it was rewritten there, by a later entry
    /// than `since`; false if no peer has it, or it does not fit the segments here.
    pub(super) async fn take_over(&self, base: Index, since: Option<Index>) -> bool {
        for client in self.peers() {
            match self.take_over_from(client, base, since).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "no rewritten segment came"),
            }
        }
        false
    }

    /// Takes it over from this peer. Only once a checkpoint covers the entry that says what lives.
    async fn take_over_from(
        &self,
        mut client: PeerClient,
        base: Index,
        since: Option<Index>,
    ) -> Result<bool, Error> {
        let not_had = |error| Error::NoCopy {
            base,
            source: Some(Box::new(error)),
        };
        let (seal, coming) = fetch::newest(&mut client, base).await.map_err(not_had)?;
        let Some(at) = seal.rewritten.filter(|at| since < Some(*at)) else {
            return Ok(false);
        };
        // Nothing is copied that could not take its place.
        if !self.node.log.fits(&seal) || self.is_given_up(base) {
            return Ok(false);
        }
        let _one_at_a_time = self.copying.lock().await;
        if !self.is_covered(at).await? {
            return Ok(false);
        }
        let taken = self.taken(seal.clone(), (at, coming)).await;
        if !matches!(taken, Ok(true)) {
            let (disk, dir) = (
                self.kept.snapshots.disk.clone(),
                self.kept.snapshots.repair(),
            );
            let removed = move || Ok::<_, Error>(log::remove_copy(&*disk, &dir, seal.name())?);
            on_disk(removed).await?;
        }
        taken
    }

    /// Copies what comes, and puts it in its place.
    async fn taken(&self, seal: Seal, (at, coming): (Index, Coming)) -> Result<bool, Error> {
        let base = seal.base;
        let not_had = |error| Error::NoCopy {
            base,
            source: Some(Box::new(error)),
        };
        let (disk, dir) = (
            self.kept.snapshots.disk.clone(),
            self.kept.snapshots.repair(),
        );
        let (into, wanted) = (dir.clone(), seal.clone());
        let copy = on_disk(move || {
            snapshot::make_dir(&*disk, &into)?;
            Ok::<_, Error>(Copy::new(disk, &into, &wanted)?)
        });
        coming.copy(copy.await?, None).await.map_err(not_had)?;
        self.purge(seal.next_index().0 - 1, at.0).await?;
        let (log, state) = (self.node.log.clone(), self.node.state.clone());
        let floor = self.kept.floor.clone();
        on_disk(move || {
            // No snapshot is adopted meanwhile, and no floor is saved. A start would remove what begins below the floor.
            let _no_adoption = state.covered();
            Ok(begins(&floor) <= base && log.take_over(&seal, &dir)?)
        })
        .await
    }
}
