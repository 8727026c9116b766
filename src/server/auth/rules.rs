//! The lines of a policy, and what they come to: who may do what, on what.
//!
//! `p, SUBJECT, OBJECT, ACTIONS` gives a right, `g, SUBJECT, role:ROLE` makes a subject one of a role, which stands in lines
//! as a subject does. What no line allows is denied, so the order of lines means nothing.

use std::collections::{BTreeSet, HashMap};

use crate::name;
use crate::net::identity::is_uri;

use super::action::{Action, Actions, On};

/// Stands for all names, and at the end of an object for all that begin so.
const ALL: char = '*';
/// What begins the name of a role.
const ROLE: &str = "role:";
/// The object that belongs to no log.
const CLUSTER: &str = "cluster";

/// A line of a policy that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the policy: {what}; a line reads `p, SUBJECT, OBJECT, ACTIONS` or `g, SUBJECT, role:ROLE`: \
     `ferrolog policy check --help` tells more"
)]
pub struct PolicyError {
    pub(super) line: usize,
    what: String,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object<'a> {
    All,
    Cluster,
    /// A log of this name, and what else has it.
    Named(&'a str),
    Log(&'a str),
    Cursor(&'a str),
    Fence(&'a str),
}

/// A line that gives a right.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Its number, from 1 on.
    pub line: usize,
    pub text: &'a str,
    subject: &'a str,
    object: Object<'a>,
    actions: Actions,
}

/// A line that makes a subject one of a role.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its number, from 1 on.
    pub line: usize,
    pub text: &'a str,
    subject: &'a str,
    role: &'a str,
}

/// All lines of a policy.
#[derive(Debug, Default)]
pub struct Lines<'a> {
    pub rules: Vec<Rule<'a>>,
    pub members: Vec<Member<'a>>,
}

/// The line that allows something, and the one by which its subject is one of the role that it is for.
pub type Decision<'l, 'a> = (&'l Rule<'a>, Option<&'l Member<'a>>);

impl<'a> Lines<'a> {
    /// Reads a policy; empty lines and lines that begin with `#` are none.
    ///
    /// # Errors
    ///
    /// A [`PolicyError`] names the first line that is none.
    pub fn parse(text: &'a str) -> Result<Self, PolicyError> {
        let mut all = Self::default();
        let lines = (1..).zip(text.lines().map(str::trim));
        for (line, text) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let failed = |what: String| PolicyError { line, what };
            let fields: Vec<_> = text.split(',').map(str::trim).collect();
            match fields[..] {
                ["p", subject, object, actions] => {
                    check_subject(subject).map_err(failed)?;
                    let object = Object::parse(object).map_err(failed)?;
                    let actions = actions_of(actions, object).map_err(failed)?;
                    all.rules.push(Rule {
                        line,
                        text,
                        subject,
                        object,
                        actions,
                    });
                }
                ["g", subject, role] => {
                    check_subject(subject).map_err(failed)?;
                    if subject.starts_with(ROLE) || !is_role(role) {
                        let what = "g makes a subject one of a role, and no role one of another";
                        return Err(failed(what.to_owned()));
                    }
                    all.members.push(Member {
                        line,
                        text,
                        subject,
                        role,
                    });
                }
                _ => {
                    let what = "it does not have the fields of a right or of a role";
                    return Err(failed(what.to_owned()));
                }
            }
        }
        Ok(all)
    }

    /// The first line that allows a subject this.
    pub fn deciding(&self, subject: &str, action: Action, on: On<'_>) -> Option<Decision<'_, 'a>> {
        let allowing = self.rules.iter().filter(|rule| {
            let mut grants = Grants::default();
            grants.add(rule.object, rule.actions);
            grants.allow(action.into(), on)
        });
        let mut decisions = allowing.filter_map(|rule| {
            if is_of(rule.subject, subject) {
                return Some((rule, None));
            }
            let of_role = |member: &&Member<'_>| {
                member.role == rule.subject && is_of(member.subject, subject)
            };
            let member = self.members.iter().find(of_role)?;
            Some((rule, Some(member)))
        });
        decisions.next()
    }
}

/// Whether a line's subject is this one. A role is nobody: it is no name of a certificate.
fn is_of(line: &str, subject: &str) -> bool {
    match line.strip_suffix(ALL) {
        Some(prefix) if is_uri(line) => subject.starts_with(prefix),
        _ => line == subject && !line.starts_with(ROLE),
    }
}

fn is_role(name: &str) -> bool {
    name.strip_prefix(ROLE)
        .is_some_and(|name| name::check(name).is_ok())
}

fn check_subject(subject: &str) -> Result<(), String> {
    if subject.is_empty() {
        return Err("the subject is missing".to_owned());
    }
    let is_fine = !subject.starts_with(ROLE) || is_role(subject);
    is_fine
        .then_some(())
        .ok_or_else(|| format!("{subject:?} is no name of a role"))
}

/// `produce`, `produce|consume`, or `*` for all that there are for the object.
fn actions_of(text: &str, object: Object<'_>) -> Result<Actions, String> {
    let of_cluster = matches!(object, Object::All | Object::Cluster);
    if text == "*" {
        let fitting = Action::ALL.into_iter();
        let fitting = fitting.filter(|action| of_cluster || *action != Action::Metrics);
        return Ok(fitting.collect());
    }
    let mut actions = Actions::default();
    for name in text.split('|').map(str::trim) {
        let action = Action::new(name).ok_or_else(|| format!("{name:?} is no action"))?;
        if action == Action::Metrics && !of_cluster {
            return Err("metrics are of no log, so their object is * or cluster".to_owned());
        }
        actions.add(action.into());
    }
    Ok(actions)
}

impl<'a> Object<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (object, name) = match text.split_once(':') {
            _ if text == "*" => return Ok(Self::All),
            _ if text == CLUSTER => return Ok(Self::Cluster),
            Some(("log", name)) => (Self::Log(name), name),
            Some(("cursor", name)) => (Self::Cursor(name), name),
            Some(("fence", name)) => (Self::Fence(name), name),
            _ => (Self::Named(text), text),
        };
        let begins = name.strip_suffix(ALL).filter(|begins| !begins.is_empty());
        if name != "*" {
            let checked = name::check(begins.unwrap_or(name));
            checked.map_err(|bad| format!("the object: {bad}, not {text:?}"))?;
        }
        Ok(object)
    }
}

/// Something by name, and by the beginnings of names.
#[derive(Debug, PartialEq, Eq)]
struct Named<V> {
    by_name: HashMap<String, V>,
    by_prefix: HashMap<String, V>,
    /// Of the prefixes, so that a name is cut where a prefix may end and nowhere else.
    prefix_lengths: BTreeSet<usize>,
}

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            by_prefix: HashMap::new(),
            prefix_lengths: BTreeSet::new(),
        }
    }
}

impl<V: Default> Named<V> {
    /// What is kept for a name, or for a beginning with `*` behind it.
    fn entry(&mut self, name: &str) -> &mut V {
        match name.strip_suffix(ALL) {
            Some(prefix) => {
                self.prefix_lengths.insert(prefix.len());
                self.by_prefix.entry(prefix.to_owned()).or_default()
            }
            None => self.by_name.entry(name.to_owned()).or_default(),
        }
    }

    /// What is kept for this name, and for its beginnings of at least so many bytes.
    fn of<'n>(&'n self, name: &'n str, least: usize) -> impl Iterator<Item = &'n V> {
        let prefixes = self
            .prefix_lengths
            .range(least.min(name.len())..=name.len());
        // No prefix ends inside of a character.
        let begun = prefixes.filter_map(move |&length| self.by_prefix.get(name.get(..length)?));
        self.by_name.get(name).into_iter().chain(begun)
    }
}

impl Named<Actions> {
    fn meet(&self, needed: Actions, name: &str) -> bool {
        self.of(name, 0).any(|granted| granted.meets(needed))
    }
}

/// What some lines allow.
#[derive(Debug, Default, PartialEq, Eq)]
struct Grants {
    /// By lines for `*`.
    everywhere: Actions,
    /// By all lines.
    somewhere: Actions,
    cluster: Actions,
    named: Named<Actions>,
    logs: Named<Actions>,
    cursors: Named<Actions>,
    fences: Named<Actions>,
}

impl Grants {
    fn add(&mut self, object: Object<'_>, actions: Actions) {
        self.somewhere.add(actions);
        let granted = match object {
            Object::All => &mut self.everywhere,
            Object::Cluster => &mut self.cluster,
            Object::Named(name) => self.named.entry(name),
            Object::Log(name) => self.logs.entry(name),
            Object::Cursor(name) => self.cursors.entry(name),
            Object::Fence(name) => self.fences.entry(name),
        };
        granted.add(actions);
    }

    fn allow(&self, needed: Actions, on: On<'_>) -> bool {
        let everywhere = self.everywhere.meets(needed);
        match on {
            On::Some => self.somewhere.meets(needed),
            On::Cluster => everywhere || self.cluster.meets(needed),
            On::Log(name) => self.allow_log(needed, name),
            On::Fence(name) => {
                everywhere || self.named.meet(needed, name) || self.fences.meet(needed, name)
            }
            On::Cursor { log, name } => {
                let by_log = match log {
                    Some(log) => self.allow_log(needed, log),
                    // One of selections belongs to no log.
                    None => everywhere || self.named.meet(needed, name),
                };
                by_log || self.cursors.meet(needed, name)
            }
        }
    }

    fn allow_log(&self, needed: Actions, name: &str) -> bool {
        // A line for all logs is for those of users. Whoever administers everything has the system's, too.
        let everywhere = match name::is_of_system(name) {
            true => self.everywhere.meets(Action::Admin.into()),
            false => self.everywhere.meets(needed),
        };
        // Nor does `log:*`, the beginning of all names, reach them.
        let least = usize::from(name::is_of_system(name));
        everywhere
            || self.named.meet(needed, name)
            || self
                .logs
                .of(name, least)
                .any(|granted| granted.meets(needed))
    }
}

/// What a subject has by its own lines, and the roles that it is one of.
#[derive(Debug, Default)]
struct Held {
    own: Grants,
    roles: BTreeSet<String>,
}

/// What each subject may do.
#[derive(Debug, Default)]
pub struct Table {
    subjects: Named<Held>,
    roles: HashMap<String, Grants>,
}

impl Table {
    pub fn new(lines: &Lines<'_>) -> Self {
        let mut table = Self::default();
        for rule in &lines.rules {
            let grants = match rule.subject.starts_with(ROLE) {
                true => table.roles.entry(rule.subject.to_owned()).or_default(),
                false => &mut table.held(rule.subject).own,
            };
            grants.add(rule.object, rule.actions);
        }
        for member in &lines.members {
            let role = member.role.to_owned();
            table.held(member.subject).roles.insert(role);
        }
        table
    }

    /// Only URIs go by their beginnings: a common name may end with any character.
    fn held(&mut self, subject: &str) -> &mut Held {
        match is_uri(subject) {
            true => self.subjects.entry(subject),
            false => self.subjects.by_name.entry(subject.to_owned()).or_default(),
        }
    }

    /// All that a name of a certificate is granted.
    fn grants<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t Grants> {
        self.subjects.of(name, 0).flat_map(|held| {
            let of_role = |role: &String| self.roles.get(role);
            [&held.own]
                .into_iter()
                .chain(held.roles.iter().filter_map(of_role))
        })
    }

    /// Whether whoever has these names may do one of these things.
    pub fn allows<'n>(
        &'n self,
        names: impl Iterator<Item = &'n str>,
        needed: Actions,
        on: On<'_>,
    ) -> bool {
        let mut all = names.flat_map(|name| self.grants(name));
        all.any(|grants| grants.allow(needed, on))
    }

    /// Whether two policies grant the same to whoever has these names.
    pub fn grant_alike<'n>(
        &'n self,
        other: &'n Self,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> bool {
        let ours = names.clone().flat_map(|name| self.grants(name));
        let theirs = names.flat_map(|name| other.grants(name));
        ours.eq(theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
# people and programs
g, spiffe://prod/billing/*, role:billing
g, ann, role:billing
p, role:billing, log:orders/*, produce|consume
p, role:billing, cursor:billing*, commit
p, role:billing, fence:billing, produce
p, ops, cluster, admin|metrics
p, bob, orders/eu, *
";

    fn table() -> Table {
        Table::new(&Lines::parse(LINES).unwrap())
    }

    fn log(name: &str) -> On<'_> {
        On::Log(name)
    }

    fn cursor<'a>(log: &'a str, name: &'a str) -> On<'a> {
        On::Cursor {
            log: Some(log),
            name,
        }
    }

    /// What the lines allow, one for one with the line that decides.
    #[test]
    fn roles_uris_and_objects_are_told_apart() {
        use Action::{Admin, Commit, Consume, Metrics, Produce};
        let (table, lines) = (table(), Lines::parse(LINES).unwrap());
        let rows = [
            ("ann", Produce, log("orders/eu"), Some((4, Some(3)))),
            (
                "spiffe://prod/billing/7",
                Consume,
                log("orders/eu"),
                Some((4, Some(2))),
            ),
            ("spiffe://prod/billing", Consume, log("orders/eu"), None),
            ("spiffe://test/billing/7", Consume, log("orders/eu"), None),
            ("ann", Admin, log("orders/eu"), None),
            ("ann", Commit, log("orders/eu"), None),
            (
                "ann",
                Commit,
                cursor("orders/eu", "billing-1"),
                Some((5, Some(3))),
            ),
            ("ann", Commit, cursor("orders/eu", "other"), None),
            ("ann", Produce, On::Fence("billing"), Some((6, Some(3)))),
            // An object for logs is none for fences of the same name.
            ("ann", Produce, On::Fence("orders/eu"), None),
            ("bob", Produce, On::Fence("orders/eu"), Some((8, None))),
            ("bob", Commit, cursor("orders/eu", "any"), Some((8, None))),
            ("bob", Metrics, On::Cluster, None),
            ("ops", Admin, On::Cluster, Some((7, None))),
            ("ops", Metrics, On::Cluster, Some((7, None))),
            ("ops", Admin, log("orders/eu"), None),
            // The name of a role is nobody's.
            ("role:billing", Produce, log("orders/eu"), None),
        ];
        for (subject, action, on, wanted) in &rows {
            let may = table.allows([*subject].into_iter(), (*action).into(), *on);
            assert_eq!(may, wanted.is_some(), "{subject} {action:?} {on}");
            let decision = lines.deciding(subject, *action, *on);
            let told = decision.map(|(rule, by)| (rule.line, by.map(|by| by.line)));
            assert_eq!(told, *wanted, "{subject} {action:?} {on}");
        }
    }

    #[test]
    fn the_systems_logs_need_a_line_of_their_own() {
        let lines = "p, a, *, consume\np, b, log:*, consume\np, c, _audit, consume\np, d, *, admin\n\
                     p, e, log:_*, consume\n";
        let table = Table::new(&Lines::parse(lines).unwrap());
        let may = |name: &str| {
            let consume = Action::Consume.into();
            table.allows([name].into_iter(), consume, On::Log("_audit"))
        };
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(may),
            [false, false, true, true, true]
        );
    }

    #[test]
    fn whose_rights_differ_is_found_through_roles() {
        let other = LINES.replace("cursor:billing*, commit", "cursor:bill*, commit");
        let (old, new) = (table(), Table::new(&Lines::parse(&other).unwrap()));
        let alike = |name: &str| old.grant_alike(&new, [name].into_iter());
        assert!(!alike("ann") && !alike("spiffe://prod/billing/x"));
        assert!(alike("bob") && alike("ops") && alike("nobody"));
    }
}
