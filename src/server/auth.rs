//! Who calls, and what the policy lets them do, to which log.
//!
//! The subject is the common name of the client's certificate. A policy is a file of lines
//! `p, SUBJECT, OBJECT, ACTION`, as the original's: what no line allows is denied. The object is a log's name, the
//! beginning of names with `*` behind it, or `*`, which is every log and the cluster besides. Without a policy every
//! client whose certificate is good may do everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::net::mux::PeerInfo;
use crate::raft::{Note, Origin};

use super::audit::Audit;
use super::status;

mod rules;

use rules::Grants;
pub use rules::{Action, Actions, On, PolicyError, Rule};

/// How often the log tells of denied calls. Anybody can make any number of them, and must not fill the log.
const DENIALS_EVERY: Duration = Duration::from_secs(1);

/// What each subject may do.
type Subjects = Arc<HashMap<String, Grants>>;

/// The rights of subjects. Clones share them, and what is taken up later.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// By subject; `None`: everybody may do everything.
    allowed: Arc<RwLock<Option<Subjects>>>,
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
    /// Reads a policy; see [`Rule::all`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut allowed: HashMap<String, Grants> = HashMap::new();
        for rule in Rule::all(text) {
            let rule = rule?;
            let grants = allowed.entry(rule.subject.to_owned()).or_default();
            grants.add(rule.object, rule.action.into());
        }
        Ok(Self {
            allowed: Arc::new(RwLock::new(Some(Arc::new(allowed)))),
            denials: Arc::default(),
            audit: Audit::default(),
        })
    }

    /// What is told beside the changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Takes up what another one says, for this one and all its clones. Gives whether the rights of a subject differ.
    pub fn take_up(&self, other: &Self) -> impl Fn(&str) -> bool + Send + Sync + use<> {
        let new = other.allowed.read().clone();
        let old = std::mem::replace(&mut *self.allowed.write(), new.clone());
        move |subject| match (&old, &new) {
            (Some(old), Some(new)) => old.get(subject) != new.get(subject),
            (old, new) => old.is_some() != new.is_some(),
        }
    }

    /// What the caller of this verb may do.
    pub fn of(&self, peer: Option<&PeerInfo>, verb: &str) -> Rights {
        let subject = peer.and_then(certified);
        let origin = Origin {
            subject: subject.unwrap_or_default().to_owned(),
            address: peer.map(|peer| peer.addr.clone()).unwrap_or_default(),
            verb: verb.to_owned(),
            ..Origin::default()
        };
        Rights {
            policy: self.clone(),
            is_certified: subject.is_some(),
            origin: Arc::new(origin),
        }
    }

    fn allows(&self, subject: Option<&str>, needed: Actions, on: On<'_>) -> bool {
        self.allowed.read().as_ref().is_none_or(|allowed| {
            let grants = subject.and_then(|subject| allowed.get(subject));
            grants.is_some_and(|grants| grants.allow(needed, on))
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
    is_certified: bool,
    origin: Arc<Origin>,
}

impl Rights {
    /// The name in the caller's certificate; empty without one.
    pub fn subject(&self) -> &str {
        &self.origin.subject
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

    fn certified(&self) -> Option<&str> {
        self.is_certified.then_some(&*self.origin.subject)
    }

    /// Whether the caller may do one of these things to a log of this name. Nothing is told of a denial: a reader
    /// of many logs passes over those that it may not read.
    pub fn may(&self, needed: impl Into<Actions>, name: &str) -> bool {
        let on = On::Name(name);
        self.policy.allows(self.certified(), needed.into(), on)
    }

    /// Lets a call pass, or says why not.
    pub fn check(&self, needed: impl Into<Actions>, on: On<'_>) -> Result<(), Status> {
        let needed = needed.into();
        let subject = self.certified();
        if self.policy.allows(subject, needed, on) {
            return Ok(());
        }
        let denied = match subject {
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
            [On::Name("x"), On::Cluster, On::Some]
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
            assert_eq!(rights.check(action, On::Name(name)).is_ok(), may);
        }
        assert!(rights.may(Actions::ANY, "orders") && !rights.may(Actions::ANY, "bills"));
        for action in Action::ALL {
            let denied = rights.check(action, On::Cluster).unwrap_err();
            assert_eq!(denied.code(), Code::PermissionDenied, "{action:?}");
            let some = rights.check(action, On::Some).is_ok();
            let is_none = [Action::Admin, Action::Metrics].contains(&action);
            assert_eq!(some, !is_none, "{action:?}");
        }
        let denied = rights.check(Action::Admin, On::Name("orders")).unwrap_err();
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
        let allowed = policy.allowed.read().clone().unwrap();
        let grants = &allowed["a"];
        assert_eq!(grants.lengths(), 5, "a look for each length");
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
        ] {
            let error = Policy::parse(&format!("\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }
}
