//! Who calls, and what the policy lets them do.
//!
//! The subject is the common name of the client's certificate. A policy is a file of lines
//! `p, SUBJECT, OBJECT, ACTION`, as the original's: what no line allows is denied. Without a
//! policy every client whose certificate is good may do everything.

use std::collections::HashSet;

use tonic::{Request, Status};

use crate::net::mux::PeerInfo;

use super::status;

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

/// What subjects may do.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `None`: everybody may do everything.
    allowed: Option<HashSet<(String, Action)>>,
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
        })
    }

    /// Lets a call pass, or says why not.
    pub fn check<T>(&self, request: &Request<T>, action: Action) -> Result<(), Status> {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        let subject = certified(request).ok_or_else(status::unauthenticated)?;
        if allowed.contains(&(subject.to_owned(), action)) {
            return Ok(());
        }
        tracing::warn!(%subject, action = action.name(), "denied by the policy");
        Err(status::denied(subject, action.name()))
    }
}

/// Who calls: the name in its certificate, or nothing without one. What a caller begins is its own.
pub fn subject<T>(request: &Request<T>) -> &str {
    certified(request).unwrap_or_default()
}

fn certified<T>(request: &Request<T>) -> Option<&str> {
    let peer = request.extensions().get::<PeerInfo>()?;
    peer.identity.as_ref()?.common_name.as_deref()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::net::tls::Identity;

    fn request(name: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        let identity = name.map(|name| Identity {
            common_name: Some(name.to_owned()),
            node_name: None,
        });
        let info = PeerInfo::new(String::new(), identity, name.is_some());
        request.extensions_mut().insert(info);
        request
    }

    #[test]
    fn what_no_line_allows_is_denied() {
        let policy = Policy::parse("# ours\np, root, *, produce\n\np,root,*,consume\n").unwrap();
        assert!(
            policy
                .check(&request(Some("root")), Action::Produce)
                .is_ok()
        );
        assert!(
            policy
                .check(&request(Some("root")), Action::Consume)
                .is_ok()
        );
        let code = |name, action| policy.check(&request(name), action).unwrap_err().code();
        assert_eq!(code(Some("root"), Action::Admin), Code::PermissionDenied);
        let commit = code(Some("root"), Action::Commit);
        assert_eq!(commit, Code::PermissionDenied, "reading moves no cursor");
        assert_eq!(
            code(Some("nobody"), Action::Consume),
            Code::PermissionDenied
        );
        assert_eq!(code(None, Action::Consume), Code::Unauthenticated);
        assert!(
            Policy::default()
                .check(&request(None), Action::Admin)
                .is_ok()
        );
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
