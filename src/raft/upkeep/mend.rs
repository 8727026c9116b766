//! Mends damaged segments, from their own files or with another node's copy.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::{self, Damage, Damaged, Seal};
use crate::raft::error::{Error, FetchError};
use crate::raft::home::blocking::on_disk;
use crate::raft::peer::fetch;
use crate::raft::peer::transport::PeerClient;
use crate::raft::snapshot;
use crate::raft::view::MemberView;
use crate::raft::view::counts::Mended;

use super::Upkeep;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tries to mend the same damage.
const MEND_AGAIN: Duration = Duration::from_secs(2);

impl Upkeep {
    /// Mends damaged segments as they are found. Never returns.
    pub async fn mend(&self) {
        loop {
            let damaged = self.node.log.damaged();
            for segment in &damaged {
                let began = Instant::now();
                let base = segment.seal.base;
                let mended = self.mend_one(segment).await;
                let outcome = mended.as_ref().map_or(Mended::Failed, |_| Mended::Done);
                self.node.counts.repairs.of(outcome).one_more();
                match mended {
                    Ok(how) => {
                        let ms = began.elapsed().as_millis();
                        tracing::info!(%base, how, ms, "mended a damaged segment");
                    }
                    Err(error) => {
                        tracing::error!(%base, %error, "a damaged segment could not be mended");
                    }
                }
            }
            let left = !self.node.log.damaged().is_empty();
            tokio::time::sleep(if left { MEND_AGAIN } else { LOOK_EVERY }).await;
        }
    }

    async fn mend_one(&self, damaged: &Damaged) -> Result<&'static str, Error> {
        let seal = damaged.seal.clone();
        if damaged.damage == Damage::Index {
            let (log, seal) = (self.node.log.clone(), seal.clone());
            let derived = on_disk(move || Ok(log.derive_index(&seal)?)).await;
            match derived {
                Ok(true) => return Ok("from its store"),
                Ok(false) | Err(Error::Log(log::Error::Damaged { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let dir = self.kept.snapshots.repair();
        snapshot::make_dir(&*self.kept.snapshots.disk, &dir)?;
        let mut last = None;
        for with_rows in [true, false] {
            for mut client in self.peers() {
                let _one_at_a_time = self.copying.lock().await;
                match self.copied(&mut client, &seal, &dir, with_rows).await {
                    Ok(false) => {}
                    Ok(true) => {
                        let log = self.node.log.clone();
                        let (seal, dir) = (seal.clone(), dir.clone());
                        on_disk(move || log.replace(&seal, &dir)).await?;
                        return Ok("from another node");
                    }
                    Err(FetchError::Log(error @ log::Error::Io { .. })) => return Err(error.into()),
                    Err(error) => last = Some(error),
                }
            }
        }
        if self.take_over(seal.base, seal.rewritten).await {
            return Ok("by what another node rewrote it to");
        }
        // A read may have failed on the way to the disk. With no other node to ask, the files are read again.
        let (log, base) = (self.node.log.clone(), seal.base);
        let again = on_disk(move || Ok::<_, Error>(log.look_again(&seal)?)).await?;
        if again {
            return Ok("by reading it again");
        }
        let source = last.map(Box::new);
        Err(Error::NoCopy { base, source })
    }

    /// Fetches a copy of a segment from a peer, with its rows or beside those that are here; false if there are none. A
    /// leader whose followers have applied nothing yet may need their entries before they can go on.
    async fn copied(
        &self,
        client: &mut PeerClient,
        seal: &Seal,
        dir: &Path,
        with_rows: bool,
    ) -> Result<bool, FetchError> {
        let disk = self.kept.snapshots.disk.clone();
        if with_rows {
            fetch::fetch(client, disk, dir, seal, None).await?;
            return Ok(true);
        }
        let (log, wanted) = (self.node.log.clone(), seal.clone());
        let rows = on_disk(move || Ok::<_, FetchError>(log.kept_rows(&wanted)?)).await?;
        let Some(rows) = rows else {
            return Ok(false);
        };
        fetch::fetch_entries(client, disk, dir, (seal, rows)).await?;
        Ok(true)
    }

    /// Clients of the other members, the leader's first.
    pub(super) fn peers(&self) -> Vec<PeerClient> {
        let (me, view) = (self.node.id(), self.node.view());
        let mut peers: Vec<_> = view.members.iter().filter(|peer| peer.id != me).collect();
        peers.sort_by_key(|peer| Some(peer.id) != view.leader);
        let client = |peer: &MemberView| self.node.transport.own_client(peer.id, &peer.member.addr);
        peers.into_iter().map(client).collect()
    }
}
