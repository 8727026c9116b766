//! Who besides this process may read or change a file, by its owner, its group and its mode.
//!
//! This process is trusted with what is its user's, and so is root. A group counts as ours if this
//! process is in it: so a key of `root:ferrolog` with mode 0440 is fine, as are the files that
//! Kubernetes gives to a pod's `fsGroup`. An access list (systemd's credentials) shows as the rights
//! of the file's group, which is then root's.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

const ROOT: u32 = 0;
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;

/// The user and the groups that this process runs as.
#[derive(Debug, Clone)]
pub struct Us {
    uid: u32,
    groups: Vec<u32>,
}

/// Whose a file is, and what they may do.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl From<&Metadata> for Rights {
    fn from(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        }
    }
}

impl Us {
    /// As whom this process runs.
    pub fn now() -> Self {
        let mut groups = rustix::process::getgroups().unwrap_or_default();
        groups.push(rustix::process::getegid());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
        }
    }

    /// Whether somebody else may change the file.
    pub fn shares_writing(&self, rights: Rights) -> bool {
        self.shares(rights, WRITE)
    }

    /// Whether somebody else may read a secret, or anybody but its owner change it.
    pub fn shares_secret(&self, rights: Rights) -> bool {
        self.shares(rights, READ | WRITE) || rights.mode & (WRITE << 3) != 0
    }

    /// Whether the file is another user's, who may do with it as he likes.
    pub fn is_anothers(&self, rights: Rights) -> bool {
        rights.uid != self.uid && rights.uid != ROOT
    }

    fn shares(&self, rights: Rights, what: u32) -> bool {
        let ours = rights.gid == ROOT || self.groups.contains(&rights.gid);
        let by_group = !ours && rights.mode & (what << 3) != 0;
        self.is_anothers(rights) || by_group || rights.mode & what != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u32 = 1000;
    const OURS: u32 = 1001;
    const THEIRS: u32 = 1002;

    fn us() -> Us {
        Us {
            uid: US,
            groups: vec![OURS],
        }
    }

    fn rights(uid: u32, gid: u32, mode: u32) -> Rights {
        Rights { uid, gid, mode }
    }

    #[test]
    fn a_secret_is_for_us_and_our_groups() {
        let fine = [
            (US, OURS, 0o600),
            (US, THEIRS, 0o400),
            (ROOT, OURS, 0o440),
            (ROOT, OURS, 0o640),
            // As systemd's credentials look, with an access list.
            (ROOT, ROOT, 0o440),
            // As a secret's file looks in a pod with an fsGroup.
            (ROOT, OURS, 0o440),
        ];
        for (uid, gid, mode) in fine {
            assert!(!us().shares_secret(rights(uid, gid, mode)), "{mode:o}");
        }
        let shared = [
            (US, OURS, 0o604),
            (US, OURS, 0o602),
            (US, OURS, 0o660),
            (US, THEIRS, 0o640),
            (ROOT, OURS, 0o444),
            (THEIRS, OURS, 0o600),
        ];
        for (uid, gid, mode) in shared {
            assert!(us().shares_secret(rights(uid, gid, mode)), "{mode:o}");
        }
    }

    #[test]
    fn a_directory_is_changed_by_us_and_our_groups() {
        for (uid, gid, mode) in [
            (US, OURS, 0o700),
            (US, THEIRS, 0o755),
            (US, OURS, 0o775),
            (ROOT, OURS, 0o2775),
        ] {
            assert!(!us().shares_writing(rights(uid, gid, mode)), "{mode:o}");
        }
        for (uid, gid, mode) in [
            (US, OURS, 0o777),
            (ROOT, ROOT, 0o1777),
            (US, THEIRS, 0o775),
            (THEIRS, OURS, 0o700),
        ] {
            assert!(us().shares_writing(rights(uid, gid, mode)), "{mode:o}");
        }
    }
}
