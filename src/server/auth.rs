//! Who calls, and what the policy lets them do.
//!
//! The subject is the common name of the client's certificate. A policy is a file of lines
//! `p, SUBJECT, OBJECT, ACTION`, as the original's: what no line allows is denied. Without a
//! policy every client whose certificate is good may do everything.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::net::mux::PeerInfo;

use super::status;

/// How often the log tells of denied calls. Anybody can make any number of them, and must not fill the log.
const DENIALS_EVERY: Duration = Duration::from_secs(1);

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Append records.
    Produce,
    /// Read records.
    Consume,
    /// Move consumers' named positions.
    Commit,
    /// Change the cluster.
    Admin,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Commit => "commit",
            Self::Admin => "admin",
        }
    }

    fn new(name: &str) -> Option<Self> {
        [Self::Produce, Self::Consume, Self::Commit, Self::Admin]
            .into_iter()
            .find(|action| action.name() == name)
    }
}

/// The rights of subjects.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `None`: everybody may do everything.
    allowed: Option<HashSet<(String, Action)>>,
    denials: Arc<Mutex<Denials>>,
}

/// Calls that were denied since the log told of one.
#[derive(Debug, Default)]
struct Denials {
    told: Option<Instant>,
    untold: u64,
}

impl Denials {
    /// Counts a denied call. Gives how many were not told yet, if it is time for a line in the log.
    fn one_more(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.told.is_some_and(|told| now < told + DENIALS_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// A line of a policy that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the policy: {what}; a line reads `p, SUBJECT, *, produce|consume|commit|admin`"
)]
pub struct PolicyError {
    line: usize,
    what: String,
}

impl Policy {
    /// Reads a policy; empty lines and lines that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut allowed = HashSet::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let failed = |what: String| PolicyError {
                line: number + 1,
                what,
            };
            let fields: Vec<_> = line.split(',').map(str::trim).collect();
            let ["p", subject, object, action] = fields[..] else {
                return Err(failed(
                    "it does not have the four fields of a rule".to_owned(),
                ));
            };
            if object != "*" {
                return Err(failed(format!(
                    "there is one log, so the object is *, not {object:?}"
                )));
            }
            let known = Action::new(action);
            let action = known.ok_or_else(|| failed(format!("{action:?} is no action")))?;
            allowed.insert((subject.to_owned(), action));
        }
        Ok(Self {
            allowed: Some(allowed),
            denials: Arc::default(),
        })
    }

    /// Lets a call pass whose subject has one of these rights, or says why not. A call that needs no right is
    /// open to everybody.
    pub fn check_any(&self, peer: Option<&PeerInfo>, actions: &[Action]) -> Result<(), Status> {
        let Some((&action, others)) = actions.split_first() else {
            return Ok(());
        };
        let is_allowed = |&other: &Action| self.allows(peer, other);
        if others.iter().any(is_allowed) {
            return Ok(());
        }
        self.check(peer, action)
    }

    fn allows(&self, peer: Option<&PeerInfo>, action: Action) -> bool {
        let subject = peer.and_then(certified);
        self.allowed.as_ref().is_none_or(|allowed| {
            subject.is_some_and(|subject| allowed.contains(&(subject.to_owned(), action)))
        })
    }

    /// Lets a call pass, or says why not.
    pub fn check(&self, peer: Option<&PeerInfo>, action: Action) -> Result<(), Status> {
        if self.allows(peer, action) {
            return Ok(());
        }
        let subject = peer.and_then(certified);
        let subject = subject.ok_or_else(status::unauthenticated)?;
        let action = action.name();
        match self.denials.lock().one_more() {
            Some(untold) => tracing::warn!(%subject, action, untold, "denied by the policy"),
            None => tracing::debug!(%subject, action, "denied by the policy"),
        }
        Err(status::denied(subject, action))
    }
}

/// The name in the caller's certificate, empty without one. Sessions, fences and cursors belong to the name
/// that made them.
pub fn subject<T>(request: &Request<T>) -> &str {
    let peer = request.extensions().get::<PeerInfo>();
    peer.and_then(certified).unwrap_or_default()
}

fn certified(peer: &PeerInfo) -> Option<&str> {
    peer.identity.as_ref()?.common_name.as_deref()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::net::identity::Identity;

    fn peer(name: Option<&str>) -> PeerInfo {
        let identity = name.map(|name| Identity {
            common_name: Some(name.to_owned()),
            ..Identity::default()
        });
        PeerInfo::new(String::new(), identity, name.is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn denied_calls_do_not_fill_the_log() {
        let mut denials = Denials::default();
        let mut lines = Vec::new();
        for _ in 0..100 {
            lines.extend(denials.one_more());
        }
        assert_eq!(lines, [0]);
        tokio::time::advance(DENIALS_EVERY).await;
        lines.extend(denials.one_more());
        assert_eq!(lines, [0, 99]);
    }

    #[test]
    fn what_no_line_allows_is_denied() {
        let policy = Policy::parse("# ours\np, root, *, produce\n\np,root,*,consume\n").unwrap();
        let check = |name, action| policy.check(Some(&peer(name)), action);
        assert!(check(Some("root"), Action::Produce).is_ok());
        assert!(check(Some("root"), Action::Consume).is_ok());
        let code = |name, action| check(name, action).unwrap_err().code();
        assert_eq!(code(Some("root"), Action::Admin), Code::PermissionDenied);
        let commit = code(Some("root"), Action::Commit);
        assert_eq!(commit, Code::PermissionDenied, "reading moves no cursor");
        assert_eq!(
            code(Some("nobody"), Action::Consume),
            Code::PermissionDenied
        );
        assert_eq!(code(None, Action::Consume), Code::Unauthenticated);
        assert!(Policy::default().check(None, Action::Admin).is_ok());
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in [
            "p, root, *",
            "g, root, *, produce",
            "p, root, x, produce",
            "p, r, *, fly",
        ] {
            let error = Policy::parse(&format!("\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
