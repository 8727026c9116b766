//! `ferrolog cluster status`: every node at one look, or what one node knows.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::survey::{Seen, Survey};
use crate::cli::Format;
use crate::cli::commands::rewriting;
use crate::cli::exit::EXIT_NO_QUORUM;
use crate::cli::output::{Told, clear, counted, grouped, held, print_as, size, span, table, time};
use crate::client::Client;
use crate::proto::v1::{GetStatusResponse, NodeRole};

/// Between two looks of a watch.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Shows all nodes, once or again and again; without a quorum it ends with a code of its own.
pub(super) async fn of_all(
    client: &Client,
    servers: &[String],
    watch: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    loop {
        let survey = Survey::take(client, servers).await;
        if !watch {
            let survey = survey?;
            print_as(format, (text(&survey), json(&survey)))?;
            return Ok(match survey.quorum().is_there() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(EXIT_NO_QUORUM),
            });
        }
        let told = match survey {
            Ok(survey) => (text(&survey), json(&survey)),
            Err(error) => (error.to_string(), json!({ "error": error.to_string() })),
        };
        show_again(format, told).await?;
    }
}

/// Shows what one node knows, once or again and again.
pub(super) async fn of_one(
    client: &Client,
    watch: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    loop {
        let status = client.admin().status(None).await;
        let told = match status {
            Err(error) if watch => (error.to_string(), json!({ "error": error.to_string() })),
            known => {
                let known = known?;
                (known_text(&known), known_json(&known))
            }
        };
        if !watch {
            print_as(format, told)?;
            return Ok(ExitCode::SUCCESS);
        }
        show_again(format, told).await?;
    }
}

/// Shows the next look of a watch, and waits until the one after it is due.
async fn show_again(format: Format, told: Told) -> anyhow::Result<()> {
    clear()?;
    print_as(format, told)?;
    tokio::time::sleep(WATCH_EVERY).await;
    Ok(())
}

fn role(seen: &Seen<'_>) -> &'static str {
    match seen.leads() {
        true => "leader",
        false => role_name(seen.node.role),
    }
}

/// What the node says itself, or else what the leader heard of it.
fn is_drained(seen: &Seen<'_>) -> bool {
    seen.own.map_or(seen.node.drained, |own| own.drained)
}

fn with_drained(role: &str, drained: bool) -> String {
    match drained {
        true => format!("{role}, drained"),
        false => role.to_owned(),
    }
}

fn role_name(role: i32) -> &'static str {
    match NodeRole::try_from(role) {
        Ok(NodeRole::Voter) => "voter",
        Ok(NodeRole::Learner) => "learner",
        Ok(NodeRole::Unspecified) | Err(_) => "unknown",
    }
}

const HEADS: [&str; 13] = [
    "NAME",
    "ADDRESS",
    "UP",
    "ROLE",
    "LAST HEARD",
    "LAG",
    "VERSION",
    "DISK FREE",
    "USED",
    "LIVE",
    "DAMAGED",
    "CLOCK",
    "CERT ENDS",
];

fn row(survey: &Survey, seen: &Seen<'_>) -> Vec<String> {
    let dash = || "-".to_owned();
    let own = |shown: fn(&GetStatusResponse) -> String| seen.own.map_or_else(dash, shown);
    let heard = seen.node.heard_ms.filter(|_| !seen.leads());
    let offset = seen.node.clock_offset_ms;
    vec![
        seen.node.name.clone(),
        seen.node.addr.clone(),
        match seen.own {
            Some(_) => "yes",
            None => "NO",
        }
        .to_owned(),
        with_drained(role(seen), is_drained(seen)),
        heard.map_or_else(dash, |ms| {
            format!("{} ago", span(Duration::from_millis(ms)))
        }),
        survey.lag(seen).map_or_else(dash, grouped),
        own(|own| own.version.clone()),
        own(|own| size(own.disk_available_bytes)),
        own(|own| size(own.segment_bytes)),
        own(|own| size(own.live_bytes)),
        own(|own| own.damaged_segments.to_string()),
        offset.map_or_else(dash, |offset| format!("{offset:+}ms")),
        own(|own| {
            let ends = own.certificate_ends_ms.unwrap_or(0);
            time(ends).split('T').next().unwrap_or_default().to_owned()
        }),
    ]
}

fn text(survey: &Survey) -> String {
    let view = survey.view();
    let quorum = survey.quorum();
    let leader = survey.leader().map_or("none", |leader| &leader.node_name);
    let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
    rows.extend(survey.members().map(|seen| row(survey, &seen)));
    let mut text = format!(
        "cluster {}, term {}, leader {leader}\n{}\nthe log default: {}{}\n\n{}",
        view.cluster_id,
        view.term,
        quorum,
        held(view.first_offset, view.next_offset),
        unconfirmed(view),
        table(&rows),
    );
    for seen in survey.members() {
        if let Some(silence) = seen.silence {
            text.push_str(&format!(
                "\n\n{} does not answer: {silence}",
                seen.node.name
            ));
        }
    }
    if !view.allowed_names.is_empty() {
        text.push_str(&format!("\n\nmay join: {}", view.allowed_names.join(", ")));
    }
    text
}

fn json(survey: &Survey) -> Value {
    let quorum = survey.quorum();
    let mut told = known_json(survey.view());
    let leader = survey.leader();
    told["leader_id"] = leader.map_or(0, |leader| leader.node_id).into();
    told["leader"] = leader.map(|leader| &*leader.node_name).into();
    told["voters_up"] = quorum.up.into();
    told["voters"] = quorum.voters.into();
    told["voters_needed"] = quorum.needed.into();
    told["quorum"] = quorum.is_there().into();
    let node = |seen: Seen<'_>| {
        let own = seen.own;
        json!({
            "id": seen.node.id,
            "name": seen.node.name,
            "addr": seen.node.addr,
            "up": own.is_some(),
            "silence": seen.silence.map(ToString::to_string),
            "role": role_name(seen.node.role),
            "is_leader": seen.leads(),
            "drained": is_drained(&seen),
            "heard_ms": seen.node.heard_ms,
            "lag": survey.lag(&seen),
            "matched_index": seen.node.matched_index,
            "clock_offset_ms": seen.node.clock_offset_ms,
            "version": own.map(|own| &own.version),
            "applied_index": own.and_then(|own| own.applied_index),
            "disk_available_bytes": own.map(|own| own.disk_available_bytes),
            "disk_reserve_bytes": own.map(|own| own.disk_reserve_bytes),
            "segments": own.map(|own| own.segments),
            "segment_bytes": own.map(|own| own.segment_bytes),
            "live_bytes": own.map(|own| own.live_bytes),
            "rewriting": own.and_then(|own| own.rewriting.as_ref()).map(rewriting::json),
            "damaged_segments": own.map(|own| own.damaged_segments),
            "staleness_ms": own.and_then(|own| own.staleness_ms),
            "certificate_ends_ms": own.and_then(|own| own.certificate_ends_ms),
            "fsync_p99_us": own.and_then(|own| own.fsync_p99_us),
            "open_descriptors": own.and_then(|own| own.open_descriptors),
        })
    };
    told["nodes"] = survey.members().map(node).collect();
    told
}

fn known_text(status: &GetStatusResponse) -> String {
    let name_of = |id| {
        status
            .nodes
            .iter()
            .find(|node| node.id == id)
            .map_or("none", |node| &node.name)
    };
    let index =
        |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    let mut rows = vec![
        [
            "NAME", "ID", "ADDRESS", "ROLE", "LEADER", "MATCHED", "CLOCK",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for node in &status.nodes {
        rows.push(vec![
            node.name.clone(),
            node.id.to_string(),
            node.addr.clone(),
            with_drained(role_name(node.role), node.drained),
            if node.is_leader { "yes" } else { "" }.to_owned(),
            index(node.matched_index),
            node.clock_offset_ms
                .map_or_else(|| "-".to_owned(), |offset| format!("{offset:+}ms")),
        ]);
    }
    format!(
        "cluster {}, term {}, leader {}\nas {} (version {}) sees it: {}, \
         applied {} of committed {} of last {}{}\non its disk: {} of {}{}{}\n\n{}",
        status.cluster_id,
        status.term,
        name_of(status.leader_id),
        status.node_name,
        status.version,
        held(status.first_offset, status.next_offset),
        index(status.applied_index),
        index(status.committed_index),
        index(status.last_index),
        unconfirmed(status),
        counted(status.segments, "segment", "segments"),
        size(status.segment_bytes),
        match status.damaged_segments {
            0 => String::new(),
            damaged => format!(", {damaged} of them damaged and waiting for repair"),
        },
        match &status.allowed_names[..] {
            [] => String::new(),
            names => format!("\nmay join: {}", names.join(", ")),
        },
        table(&rows),
    )
}

/// What a node that hears no leader cannot tell.
fn unconfirmed(status: &GetStatusResponse) -> String {
    if status.leader_id != 0 || status.held_offset <= status.next_offset {
        return String::new();
    }
    format!(
        "; no leader is known: what its disk holds up to offset {} may be committed",
        status.held_offset
    )
}

fn known_json(status: &GetStatusResponse) -> Value {
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id,
                "name": node.name,
                "addr": node.addr,
                "role": role_name(node.role),
                "is_leader": node.is_leader,
                "drained": node.drained,
                "matched_index": node.matched_index,
                "clock_offset_ms": node.clock_offset_ms,
            })
        })
        .collect();
    json!({
        "cluster_id": status.cluster_id,
        "node_id": status.node_id,
        "node_name": status.node_name,
        "version": status.version,
        "term": status.term,
        "leader_id": status.leader_id,
        "first_offset": status.first_offset,
        "next_offset": status.next_offset,
        "last_index": status.last_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "segments": status.segments,
        "segment_bytes": status.segment_bytes,
        "live_bytes": status.live_bytes,
        "rewriting": status.rewriting.as_ref().map(rewriting::json),
        "damaged_segments": status.damaged_segments,
        "clock_ms": status.clock_ms,
        "clock_jumps": status.clock_jumps,
        "last_clock_jump_ms": status.last_clock_jump_ms,
        "log_time_ms": status.log_time_ms,
        "held_offset": status.held_offset,
        "staleness_ms": status.staleness_ms,
        "allowed_names": status.allowed_names,
        "drained": status.drained,
        "nodes": nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::survey::tests::survey;
    use super::*;
    use crate::proto::v1::Node;

    #[test]
    fn a_status_is_shown_for_people_and_for_programs() {
        let node = |id: u64, role: NodeRole| Node {
            id,
            name: format!("n{id}"),
            addr: format!("127.0.0.1:{id}"),
            role: role.into(),
            is_leader: id == 2,
            matched_index: None,
            clock_offset_ms: (id == 2).then_some(-7),
            heard_ms: None,
            drained: id == 2,
        };
        let status = GetStatusResponse {
            cluster_id: "ab".into(),
            node_name: "n1".into(),
            term: 3,
            leader_id: 2,
            next_offset: 1234,
            applied_index: Some(9),
            nodes: vec![node(1, NodeRole::Voter), node(2, NodeRole::Learner)],
            ..GetStatusResponse::default()
        };
        let text = known_text(&status);
        assert!(
            text.contains("term 3, leader n2") && text.contains("1,234 records, offsets 0 to 1233"),
            "{text}"
        );
        assert!(text.contains("-7ms"), "{text}");
        assert!(text.contains("learner, drained"), "{text}");
        let alone = GetStatusResponse {
            leader_id: 0,
            held_offset: 1300,
            ..status.clone()
        };
        let told = "up to offset 1300 may be committed";
        assert!(known_text(&alone).contains(told) && !text.contains(told));
        let json = known_json(&status);
        assert_eq!(json["nodes"][1]["role"], "learner");
        assert_eq!(json["last_index"], Value::Null);
    }

    #[test]
    fn a_node_that_does_not_answer_is_shown_so() {
        let told = survey(&[2, 1]);
        let shown = text(&told);
        for part in [
            "2027-02-15",
            "term 3, leader n2",
            "2 of 3 voters up, quorum: yes",
            "n3 does not answer: no answer within 1.5 s",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let json = json(&told);
        assert_eq!(json["nodes"][2]["up"], false);
        assert_eq!(
            (&json["quorum"], &json["leader"]),
            (&true.into(), &"n2".into())
        );
        let alone = text(&survey(&[3]));
        assert!(
            alone.contains("leader none") && alone.contains("quorum: no, 2 are needed"),
            "{alone}"
        );
    }
}
