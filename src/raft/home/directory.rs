//! The data directory: which node this is, and how a new directory becomes a node.
//!
//! A node is identified by its cluster id, node id and directory id. The directory id is drawn when the directory
//! is made, and the node id is an index of the log. So a wiped node never passes for the node that it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{DirLock, Disk};
use crate::env::Random;
use crate::proto::raft_v1 as pb;
use crate::raft::error::Error;

use super::stable_store::StableStore;

/// The first node's id; later ones come from the log's indexes, which begin above it.
pub const FIRST_NODE: u64 = 1;

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// Unique in the cluster for ever.
    pub node_id: u64,
    /// 32 hexadecimal digits.
    pub directory_id: String,
    /// Unique among the members.
    pub name: String,
}

/// An open data directory.
#[derive(Debug)]
pub struct Directory {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) stable: StableStore,
    pub(crate) lock: DirLock,
    name: String,
    directory_id: String,
    identity: Option<Identity>,
    /// The members that the node was introduced to when it joined. It hears them until it has applied a membership
    /// that names itself.
    pub(crate) introduced: Vec<pb::Member>,
    /// The names that may join the cluster that this node begins.
    pub(crate) founding: Vec<String>,
    pub(crate) random: Random,
    /// A number that is drawn at each start. It tells a process on this directory from one on a copy of it.
    pub(crate) start: u64,
    /// Addresses that are asked for another start of the node.
    pub(crate) peers: Vec<String>,
}

impl Directory {
    /// Opens the directory of the node called `name`, or makes it.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        name: &str,
        random: &Random,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Directory {
            path: path.to_owned(),
            source,
        };
        disk.create_dir(path).map_err(failed)?;
        if let Some(exposed) = disk.exposed(path).map_err(failed)? {
            let (path, mode) = (path.to_owned(), exposed.mode);
            let mend = exposed.mend(&path);
            return Err(Error::Exposed { path, mode, mend });
        }
        let lock = disk.lock(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::InUse(path.to_owned()),
            _ => failed(error),
        })?;
        let stable = StableStore::open(&disk, path)?;
        let known = match stable.identity()? {
            Some(known) => known,
            None => {
                let minted = pb::Identity {
                    directory_id: format!("{:032x}", random.next_u128()),
                    name: name.to_owned(),
                    ..pb::Identity::default()
                };
                stable.save_identity(&minted)?;
                minted
            }
        };
        if known.name != name {
            return Err(Error::OtherName {
                found: known.name,
                asked: name.to_owned(),
            });
        }
        let mut directory = Self {
            disk,
            path: path.to_owned(),
            stable,
            lock,
            name: known.name,
            directory_id: known.directory_id,
            identity: None,
            introduced: Vec::new(),
            founding: Vec::new(),
            random: random.clone(),
            start: random.next_u64(),
            peers: Vec::new(),
        };
        if known.node_id != 0 {
            directory.identity = Some(directory.as_node(known.cluster_id, known.node_id));
        }
        Ok(directory)
    }

    fn as_node(&self, cluster_id: String, node_id: u64) -> Identity {
        Identity {
            cluster_id,
            node_id,
            directory_id: self.directory_id.clone(),
            name: self.name.clone(),
        }
    }

    /// The node's identity; `None` until it began a cluster or joined one.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Lets these names join, if this node began its cluster.
    pub fn let_in(&mut self, names: Vec<String>) {
        let first = |identity: &Identity| identity.node_id == FIRST_NODE;
        if self.identity().is_some_and(first) {
            self.founding = names;
        }
    }

    /// Has these addresses, too, asked for another start of the node before the node takes part.
    pub fn ask_first(&mut self, peers: Vec<String>) {
        self.peers = peers;
    }

    /// Begins a new cluster with this node as its one voter.
    pub fn bootstrap(&mut self, random: &Random) -> Result<(), Error> {
        let cluster_id = format!("{:032x}", random.next_u128());
        let identity = self.as_node(cluster_id, FIRST_NODE);
        self.become_node(identity)
    }

    fn become_node(&mut self, identity: Identity) -> Result<(), Error> {
        self.stable.save_identity(&pb::Identity {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            directory_id: identity.directory_id.clone(),
            name: identity.name.clone(),
        })?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The request with which the node, reached at `addr`, asks to join.
    pub fn join_request(&self, addr: &str, token: &str) -> pb::JoinRequest {
        pb::JoinRequest {
            name: self.name.clone(),
            addr: addr.to_owned(),
            directory_id: self.directory_id.clone(),
            node_id: 0,
            cluster_id: String::new(),
            token: token.to_owned(),
            start: self.start,
        }
    }

    /// Makes this the node that the cluster has answered it is. Durable on return.
    pub fn be_joined(&mut self, joined: pb::JoinResponse) -> Result<(), Error> {
        let identity = self.as_node(joined.cluster_id, joined.node_id);
        self.introduced = joined.members;
        self.become_node(identity)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::disk::OsDisk;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it opens a directory to all")]
    fn a_directory_that_others_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let chmod = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), mode).unwrap();
        };
        let open = || Directory::open(Arc::new(OsDisk), dir.path(), "n1", &Random::seeded(1));
        chmod(0o777);
        let refused = open().unwrap_err();
        assert!(matches!(refused, Error::Exposed { mode: 0o777, .. }));
        let told = refused.to_string();
        assert!(
            told.contains(&format!("chmod go-w {}", dir.path().display())),
            "{told}"
        );
        chmod(0o755);
        open().unwrap();
    }
}
