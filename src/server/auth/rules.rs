//! What a call does and what it is about; the lines of a policy, and what those of one subject come to.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::name::{self, Shown};

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
    pub const ALL: [Self; 5] = [
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

    pub fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub fn meets(self, needed: Self) -> bool {
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

/// A line of a policy that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the policy: {what}; a line reads `p, SUBJECT, LOG|PREFIX*|*, produce|consume|commit|admin|metrics`"
)]
pub struct PolicyError {
    pub(super) line: usize,
    what: String,
}

/// A line of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Its number, from 1 on.
    pub line: usize,
    pub text: &'a str,
    pub(super) subject: &'a str,
    pub(super) object: &'a str,
    pub(super) action: Action,
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

/// What the lines of one subject allow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Grants {
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
    /// How many lengths the prefixes have.
    #[cfg(test)]
    pub fn lengths(&self) -> usize {
        self.prefix_lengths.len()
    }

    pub fn add(&mut self, object: &str, actions: Actions) {
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

    pub fn allow(&self, needed: Actions, on: On<'_>) -> bool {
        match on {
            // A line for all logs is for those of users. Whoever administers everything has the system's, too.
            On::Name(name) if name::is_of_system(name) => {
                self.everywhere.meets(Action::Admin.into()) || self.allow_name(needed, name)
            }
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
