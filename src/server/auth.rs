//! Who calls, and what the policy lets them do, to what.
//!
//! The subject is the common name of the client's certificate, or a URI among its alternative names, as
//! `spiffe://prod/billing`. What a policy's lines say is in `rules`. Without a policy every client whose certificate is good
//! may do everything.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::net::identity::Identity;
use crate::net::mux::PeerInfo;
use crate::raft::{Note, Origin};
use crate::spans::Trace;

use super::audit::Audit;
use super::status;

mod action;
mod rules;

pub use action::{Action, Actions, On};
use rules::Table;
pub use rules::{Lines, PolicyError};

/// How often the log tells of denied calls. Anybody can make any number of them, and must not fill the log.
const DENIALS_EVERY: Duration = Duration::from_secs(1);

/// The rights of subjects. Clones share them, and what is taken up later.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// By subject; `None`: everybody may do everything.
    allowed: Arc<RwLock<Option<Arc<Table>>>>,
    denials: Arc<Mutex<Denials>>,
    /// Where denials are told.
    audit: Audit,
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

impl Policy {
    /// Reads a policy; see [`Lines::parse`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let table = Table::new(&Lines::parse(text)?);
        Ok(Self {
            allowed: Arc::new(RwLock::new(Some(Arc::new(table)))),
            denials: Arc::default(),
            audit: Audit::default(),
        })
    }

    /// What is told beside the changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Takes up what another one says, for this one and all its clones.
    pub fn take_up(&self, other: &Self) {
        let new = other.allowed.read().clone();
        *self.allowed.write() = new;
    }

    /// Tells, each time that it is asked, whether what a peer may do is no longer what it was.
    pub fn watch(&self, identity: &Identity) -> impl FnMut() -> bool + Send + Sync + use<> {
        let (policy, identity) = (self.clone(), identity.clone());
        let mut known = self.allowed.read().clone();
        move || {
            let now = policy.allowed.read().clone();
            let differs = match (&known, &now) {
                (Some(known), Some(now)) => !known.grant_alike(now, identity.names()),
                (known, now) => known.is_some() != now.is_some(),
            };
            // Otherwise each connection would keep the policy of the day that it began.
            known = now;
            differs
        }
    }

    /// What the caller of this verb may do.
    pub fn of(&self, peer: Option<&PeerInfo>, verb: &str) -> Rights {
        let identity = peer.and_then(|peer| peer.identity.as_ref());
        let subject = identity.and_then(|identity| identity.subject());
        let origin = Origin {
            subject: subject.unwrap_or_default().to_owned(),
            address: peer.map(|peer| peer.addr.clone()).unwrap_or_default(),
            verb: verb.to_owned(),
            ..Origin::default()
        };
        Rights {
            policy: self.clone(),
            identity: identity.cloned(),
            origin: Arc::new(origin),
        }
    }

    fn allows(&self, identity: Option<&Identity>, needed: Actions, on: On<'_>) -> bool {
        self.allowed.read().as_ref().is_none_or(|table| {
            identity.is_some_and(|identity| table.allows(identity.names(), needed, on))
        })
    }

    /// A call was denied: the log tells of one in a while, the log of changes of each kind.
    fn deny(&self, origin: &Origin, denied: Status) -> Status {
        self.audit.denied(origin, denied.message());
        let Origin {
            subject,
            address,
            verb,
            ..
        } = origin;
        let reason = denied.message();
        match self.denials.lock().one_more() {
            Some(untold) => {
                tracing::warn!(%subject, %address, %verb, reason, untold, "denied by the policy");
            }
            None => tracing::debug!(%subject, %address, %verb, reason, "denied by the policy"),
        }
        denied
    }
}

/// What one caller may do, for as long as its call lasts.
#[derive(Debug, Clone)]
pub struct Rights {
    policy: Policy,
    /// What its certificate calls it.
    identity: Option<Arc<Identity>>,
    origin: Arc<Origin>,
}

impl Rights {
    /// The name in the caller's certificate; empty without one.
    pub fn subject(&self) -> &str {
        &self.origin.subject
    }

    /// The same for a call that somebody traces: the spans of what is done for it hang there.
    pub fn traced(mut self, trace: &Trace) -> Self {
        Arc::make_mut(&mut self.origin).trace = trace.clone();
        self
    }

    /// Who calls, and what.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Has it told, beside the changes, what became of one.
    pub fn note(&self, change: &str, outcome: &str, reason: &str) {
        self.policy.audit.note(Note {
            origin: Origin::clone(&self.origin),
            change: change.to_owned(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            count: 1,
        });
    }

    /// The same of one that many others may be like.
    pub fn tell_counted(&self, outcome: &str, reason: &str) {
        self.policy.audit.counted(&self.origin, outcome, reason);
    }

    /// Whether the caller may do one of these things to a log of this name. Nothing is told of a denial: a reader
    /// of many logs passes over those that it may not read.
    pub fn may(&self, needed: impl Into<Actions>, name: &str) -> bool {
        self.may_on(needed, On::Log(name))
    }

    /// The same for what is not a log.
    pub fn may_on(&self, needed: impl Into<Actions>, on: On<'_>) -> bool {
        let identity = self.identity.as_deref();
        self.policy.allows(identity, needed.into(), on)
    }

    /// Lets a call pass, or says why not.
    pub fn check(&self, needed: impl Into<Actions>, on: On<'_>) -> Result<(), Status> {
        let needed = needed.into();
        let identity = self.identity.as_deref();
        if self.policy.allows(identity, needed, on) {
            return Ok(());
        }
        let denied = match identity.and_then(Identity::subject) {
            Some(subject) => status::denied(subject, &needed.to_string(), on),
            None => status::unauthenticated(),
        };
        Err(self.policy.deny(&self.origin, denied))
    }

    /// Lets a call pass whose caller may do one of these things to some log. A call that needs no right is open to
    /// everybody.
    pub fn check_some(&self, actions: &[Action]) -> Result<(), Status> {
        if actions.is_empty() {
            return Ok(());
        }
        self.check(actions.iter().copied().collect::<Actions>(), On::Some)
    }
}

/// The name in the caller's certificate, empty without one. Sessions, fences and cursors belong to the name
/// that made them.
pub fn subject<T>(request: &Request<T>) -> &str {
    let peer = request.extensions().get::<PeerInfo>();
    peer.and_then(certified).unwrap_or_default()
}

fn certified(peer: &PeerInfo) -> Option<&str> {
    peer.identity.as_ref()?.subject()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn peer(name: Option<&str>) -> PeerInfo {
        let identity = name.map(|name| Identity {
            common_name: Some(name.to_owned()),
            ..Identity::default()
        });
        PeerInfo::new(String::new(), identity, name.is_some())
    }

    fn rights(policy: &Policy, name: &str) -> Rights {
        policy.of(Some(&peer(Some(name))), "")
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
        let check = |name, action| {
            let rights = policy.of(Some(&peer(name)), "");
            [On::Log("x"), On::Cluster, On::Some]
                .map(|on| rights.check(action, on))
                .into_iter()
                .reduce(|one, other| {
                    assert_eq!(one.is_ok(), other.is_ok(), "* is everything");
                    other
                })
                .unwrap()
        };
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
        let open = Policy::default().of(None, "");
        assert!(open.check(Action::Admin, On::Cluster).is_ok());
    }

    #[test]
    fn a_common_name_that_reads_as_a_uri_is_nobody() {
        let policy = Policy::parse("p, spiffe://prod/billing, *, produce\n").unwrap();
        let check = |common_name: Option<&str>, uris: &[&str]| {
            let identity = Identity {
                common_name: common_name.map(str::to_owned),
                uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
                ..Identity::default()
            };
            let peer = PeerInfo::new(String::new(), Some(identity), true);
            let rights = policy.of(Some(&peer), "");
            let checked = rights.check(Action::Produce, On::Log("x"));
            (
                rights.subject().to_owned(),
                checked.map_err(|denied| denied.code()),
            )
        };
        let uri = "spiffe://prod/billing";
        assert_eq!(check(None, &[uri]), (uri.to_owned(), Ok(())));
        assert_eq!(check(Some("ann"), &[uri]), ("ann".to_owned(), Ok(())));
        let nobody = Err(Code::Unauthenticated);
        assert_eq!(check(Some(uri), &[]), (String::new(), nobody));
        assert_eq!(check(Some(""), &[]), (String::new(), nobody));
        let other = check(Some(uri), &["spiffe://prod/other"]);
        assert_eq!(other.1, Err(Code::PermissionDenied));
    }

    #[test]
    fn a_line_is_for_a_log_or_for_those_that_begin_so() {
        let lines = "p, a, orders, produce\np, a, orders/*, consume\np, a, \u{e9}t\u{e9}/*, commit\n\
                     p, a, orders/eu/*, produce\np, b, default, consume\n";
        let policy = Policy::parse(lines).unwrap();
        let rights = rights(&policy, "a");
        for (action, name, may) in [
            (Action::Produce, "orders", true),
            (Action::Consume, "orders", false),
            (Action::Produce, "orders2", false),
            (Action::Produce, "order", false),
            (Action::Consume, "orders/", true),
            (Action::Consume, "orders/us/1", true),
            (Action::Produce, "orders/us/1", false),
            (Action::Produce, "orders/eu/1", true),
            (Action::Consume, "orders/eu/1", true),
            (Action::Commit, "\u{e9}t\u{e9}/1", true),
            // As long as a prefix in the middle of a character.
            (Action::Commit, "orders\u{e9}\u{e9}", false),
            (Action::Consume, "default", false),
            (Action::Admin, "orders", false),
        ] {
            assert_eq!(rights.may(action, name), may, "{action:?} {name}");
            assert_eq!(rights.check(action, On::Log(name)).is_ok(), may);
        }
        assert!(rights.may(Actions::ANY, "orders") && !rights.may(Actions::ANY, "bills"));
        for action in Action::ALL {
            let denied = rights.check(action, On::Cluster).unwrap_err();
            assert_eq!(denied.code(), Code::PermissionDenied, "{action:?}");
            let some = rights.check(action, On::Some).is_ok();
            let is_none = [Action::Admin, Action::Metrics].contains(&action);
            assert_eq!(some, !is_none, "{action:?}");
        }
        let denied = rights.check(Action::Admin, On::Log("orders")).unwrap_err();
        let told = denied.message();
        assert!(told.contains("\"a\" admin on \"orders\""), "{told}");
    }

    #[test]
    fn thousands_of_lines_are_no_slower_to_look_up_than_a_few() {
        let mut lines = String::new();
        for number in 0..20_000 {
            lines += &format!("p, a, log-{number}, produce\np, a, p{number}/*, consume\n");
        }
        let policy = Policy::parse(&lines).unwrap();
        let rights = rights(&policy, "a");
        assert!(rights.may(Action::Produce, "log-19999"));
        assert!(rights.may(Action::Consume, "p19999/x"));
        assert!(!rights.may(Action::Consume, "p20000/x"));
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in [
            "p, root, *",
            "g, root, *, produce",
            "p, root, , produce",
            "p, root, a\u{7}, produce",
            "p, r, *, fly",
            "p, r, orders, metrics",
            "p, r, log:orders, metrics",
            "p, r, orders, produce|fly",
            "p, role:, orders, produce",
            "g, ann, billing",
            "g, role:a, role:b",
        ] {
            let error = Policy::parse(&format!("\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
