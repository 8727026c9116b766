//! The faults of what a node stands on: its disk, its certificate, what its clients may hold, its descriptors.

use std::time::Duration;

use crate::cli::output::{counted, size, span, time};
use crate::proto::v1::GetStatusResponse;

use super::kinds::{Bounds, Finding, Kind, of_node};

/// With less than one part of so many of the reserve left, not even votes and snapshots may fit.
const RESERVE_SHARE: u64 = 8;
/// So many syncs make a figure.
const SYNCS_MIN: u64 = 100;
/// A certificate that ends within so long is worth a word.
const SOON: Duration = Duration::from_hours(30 * 24);
/// A budget that had no room so lately is used up.
const SHORT: Duration = Duration::from_secs(60);
/// From so many parts of ten on, clients hold nearly all that they may.
const BUDGET_TENTHS: u64 = 9;
/// From so many parts of ten on, descriptors are short.
const DESCRIPTORS_TENTHS: u64 = 8;

/// All of them that one node's answer tells.
pub fn of(own: &GetStatusResponse, bounds: &Bounds) -> Vec<Finding> {
    let mut found = disk(own);
    found.extend(syncs(own, bounds));
    found.extend(certificate(own));
    found.extend(budgets(own));
    found.extend(descriptors(own));
    found
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
        let next = "make room on the disk, or give records up: `ferrolog log list` shows what is kept, `ferrolog log trim` and \
                    `ferrolog log set` give it up";
        let (kind, what) = match free < reserve / RESERVE_SHARE {
            true => (
                Kind::Full,
                format!("its disk is full, and even votes may fail: {what}"),
            ),
            false => (Kind::ReserveReached, format!("records are refused: {what}")),
        };
        found.push(of_node(kind, name, what, next));
    } else if free < reserve.saturating_mul(2) {
        let next = "make room before records are refused: `ferrolog log list` shows what is kept";
        found.push(of_node(Kind::NearlyFull, name, what, next));
    }
    found
}

fn syncs(own: &GetStatusResponse, bounds: &Bounds) -> Option<Finding> {
    let took = own.fsync_p99_us.map(Duration::from_micros)?;
    if own.fsync_count < SYNCS_MIN || took <= bounds.fsync {
        return None;
    }
    let what = format!(
        "its disk is slow: of {} in five minutes, one of 100 took {} or longer",
        counted(own.fsync_count, "sync", "syncs"),
        span(took)
    );
    let next = "see what else writes to that disk (`iostat -x 1`), and give the data a disk of its own; `ferrolog bench` \
                measures it";
    Some(of_node(Kind::SlowFsync, &own.node_name, what, next))
}

fn certificate(own: &GetStatusResponse) -> Vec<Finding> {
    let name = &*own.node_name;
    let mut found = Vec::new();
    let Some(ends_ms) = own.certificate_ends_ms else {
        return found;
    };
    let left = Duration::from_millis(ends_ms.saturating_sub(own.clock_ms));
    if left < SOON {
        let what = match left.is_zero() {
            true => format!(
                "its certificate ended at {}: no new connection is made",
                time(ends_ms)
            ),
            false => format!(
                "its certificate ends in {}, at {}",
                days(left),
                time(ends_ms)
            ),
        };
        let next = format!(
            "make a new one (`ferrolog certs --nodes {name}`) and put it in its place: the node takes it up by itself"
        );
        found.push(of_node(Kind::CertificateEnds, name, what, next));
    }
    let addr = &*own.advertised_addr;
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if !own
        .certificate_hosts
        .iter()
        .any(|named| covers(named, host))
    {
        let what = format!(
            "it advertises {addr}, and its certificate names {}: clients do not believe it there",
            match &own.certificate_hosts[..] {
                [] => "no host".to_owned(),
                hosts => hosts.join(", "),
            }
        );
        let next = format!(
            "make one that names the host (`ferrolog certs --nodes {name} --hosts {host}`), or say another address with \
             `serve --advertise`"
        );
        found.push(of_node(Kind::CertificateName, name, what, next));
    }
    found
}

/// Whether a host of a certificate is this one: `*` stands for one label.
fn covers(named: &str, host: &str) -> bool {
    let below = named.strip_prefix("*.");
    let parent = host.split_once('.').map(|(_, parent)| parent);
    named.eq_ignore_ascii_case(host)
        || below
            .zip(parent)
            .is_some_and(|(below, parent)| below.eq_ignore_ascii_case(parent))
}

fn days(left: Duration) -> String {
    match left.as_secs() / 86_400 {
        0 => span(left),
        days => counted(days, "day", "days"),
    }
}

fn budgets(own: &GetStatusResponse) -> Vec<Finding> {
    let used_up = own.budgets.iter().filter_map(|budget| {
        let short = budget.short_ms.map(Duration::from_millis);
        let short = short.filter(|ago| *ago < SHORT);
        let is_high = budget.used_bytes.saturating_mul(10) >= budget.limit_bytes.saturating_mul(BUDGET_TENTHS);
        if short.is_none() && (!is_high || budget.limit_bytes == 0) {
            return None;
        }
        let mut what = format!(
            "clients hold {} of the {} that there are for {}",
            size(budget.used_bytes),
            size(budget.limit_bytes),
            budget.account
        );
        if let Some(ago) = short {
            what.push_str(&format!(", and {} ago there was no room left", span(ago)));
        }
        let next = "see who asks for so much: `ferrolog_requests_total` and `ferrolog_connections` at /metrics; have clients \
                    share connections, take their answers, or call other nodes, too";
        Some(of_node(Kind::BudgetUsedUp, &own.node_name, what, next))
    });
    used_up.collect()
}

fn descriptors(own: &GetStatusResponse) -> Option<Finding> {
    let (open, most) = own.open_descriptors.zip(own.descriptors_max)?;
    if open.saturating_mul(10) < most.saturating_mul(DESCRIPTORS_TENTHS) {
        return None;
    }
    let what = format!("{open} of the {most} descriptors that its process may have are open");
    let next = "raise the limit (`ulimit -n`, LimitNOFILE) and start it again; `ferrolog serve --connections-max` takes fewer \
                connections";
    Some(of_node(Kind::DescriptorsShort, &own.node_name, what, next))
}
