//! Who calls, and what the policy lets them do, to which log.
//!
//! The subject is the common name of the client's certificate. A policy is a file of lines
//! `p, SUBJECT, OBJECT, ACTION`, as the original's: what no line allows is denied. The object is a log's name, the
//! beginning of names with `*` behind it, or `*`, which is every log and the cluster besides. Without a policy every
//! client whose certificate is good may do everything.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::name::{self, Shown};
use crate::net::mux::PeerInfo;

use super::status;

/// How often the log tells of denied calls. Anybody can make any number of them, and must not fill the log.
const DENIALS_EVERY: Duration = Duration::from_secs(1);
/// Stands for all names, and at the end of an object for all that begin so.
const ALL: char = '*';

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Append records.
    Produce,
    /// Read records.
    Consume,
    /// Move consumers' named positions.
    Commit,
    /// Make, change, trim and delete logs; change the cluster.
    Admin,
    /// Read what a node tells of itself over plain HTTP.
    Metrics,
}

impl Action {
    const ALL: [Self; 5] = [
        Self::Produce,
        Self::Consume,
        Self::Commit,
        Self::Admin,
        Self::Metrics,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Commit => "commit",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }

    /// The action of this name.
    pub fn new(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// Some actions: those that were granted, or those of which a call needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions(u8);

impl Actions {
    /// Whoever has any right on a log may see that it is there. To read metrics is none.
    pub const ANY: Self = Self(0b1111);

    fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    fn meets(self, needed: Self) -> bool {
        self.0 & needed.0 != 0
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(1 << action as u8)
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let bits = actions.into_iter().map(|action| Self::from(action).0);
        Self(bits.fold(0, |all, one| all | one))
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Action::ALL.into_iter();
        let names = names.filter(|action| self.meets((*action).into()));
        let names: Vec<_> = names.map(Action::name).collect();
        f.write_str(&names.join(" or "))
    }
}

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub enum On<'a> {
    /// A name: a log's, whether there is one or not, or a fence's.
    Name(&'a str),
    /// What belongs to no log: members, the sessions of others.
    Cluster,
    /// Some log: the call has not said yet which, or what it tells everybody may know who has a log.
    Some,
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "on {}", Shown(name)),
            Self::Cluster => f.write_str("on the cluster, which needs a line for *"),
            Self::Some => f.write_str("on any log"),
        }
    }
}

/// What the lines of one subject allow.
#[derive(Debug, Default, PartialEq, Eq)]
struct Grants {
    /// By lines for `*`.
    everywhere: Actions,
    /// By all lines.
    somewhere: Actions,
    by_name: HashMap<String, Actions>,
    by_prefix: HashMap<String, Actions>,
    /// Of the prefixes, so that a name is cut where a prefix may end and nowhere else.
    prefix_lengths: BTreeSet<usize>,
}

impl Grants {
    fn add(&mut self, object: &str, actions: Actions) {
        self.somewhere.add(actions);
        match object.strip_suffix(ALL) {
            Some("") => self.everywhere.add(actions),
            Some(prefix) => {
                self.prefix_lengths.insert(prefix.len());
                let granted = self.by_prefix.entry(prefix.to_owned()).or_default();
                granted.add(actions);
            }
            None => self
                .by_name
                .entry(object.to_owned())
                .or_default()
                .add(actions),
        }
    }

    fn allow(&self, needed: Actions, on: On<'_>) -> bool {
        match on {
            On::Some => self.somewhere.meets(needed),
            On::Cluster => self.everywhere.meets(needed),
            On::Name(name) => self.everywhere.meets(needed) || self.allow_name(needed, name),
        }
    }

    fn allow_name(&self, needed: Actions, name: &str) -> bool {
        let meets = |granted: Option<&Actions>| granted.is_some_and(|some| some.meets(needed));
        let mut prefixes = self.prefix_lengths.range(..=name.len());
        meets(self.by_name.get(name))
            || prefixes.any(|&length| {
                // No prefix ends inside of a character.
                let prefix = name.get(..length);
                meets(prefix.and_then(|prefix| self.by_prefix.get(prefix)))
            })
    }
}

/// What each subject may do.
type Subjects = Arc<HashMap<String, Grants>>;

/// The rights of subjects. Clones share them, and what is taken up later.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// By subject; `None`: everybody may do everything.
    allowed: Arc<RwLock<Option<Subjects>>>,
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
    "line {line} of the policy: {what}; a line reads `p, SUBJECT, LOG|PREFIX*|*, produce|consume|commit|admin|metrics`"
)]
pub struct PolicyError {
    line: usize,
    what: String,
}

/// A line of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Its number, from 1 on.
    pub line: usize,
    pub text: &'a str,
    subject: &'a str,
    object: &'a str,
    action: Action,
}

impl<'a> Rule<'a> {
    fn new(line: usize, text: &'a str) -> Result<Self, PolicyError> {
        let failed = |what: String| PolicyError { line, what };
        let fields: Vec<_> = text.split(',').map(str::trim).collect();
        let ["p", subject, object, action] = fields[..] else {
            let what = "it does not have the four fields of a rule";
            return Err(failed(what.to_owned()));
        };
        let name = object.strip_suffix(ALL).filter(|name| !name.is_empty());
        if object != "*" {
            let checked = name::check(name.unwrap_or(object));
            checked.map_err(|bad| failed(format!("the object: {bad}, not {object:?}")))?;
        }
        let known = Action::new(action);
        let action = known.ok_or_else(|| failed(format!("{action:?} is no action")))?;
        if action == Action::Metrics && object != "*" {
            let what = format!("metrics are of no log, so their object is *, not {object:?}");
            return Err(failed(what));
        }
        Ok(Self {
            line,
            text,
            subject,
            object,
            action,
        })
    }

    /// The rules of a policy; empty lines and lines that begin with `#` are none.
    pub fn all(text: &'a str) -> impl Iterator<Item = Result<Self, PolicyError>> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines.map(|(number, line)| Self::new(number, line))
    }

    /// Whether it allows a subject this.
    pub fn allows(&self, subject: &str, action: Action, on: On<'_>) -> bool {
        let mut grants = Grants::default();
        grants.add(self.object, self.action.into());
        self.subject == subject && grants.allow(action.into(), on)
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
        })
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

    /// What this caller may do.
    pub fn of(&self, peer: Option<&PeerInfo>) -> Rights {
        Rights {
            policy: self.clone(),
            subject: peer.and_then(certified).map(Arc::from),
        }
    }

    /// Lets a call pass whose subject has one of these rights on some log, or says why not. A call that needs no
    /// right is open to everybody.
    pub fn check_some(&self, peer: Option<&PeerInfo>, actions: &[Action]) -> Result<(), Status> {
        if actions.is_empty() {
            return Ok(());
        }
        let needed = actions.iter().copied().collect();
        self.check(peer.and_then(certified), needed, On::Some)
    }

    fn allows(&self, subject: Option<&str>, needed: Actions, on: On<'_>) -> bool {
        self.allowed.read().as_ref().is_none_or(|allowed| {
            let grants = subject.and_then(|subject| allowed.get(subject));
            grants.is_some_and(|grants| grants.allow(needed, on))
        })
    }

    fn check(&self, subject: Option<&str>, needed: Actions, on: On<'_>) -> Result<(), Status> {
        if self.allows(subject, needed, on) {
            return Ok(());
        }
        let subject = subject.ok_or_else(status::unauthenticated)?;
        match self.denials.lock().one_more() {
            Some(untold) => {
                tracing::warn!(%subject, action = %needed, %on, untold, "denied by the policy");
            }
            None => tracing::debug!(%subject, action = %needed, %on, "denied by the policy"),
        }
        Err(status::denied(subject, &needed.to_string(), on))
    }
}

/// What one caller may do, for as long as its call lasts.
#[derive(Debug, Clone)]
pub struct Rights {
    policy: Policy,
    subject: Option<Arc<str>>,
}

impl Rights {
    /// The name in the caller's certificate; empty without one.
    pub fn subject(&self) -> &str {
        self.subject.as_deref().unwrap_or_default()
    }

    /// Whether the caller may do one of these things to a log of this name. Nothing is told of a denial: a reader
    /// of many logs passes over those that it may not read.
    pub fn may(&self, needed: impl Into<Actions>, name: &str) -> bool {
        let on = On::Name(name);
        self.policy
            .allows(self.subject.as_deref(), needed.into(), on)
    }

    /// Lets a call pass, or says why not.
    pub fn check(&self, needed: impl Into<Actions>, on: On<'_>) -> Result<(), Status> {
        self.policy
            .check(self.subject.as_deref(), needed.into(), on)
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
        policy.of(Some(&peer(Some(name))))
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
            let rights = policy.of(Some(&peer(name)));
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
        let open = Policy::default().of(None);
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
        assert_eq!(grants.prefix_lengths.len(), 5, "a look for each length");
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
