//! What a call does, and what it is about.

use std::fmt;

use crate::name::Shown;

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
    /// A log's name, whether there is one or not.
    Log(&'a str),
    /// The name of a fence.
    Fence(&'a str),
    /// The name of a cursor, of a log or of selections.
    Cursor {
        /// The log's name; `None` if it is of selections.
        log: Option<&'a str>,
        name: &'a str,
    },
    /// What belongs to no log: members, the sessions of others.
    Cluster,
    /// Some log: the call has not said yet which, or what it tells everybody may know who has a log.
    Some,
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(name) => write!(f, "on {}", Shown(name)),
            Self::Fence(name) => write!(f, "on the fence {}", Shown(name)),
            Self::Cursor {
                log: Some(log),
                name,
            } => write!(f, "on the cursor {} of {}", Shown(name), Shown(log)),
            Self::Cursor { log: None, name } => {
                write!(f, "on the cursor {} of selections", Shown(name))
            }
            Self::Cluster => f.write_str("on the cluster, which needs a line for * or cluster"),
            Self::Some => f.write_str("on any log"),
        }
    }
}
