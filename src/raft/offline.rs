//! A data directory looked at while no node runs on it: who it is, and what bounds its log.

use std::path::Path;
use std::sync::Arc;

use openraft::EntryPayload;

use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::log::verify::{Bounds, Finding, What};
use crate::log::{self, Index, Position};
use crate::proto::raft_v1 as pb;
use crate::raft::WireError;
use crate::raft::entry::codec;
use crate::raft::entry::types::Membership;
use crate::raft::error::StableError;
use crate::raft::home::directory::Identity;
use crate::raft::home::stable_store::vote_file::{self, VoteFile};
use crate::raft::home::stable_store::{FILE, StableStore};
use crate::raft::snapshot::{self, STAGING};
use crate::raft::state::fsm::Fsm;

/// What the stable store of a directory tells.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Who the node is; `None` until it bootstrapped or joined.
    pub identity: Option<Identity>,
    /// Where its log begins, and how far it was applied.
    pub bounds: Bounds,
    /// What is wrong beside the log.
    pub findings: Vec<Finding>,
}

/// A stable store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// What is in it cannot be.
    #[error(transparent)]
    Stable(#[from] StableError),
}

/// Reads the stable store in `dir`; `None` if there is none. The file is left as it is: the
/// database writes when it opens, so a copy in memory is opened.
pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Option<Inspection>, InspectError> {
    let copy = MemoryDisk::default();
    if !copy_file(disk, &dir.join(FILE), &copy)? {
        return Ok(None);
    }
    let path = dir.join(vote_file::NAME);
    let mut findings = Vec::new();
    if copy_file(disk, &path, &copy)? {
        let vote = VoteFile::open(&copy, dir).map_err(log::Error::io("open", &path))?;
        if vote.read().is_none() {
            findings.push(Finding {
                path,
                position: 0,
                sealed: false,
                what: What::VoteCopy,
            });
        }
    }
    let copy: Arc<dyn Disk> = Arc::new(copy);
    let stable = StableStore::open(&copy, dir)?;
    let known = stable.identity()?.filter(|known| known.node_id != 0);
    let identity = known.map(|known: pb::Identity| Identity {
        cluster_id: known.cluster_id,
        node_id: known.node_id,
        directory_id: known.directory_id,
        name: known.name,
    });
    Ok(Some(Inspection {
        identity,
        bounds: bounds(&stable, dir)?,
        findings,
    }))
}

/// Whether a node voted in `dir`: then its stable store was there.
pub fn is_a_nodes(disk: &dyn Disk, dir: &Path) -> bool {
    disk.open(&dir.join(vote_file::NAME)).is_ok()
}

/// Copies a file to another disk; false if there is none.
fn copy_file(disk: &dyn Disk, path: &Path, to: &MemoryDisk) -> Result<bool, log::Error> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        done => done.map_err(log::Error::io("open", path))?,
    };
    let len = file.len().map_err(log::Error::io("measure", path))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)
        .map_err(log::Error::io("read", path))?;
    let copied = to.create(path);
    let copied = copied.and_then(|copied| copied.write_all_at(&bytes, 0));
    copied.map_err(log::Error::io("copy", path))?;
    Ok(true)
}

/// An adoption is what the node holds, once it is there; else floor and checkpoint are.
fn bounds(stable: &StableStore, dir: &Path) -> Result<Bounds, StableError> {
    if let Some(adoption) = stable.adoption()? {
        let names = snapshot::names_of(&adoption);
        let checkpoint = adoption.checkpoint.unwrap_or_default();
        return Ok(Bounds {
            floor: snapshot::floor_of(adoption.floor.as_ref()),
            checkpoint: covered(checkpoint, stable.incoming_rows()?)?,
            committed: None,
            adopting: Some((dir.join(STAGING), names)),
        });
    }
    let checkpoint = stable.checkpoint()?.unwrap_or_default();
    Ok(Bounds {
        floor: snapshot::floor_of(stable.floor()?.as_ref()),
        checkpoint: covered(checkpoint, stable.rows()?)?,
        committed: stable.committed()?.map(|id| Index(id.index)),
        adopting: None,
    })
}

/// What a checkpoint says of the logs.
fn covered(
    checkpoint: pb::Checkpoint,
    rows: Vec<pb::StateRow>,
) -> Result<Option<log::Checkpoint>, StableError> {
    if checkpoint.applied.is_none() {
        return Ok(None);
    }
    let next = Position(checkpoint.next_position);
    let state = Fsm::restore(checkpoint, rows);
    let key = "checkpoint";
    let state = state.map_err(|source| StableError::Decode { key, source })?;
    Ok(state.covered(next))
}

/// What an entry says, in words for people.
pub fn describe(entry: log::Entry) -> Result<String, WireError> {
    Ok(match codec::from_log(entry)?.payload() {
        EntryPayload::Blank => "blank".to_owned(),
        EntryPayload::Membership(membership) => membership_in_words(membership),
        EntryPayload::Normal(command) => command.to_string(),
    })
}

/// `membership: the voters n1 at a:1, n2 at b:1; the learners n3 at c:1`. While a change is under way, there are the
/// voters before it and those after it.
fn membership_in_words(membership: &Membership) -> String {
    let member = |id: u64| match membership.get_node(&id) {
        Some(member) => format!("{} at {}", member.name, member.addr),
        None => format!("node {id}"),
    };
    let list = |ids: &mut dyn Iterator<Item = u64>| ids.map(member).collect::<Vec<_>>().join(", ");
    let voters = membership.get_joint_config().iter();
    let voters: Vec<_> = voters.map(|ids| list(&mut ids.iter().copied())).collect();
    let mut text = format!(
        "membership: the voters {}",
        voters.join("; after the change ")
    );
    if membership.learner_ids().next().is_some() {
        text += &format!("; the learners {}", list(&mut membership.learner_ids()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::entry::types::Member;

    #[test]
    fn a_membership_is_told_by_its_names() {
        let member = |id: u64| Member {
            name: format!("n{id}"),
            addr: format!("host:{id}"),
            ..Member::default()
        };
        let nodes: BTreeMap<_, _> = (1..4).map(|id| (id, member(id))).collect();
        let told = |configs: &[&[u64]]| {
            let config = |ids: &&[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
            let membership = Membership::new(configs.iter().map(config).collect(), nodes.clone());
            membership_in_words(&membership.unwrap())
        };
        let two = "membership: the voters n1 at host:1, n2 at host:2; the learners n3 at host:3";
        assert_eq!(told(&[&[1, 2]]), two);
        let joint = "membership: the voters n1 at host:1, n2 at host:2; after the change n2 at host:2, \
                     n3 at host:3";
        assert_eq!(told(&[&[1, 2], &[2, 3]]), joint);
    }
}
