//! The faults of a cluster that its nodes' answers tell, each with what to do next.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::commands::cluster::survey::{Seen, Silence, Survey};
use crate::cli::output::{counted, size, span};
use crate::client::{ClientError, LogInfo};
use crate::proto::v1::{GetStatusResponse, NodeRole};

/// The leader calls the others many times a second: one that it heard so lately is alive.
const ALIVE_MAX: Duration = Duration::from_millis(500);
/// One that it did not hear for so long is cut off from it.
const HEARD_MAX: Duration = Duration::from_secs(2);
/// Clocks that are further apart than this make the times of records differ from what people see.
const CLOCK_OFFSET_MAX_MS: u64 = 500;

/// From where on something is worth a word.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Entries that a node lacks.
    pub lag: u64,
    /// Records between a cursor and the end of its log.
    pub cursor_lag: u64,
}

impl Bounds {
    pub const USUAL: Self = Self {
        lag: 10_000,
        cursor_lag: 1_000_000,
    };
}

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NoQuorum,
    NoLeader,
    Down,
    Untrusted,
    Foreign,
    Unheard,
    Lagging,
    Damaged,
    Full,
    NearlyFull,
    ClocksApart,
    WrongAddress,
    EvenVoters,
    Learner,
    VersionsMixed,
    CursorBehind,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::NoQuorum => "no-quorum",
            Self::NoLeader => "no-leader",
            Self::Down => "down",
            Self::Untrusted => "untrusted",
            Self::Foreign => "other-cluster",
            Self::Unheard => "unheard",
            Self::Lagging => "lagging",
            Self::Damaged => "damaged",
            Self::Full => "full",
            Self::NearlyFull => "nearly-full",
            Self::ClocksApart => "clocks-apart",
            Self::WrongAddress => "wrong-address",
            Self::EvenVoters => "even-voters",
            Self::Learner => "learner",
            Self::VersionsMixed => "versions-mixed",
            Self::CursorBehind => "cursor-behind",
        }
    }
}

/// One fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The node that has it, if it is one's.
    pub node: Option<String>,
    pub what: String,
    /// What to do about it.
    pub next: String,
}

fn of_all(kind: Kind, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding {
        kind,
        node: None,
        what: what.into(),
        next: next.into(),
    }
}

fn of_node(kind: Kind, node: &str, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding {
        node: Some(node.to_owned()),
        ..of_all(kind, what, next)
    }
}

/// All faults, the worst first.
pub fn of(survey: &Survey, logs: &[LogInfo], bounds: &Bounds) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(quorum(survey));
    for seen in survey.members() {
        match seen.own {
            Some(own) => {
                found.extend(standing(survey, &seen, bounds));
                found.extend(disk(own));
            }
            None => found.push(silent(survey, &seen)),
        }
    }
    found.extend(addresses(survey));
    found.extend(clocks(survey));
    found.extend(voters(survey));
    found.extend(versions(survey));
    found.extend(cursors(logs, bounds));
    found
}

fn quorum(survey: &Survey) -> Option<Finding> {
    let quorum = survey.quorum();
    if quorum.up < quorum.needed {
        let silent = survey.members().filter(|seen| seen.own.is_none());
        let silent: Vec<_> = silent.map(|seen| &*seen.node.name).collect();
        let next = format!(
            "start {} again, {} of them at least: `ferrolog serve` with the same name and data directory",
            silent.join(", "),
            quorum.needed - quorum.up
        );
        return Some(of_all(Kind::NoQuorum, quorum.to_string(), next));
    }
    (!quorum.is_led).then(|| {
        let what = format!("{quorum}: nothing can be committed");
        let next = "look again in a second, an election takes no longer; if it stays, the nodes do not reach each other: \
                    compare what `ferrolog cluster status --server HOST:PORT` says of each, and check the network between them";
        of_all(Kind::NoLeader, what, next)
    })
}

fn silent(survey: &Survey, seen: &Seen<'_>) -> Finding {
    let (name, addr) = (&*seen.node.name, &seen.node.addr);
    let silence = seen.silence.map_or_else(String::new, ToString::to_string);
    if let Some(Silence::Failed(error)) = seen.silence
        && matches!(**error, ClientError::Tls { .. })
    {
        let next = format!(
            "look at the certificate of {name}: it must be signed by the authority of --tls-ca, name the host of {addr} and \
             not be over; `ferrolog certs` makes one"
        );
        return of_node(Kind::Untrusted, name, silence, next);
    }
    let heard = seen.node.heard_ms.map(Duration::from_millis);
    let reached = survey
        .leader()
        .filter(|_| heard.is_some_and(|ago| ago < ALIVE_MAX));
    match reached {
        Some(leader) => {
            let what = format!(
                "it does not answer at {addr}, though {}, which leads, hears it: {silence}",
                leader.node_name
            );
            let next = format!(
                "check that {addr}, which it advertises, can be reached from here (firewall, name, port); `serve --advertise` \
                 says it otherwise"
            );
            of_node(Kind::WrongAddress, name, what, next)
        }
        None => {
            let what = format!("it does not answer at {addr}: {silence}");
            let next = format!(
                "look at its log and start it again with `ferrolog serve`; if it will not come back: `ferrolog cluster remove \
                 {name}`"
            );
            of_node(Kind::Down, name, what, next)
        }
    }
}

fn standing(survey: &Survey, seen: &Seen<'_>, bounds: &Bounds) -> Option<Finding> {
    let name = &*seen.node.name;
    let leader = survey.leader()?;
    let heard = seen.node.heard_ms.map(Duration::from_millis);
    if !seen.leads()
        && let Some(ago) = heard.filter(|ago| *ago > HEARD_MAX)
    {
        let what = format!(
            "it answers here, but {}, which leads, has heard nothing of it for {}",
            leader.node_name,
            span(ago)
        );
        let next = format!(
            "check the network between {} and {}",
            leader.advertised_addr, seen.node.addr
        );
        return Some(of_node(Kind::Unheard, name, what, next));
    }
    let lag = survey.lag(seen).filter(|lag| *lag > bounds.lag)?;
    let what = format!("it lacks {}", counted(lag, "entry", "entries"));
    let next = "it catches up by itself: see `ferrolog cluster status --watch`; if it does not, look at its disk and network";
    Some(of_node(Kind::Lagging, name, what, next))
}

fn disk(own: &GetStatusResponse) -> Vec<Finding> {
    let name = &*own.node_name;
    let mut found = Vec::new();
    if own.damaged_segments > 0 {
        let what = format!(
            "{} of its log {} damaged",
            counted(own.damaged_segments, "segment", "segments"),
            if own.damaged_segments == 1 {
                "is"
            } else {
                "are"
            }
        );
        let next = "it is mended from another node by itself; if it stays, look at the disk, and stop the node for \
                    `ferrolog log verify DIR`";
        found.push(of_node(Kind::Damaged, name, what, next));
    }
    let (free, reserve) = (own.disk_available_bytes, own.disk_reserve_bytes);
    let what = format!(
        "{} are free on its disk, and {} must stay free",
        size(free),
        size(reserve)
    );
    if free < reserve {
        let what = format!("records are refused: {what}");
        let next = "make room on the disk, or give records up: `ferrolog log list` shows what is kept, `ferrolog log trim` and \
                    `ferrolog log set` give it up";
        found.push(of_node(Kind::Full, name, what, next));
    } else if free < reserve.saturating_mul(2) {
        let next = "make room before records are refused: `ferrolog log list` shows what is kept";
        found.push(of_node(Kind::NearlyFull, name, what, next));
    }
    found
}

/// Nodes that are not where they say, or not of this cluster.
fn addresses(survey: &Survey) -> Vec<Finding> {
    let mut found = Vec::new();
    let cluster = &survey.view().cluster_id;
    for asked in &survey.asked {
        let Ok(answer) = &asked.answer else { continue };
        if answer.cluster_id != *cluster {
            let what = format!(
                "{} is a node of another cluster, {}",
                asked.addr, answer.cluster_id
            );
            let next =
                "take it out of --servers, or start it with the data directory of this cluster";
            found.push(of_node(Kind::Foreign, &answer.node_name, what, next));
            continue;
        }
        let named = survey.members().find(|seen| seen.node.addr == asked.addr);
        if let Some(named) = named.filter(|named| named.node.id != answer.node_id) {
            let what = format!(
                "it advertises {}, where {} answers",
                asked.addr, answer.node_name
            );
            let next = format!(
                "start {} with --advertise and an address that leads to it alone",
                named.node.name
            );
            found.push(of_node(Kind::WrongAddress, &named.node.name, what, next));
        }
    }
    found
}

fn clocks(survey: &Survey) -> Vec<Finding> {
    let apart = |seen: Seen<'_>| {
        let offset = seen.node.clock_offset_ms?;
        (offset.unsigned_abs() > CLOCK_OFFSET_MAX_MS).then(|| {
            let way = if offset > 0 { "ahead of" } else { "behind" };
            let what = format!(
                "its clock is {} {way} that of {}",
                span(Duration::from_millis(offset.unsigned_abs())),
                survey.view().node_name
            );
            let next =
                "set the clocks by NTP: `timedatectl` tells whether that works, on each of the two";
            of_node(Kind::ClocksApart, &seen.node.name, what, next)
        })
    };
    survey.members().filter_map(apart).collect()
}

fn voters(survey: &Survey) -> Vec<Finding> {
    let voters = survey.quorum().voters;
    let mut found = Vec::new();
    if voters.is_multiple_of(2) {
        let what = format!(
            "{voters} vote: no more of them may fail than of {}",
            voters.saturating_sub(1).max(1)
        );
        let next = "let one more in (`ferrolog cluster allow NAME`), or take one out (`ferrolog cluster remove NAME`)";
        found.push(of_all(Kind::EvenVoters, what, next));
    }
    for seen in survey.members() {
        if seen.node.role() == NodeRole::Learner && seen.own.is_some() {
            let what = "it has no vote yet";
            let next = "it gets one once it has caught up: see `ferrolog cluster status --watch`";
            found.push(of_node(Kind::Learner, &seen.node.name, what, next));
        }
    }
    found
}

fn versions(survey: &Survey) -> Option<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in survey.answers() {
        let of = versions.entry(&answer.version).or_default();
        if !of.contains(&&*answer.node_name) {
            of.push(&answer.node_name);
        }
    }
    (versions.len() > 1).then(|| {
        let each = versions.iter();
        let each: Vec<_> = each
            .map(|(version, nodes)| format!("{version} on {}", nodes.join(", ")))
            .collect();
        let what = format!("versions are mixed: {}", each.join("; "));
        let next = "bring all nodes to one version, one node after the other";
        of_all(Kind::VersionsMixed, what, next)
    })
}

fn cursors(logs: &[LogInfo], bounds: &Bounds) -> Vec<Finding> {
    let behind = |log: &LogInfo| {
        let lag = log.lag().filter(|lag| *lag > bounds.cursor_lag)?;
        let cursor = log.slowest_cursor.as_ref()?;
        let what = format!(
            "the cursor {} of the log {} is {} behind its end",
            cursor.name,
            log.name,
            counted(lag, "record", "records")
        );
        let next = format!(
            "look at its consumer; a cursor that nobody moves goes with `ferrolog cursor delete {} --log {}`",
            cursor.name, log.name
        );
        Some(of_all(Kind::CursorBehind, what, next))
    };
    logs.iter().filter_map(behind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::cluster::survey::tests::survey;
    use crate::client::CursorInfo;

    fn kinds(survey: &Survey, logs: &[LogInfo]) -> Vec<(Kind, String)> {
        let found = of(survey, logs, &Bounds::USUAL);
        assert!(found.iter().all(|finding| !finding.next.is_empty()));
        let told = |finding: Finding| (finding.kind, finding.node.unwrap_or_default());
        found.into_iter().map(told).collect()
    }

    /// Changes what a node says of itself, and what all say of it.
    fn change(
        survey: &mut Survey,
        id: u64,
        own: impl Fn(&mut GetStatusResponse),
        told: impl Fn(&mut crate::proto::v1::Node),
    ) {
        for asked in &mut survey.asked {
            let Ok(answer) = &mut asked.answer else {
                continue;
            };
            if answer.node_id == id {
                own(answer);
            }
            let nodes = answer.nodes.iter_mut();
            nodes.filter(|node| node.id == id).for_each(&told);
        }
    }

    #[test]
    fn nothing_is_said_of_a_healthy_cluster() {
        assert_eq!(kinds(&survey(&[1, 2, 3]), &[]), []);
    }

    #[test]
    fn each_fault_is_named_and_its_node() {
        type Own = fn(&mut GetStatusResponse);
        type Told = fn(&mut crate::proto::v1::Node);
        let cases: [(Kind, Own, Told); 9] = [
            (Kind::Damaged, |own| own.damaged_segments = 2, |_| ()),
            (Kind::Full, |own| own.disk_available_bytes = 1, |_| ()),
            (
                Kind::NearlyFull,
                |own| own.disk_available_bytes = own.disk_reserve_bytes + 1,
                |_| (),
            ),
            (
                Kind::Foreign,
                |own| own.cluster_id = "cd".to_owned(),
                |_| (),
            ),
            (Kind::Unheard, |_| (), |told| told.heard_ms = Some(60_000)),
            (
                Kind::ClocksApart,
                |_| (),
                |told| told.clock_offset_ms = Some(-501),
            ),
            (
                Kind::Learner,
                |_| (),
                |told| told.set_role(NodeRole::Learner),
            ),
            (
                Kind::Lagging,
                |own| {
                    own.applied_index = Some(1);
                },
                |_| (),
            ),
            (Kind::WrongAddress, |own| own.node_id = 3, |_| ()),
        ];
        for (kind, own, told) in cases {
            let mut survey = survey(&[1, 2, 3]);
            if kind == Kind::Lagging {
                change(
                    &mut survey,
                    1,
                    |own| own.committed_index = Some(99_999),
                    |_| (),
                );
                change(
                    &mut survey,
                    1,
                    |own| own.applied_index = Some(99_999),
                    |_| (),
                );
                change(
                    &mut survey,
                    3,
                    |own| own.applied_index = Some(99_999),
                    |_| (),
                );
            }
            change(&mut survey, 2, own, told);
            let found = kinds(&survey, &[]);
            assert!(
                found.contains(&(kind, "n2".to_owned())),
                "{kind:?}: {found:?}"
            );
        }
        let mut mixed = survey(&[1, 2, 3]);
        change(
            &mut mixed,
            2,
            |own| own.version = "1.0.1".to_owned(),
            |_| (),
        );
        assert_eq!(kinds(&mixed, &[]), [(Kind::VersionsMixed, String::new())]);
    }

    #[test]
    fn a_node_that_is_down_is_told_from_one_that_only_we_cannot_reach() {
        let two = survey(&[1, 2]);
        assert_eq!(kinds(&two, &[]), [(Kind::Down, "n3".to_owned())]);
        let mut heard = survey(&[1, 2]);
        change(&mut heard, 3, |_| (), |told| told.heard_ms = Some(20));
        assert_eq!(kinds(&heard, &[]), [(Kind::WrongAddress, "n3".to_owned())]);
        let alone = kinds(&survey(&[3]), &[]);
        assert_eq!(alone[0].0, Kind::NoQuorum);
        let mut unled = survey(&[1, 2, 3]);
        change(&mut unled, 1, |own| own.leads = false, |_| ());
        assert_eq!(kinds(&unled, &[])[0].0, Kind::NoLeader);
    }

    #[test]
    fn a_cursor_that_nobody_moves_is_named() {
        let log = |offset| LogInfo {
            name: "orders".to_owned(),
            next_offset: 2_000_000,
            slowest_cursor: Some(CursorInfo {
                name: "billing".to_owned(),
                offset,
                ..CursorInfo::default()
            }),
            ..LogInfo::default()
        };
        let healthy = survey(&[1, 2, 3]);
        assert_eq!(kinds(&healthy, &[log(1_000_000)]), []);
        let behind = of(&healthy, &[log(999_999)], &Bounds::USUAL);
        let next = &behind[0].next;
        assert!(
            next.contains("cursor delete billing --log orders"),
            "{next}"
        );
    }
}
