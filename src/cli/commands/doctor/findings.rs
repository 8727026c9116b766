//! The faults of a cluster that its nodes' answers tell, each with what to do next.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::commands::cluster::survey::{Seen, Silence, Survey};
use crate::cli::output::{counted, span};
use crate::client::{ClientError, LogInfo};
use crate::proto::v1::{GetStatusResponse, NodeRole};

use super::kinds::{Bounds, Finding, Kind, of_all, of_node};
use super::means;

/// One that it did not hear for so long is cut off from it.
const HEARD_MAX: Duration = Duration::from_secs(2);
/// Clocks that are further apart than this make the times of records differ from what people see.
const CLOCK_OFFSET_MAX_MS: u64 = 500;

/// All faults, the worst first.
pub fn of(survey: &Survey, logs: &[LogInfo], bounds: &Bounds) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(quorum(survey));
    for seen in survey.members() {
        match seen.own {
            Some(own) => {
                found.extend(standing(survey, &seen, bounds));
                found.extend(means::of(own, bounds));
                found.extend(reloads(own));
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
    let reached = survey.leader().filter(|_| seen.is_heard());
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
            let again = "look at its log and start it again with `ferrolog serve`";
            let next = match survey.quorum().is_there() {
                true => {
                    format!("{again}; if it will not come back: `ferrolog cluster remove {name}`")
                }
                // Nothing can be committed, and so nobody removed.
                false => again.to_owned(),
            };
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
    if voters.is_multiple_of(2) && survey.quorum().is_there() {
        let what = format!(
            "{voters} nodes vote: the cluster bears no more failures than with {}",
            voters.saturating_sub(1).max(1)
        );
        let next = "let one more in (`ferrolog cluster allow NAME`), or take one out (`ferrolog cluster remove NAME`)";
        found.push(of_all(Kind::EvenVoters, what, next));
    }
    let voting: Vec<_> = survey.members().filter(Seen::is_voter).collect();
    let drained = |seen: &Seen<'_>| seen.own.map_or(seen.node.drained, |own| own.drained);
    if voting.len() > 1 && voting.iter().all(drained) {
        let what = "all voters are drained, so one of them leads although it is not to";
        let next = format!(
            "let those lead again whose work is done: `ferrolog cluster undrain {}`",
            voting[0].node.name
        );
        found.push(of_all(Kind::AllDrained, what.to_owned(), next));
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

/// What a node goes on without, since its files are bad.
fn reloads(own: &GetStatusResponse) -> impl Iterator<Item = Finding> {
    own.failed_reloads.iter().map(|failed| {
        let what = format!(
            "its {} stay as they were: {}",
            plural(&failed.what),
            failed.reason
        );
        let next = "put the files right; they are taken up by themselves, or at once on SIGHUP";
        of_node(Kind::NotTakenUp, &own.node_name, what, next)
    })
}

/// `policy` is one.
fn plural(what: &str) -> &str {
    match what {
        "policy" => "rights",
        what => what,
    }
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
    use crate::proto::v1::{GetStatusResponse, Node};

    const DAY_MS: u64 = 86_400_000;

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
        told: impl Fn(&mut Node),
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

    type Injected = fn(&mut Survey);

    /// A log whose cursor is so far behind its end.
    fn log_with_cursor(behind: u64) -> LogInfo {
        LogInfo {
            name: "orders".to_owned(),
            next_offset: 2_000_000,
            slowest_cursor: Some(CursorInfo {
                name: "billing".to_owned(),
                offset: 2_000_000 - behind,
                ..CursorInfo::default()
            }),
            ..LogInfo::default()
        }
    }

    /// Faults that one change of the node n2 makes.
    const OF_N2: [(Kind, Injected); 18] = [
        (Kind::Damaged, |at| n2(at, |own| own.damaged_segments = 2)),
        (Kind::Full, |at| n2(at, |own| own.disk_available_bytes = 1)),
        (Kind::ReserveReached, |at| {
            n2(at, |own| {
                own.disk_available_bytes = own.disk_reserve_bytes - 1
            })
        }),
        (Kind::NearlyFull, |at| {
            n2(at, |own| {
                own.disk_available_bytes = own.disk_reserve_bytes + 1
            })
        }),
        (Kind::SlowFsync, |at| {
            n2(at, |own| own.fsync_p99_us = Some(400_000))
        }),
        (Kind::CertificateEnds, |at| {
            n2(at, |own| {
                own.certificate_ends_ms = Some(own.clock_ms + 29 * DAY_MS)
            })
        }),
        (Kind::CertificateEnds, |at| {
            n2(at, |own| own.certificate_ends_ms = Some(own.clock_ms - 1))
        }),
        (Kind::CertificateName, |at| {
            n2(at, |own| own.certificate_hosts = vec!["other".to_owned()])
        }),
        (Kind::BudgetUsedUp, |at| {
            n2(at, |own| {
                own.budgets[1].used_bytes = own.budgets[1].limit_bytes
            })
        }),
        (Kind::BudgetUsedUp, |at| {
            n2(at, |own| own.budgets[0].short_ms = Some(3_000))
        }),
        (Kind::DescriptorsShort, |at| {
            n2(at, |own| own.open_descriptors = Some(900))
        }),
        (Kind::Foreign, |at| {
            n2(at, |own| own.cluster_id = "cd".to_owned())
        }),
        (Kind::Unheard, |at| {
            told_of_n2(at, |told| told.heard_ms = Some(60_000))
        }),
        (Kind::ClocksApart, |at| {
            told_of_n2(at, |told| told.clock_offset_ms = Some(-501))
        }),
        (Kind::Learner, |at| {
            told_of_n2(at, |told| told.set_role(NodeRole::Learner))
        }),
        (Kind::WrongAddress, |at| n2(at, |own| own.node_id = 3)),
        (Kind::Lagging, |at| {
            for id in 1..=3 {
                change(at, id, |own| own.committed_index = Some(99_999), |_| ());
                change(at, id, |own| own.applied_index = Some(99_999), |_| ());
            }
            n2(at, |own| own.applied_index = Some(1));
        }),
        (Kind::Untrusted, |at| {
            at.asked[1].answer = Err(Silence::Failed(Box::new(ClientError::Tls {
                server: "127.0.0.1:2".to_owned(),
                cause: "expired".to_owned(),
            })));
        }),
    ];

    fn n2(survey: &mut Survey, own: fn(&mut GetStatusResponse)) {
        change(survey, 2, own, |_| ());
    }

    fn told_of_n2(survey: &mut Survey, told: fn(&mut Node)) {
        change(survey, 2, |_| (), told);
    }

    #[test]
    fn nothing_is_said_of_a_healthy_cluster() {
        assert_eq!(
            kinds(&survey(&[1, 2, 3]), &[log_with_cursor(1_000_000)]),
            []
        );
    }

    /// With the faults of the whole cluster below: more than twenty, each named, by itself.
    #[test]
    fn each_fault_is_named_and_its_node() {
        for (kind, inject) in OF_N2 {
            let mut survey = survey(&[1, 2, 3]);
            inject(&mut survey);
            let found = kinds(&survey, &[]);
            assert!(
                found.contains(&(kind, "n2".to_owned())),
                "{kind:?}: {found:?}"
            );
        }
        let mut mixed = survey(&[1, 2, 3]);
        n2(&mut mixed, |own| own.version = "1.0.1".to_owned());
        assert_eq!(kinds(&mixed, &[]), [(Kind::VersionsMixed, String::new())]);
        let mut even = survey(&[1, 2, 3]);
        for id in 1..=3 {
            change(&mut even, id, |own| own.nodes.truncate(2), |_| ());
        }
        assert_eq!(kinds(&even, &[]), [(Kind::EvenVoters, String::new())]);
        let mut drained = survey(&[1, 2, 3]);
        for id in 1..=2 {
            change(&mut drained, id, |own| own.drained = true, |_| ());
        }
        assert_eq!(kinds(&drained, &[]), [], "one may lead");
        change(&mut drained, 3, |own| own.drained = true, |_| ());
        assert_eq!(kinds(&drained, &[]), [(Kind::AllDrained, String::new())]);
        let behind = kinds(&survey(&[1, 2, 3]), &[log_with_cursor(1_000_001)]);
        assert_eq!(behind, [(Kind::CursorBehind, String::new())]);
    }

    #[test]
    fn a_figure_and_what_to_type_next_are_told() {
        let mut slow = survey(&[1, 2, 3]);
        n2(&mut slow, |own| own.fsync_p99_us = Some(400_000));
        n2(&mut slow, |own| {
            own.certificate_hosts = vec!["*.example".to_owned()]
        });
        let found = of(&slow, &[], &Bounds::USUAL);
        assert!(
            found[0].what.contains("400.00ms") || found[0].what.contains("0.4"),
            "{found:?}"
        );
        assert!(
            found[1].next.contains("certs --nodes n2 --hosts 127.0.0.1"),
            "{found:?}"
        );
        // Some syncs are no figure, and a wildcard names a host.
        n2(&mut slow, |own| own.fsync_count = 99);
        n2(&mut slow, |own| {
            own.advertised_addr = "n2.example:7400".to_owned()
        });
        assert_eq!(kinds(&slow, &[]), []);
    }

    #[test]
    fn nothing_is_advised_that_needs_a_majority_where_there_is_none() {
        let mut alone = survey(&[1]);
        change(&mut alone, 1, |own| own.nodes.truncate(2), |_| ());
        let found = of(&alone, &[], &Bounds::USUAL);
        let told: Vec<_> = found.iter().map(|finding| finding.kind).collect();
        assert_eq!(told, [Kind::NoQuorum, Kind::Down]);
        let cannot_be = ["cluster remove", "cluster allow"];
        let is_advised = |what: &&str| found.iter().any(|finding| finding.next.contains(what));
        assert!(!cannot_be.iter().any(is_advised));
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
        let behind = of(
            &survey(&[1, 2, 3]),
            &[log_with_cursor(1_000_001)],
            &Bounds::USUAL,
        );
        let next = &behind[0].next;
        assert!(
            next.contains("cursor delete billing --log orders"),
            "{next}"
        );
    }
}
