//! `ferrolog cluster`: who is in the cluster, and changes of that.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Told, grouped, print_as, table};
use crate::cli::{Format, UsageError};
use crate::client::Client;
use crate::proto::v1::{GetLimitsResponse, GetStatusResponse, NodeRole};

const HELP: &str = "\
Examples:
  ferrolog cluster status --servers n1:8400,n2:8400,n3:8400
  ferrolog cluster status --server n2:8400 --output json   (what n2 itself knows)
  ferrolog cluster transfer n3
  ferrolog cluster remove n2                               (a node that will not come back)
  ferrolog cluster allow n4                                (n4 may join now, once)
  ferrolog cluster token                                   (whoever starts with it may join, once)
  ferrolog cluster leave --server n2:8400                  (a node that is up)
  ferrolog cluster limits --server n2:8400                 (how large a record may be, and the like)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct ClusterArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Ask this node and no other; `remove` asks the others, too, whether it came to pass
    #[arg(long, global = true, value_name = "HOST:PORT")]
    server: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the nodes, the leader and how far the log goes
    Status,
    /// Take a node out of the cluster for good
    Remove {
        /// The name it was started under
        name: String,
    },
    /// Let a node join, once
    Allow {
        /// The name it will be started under
        name: String,
    },
    /// Take back that a node may join
    Disallow {
        /// The name that was allowed
        name: String,
    },
    /// Print a token that lets one node join: `serve --join-token`
    Token {
        /// How long it can be used, in minutes, up to a day
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
    },
    /// Hand leadership to another voter
    Transfer {
        /// The voter; without it, the one that is furthest on
        name: Option<String>,
    },
    /// Take the node given with --server out of the cluster
    Leave,
    /// Show what a node takes: sizes, counts, and bytes under way
    Limits,
}

pub(in crate::cli) async fn run(args: ClusterArgs, format: Format) -> anyhow::Result<()> {
    let server = args.server.as_deref();
    if matches!(args.action, Action::Leave) && server.is_none() {
        let text = "leave removes the node it talks to, which is not named; add --server HOST:PORT";
        return Err(UsageError(text.to_owned()).into());
    }
    let client = args.connection.client(server)?;
    let told = match args.action {
        Action::Status => {
            let status = client.admin().status(None).await?;
            (status_text(&status), status_json(&status))
        }
        Action::Remove { name } => remove(&client, &name).await?,
        Action::Leave => {
            let name = client.admin().status(None).await?.node_name;
            remove(&client, &name).await?
        }
        Action::Allow { name } => {
            client.admin().allow(&name).await?;
            let shown = format!("{name} may join now, once");
            (shown, json!({ "name": name, "allowed": true }))
        }
        Action::Disallow { name } => {
            let withdrawn = client.admin().disallow(&name).await?;
            let shown = match withdrawn {
                true => format!("{name} may not join any more"),
                false => format!("{name} was not allowed to join, or has joined"),
            };
            (shown, json!({ "name": name, "withdrawn": withdrawn }))
        }
        Action::Token { minutes } => {
            let token = client.admin().join_token(60 * minutes).await?;
            (token.clone(), json!({ "token": token, "minutes": minutes }))
        }
        Action::Transfer { name } => {
            let leader = client.admin().transfer(name.as_deref()).await?;
            (format!("{leader} leads now"), json!({ "leader": leader }))
        }
        Action::Limits => limits(&client.admin().limits().await?),
    };
    print_as(format, told)
}

async fn remove(client: &Client, name: &str) -> anyhow::Result<Told> {
    let removed = client.admin().remove(name).await?;
    let shown = match removed {
        true => format!(
            "{name} is no longer a member; before it joins again, stop its process, delete its data, \
             and let it in with `ferrolog cluster allow {name}`"
        ),
        false => format!("there is no member {name}; nothing was changed"),
    };
    Ok((shown, json!({ "name": name, "removed": removed })))
}

/// Lists fields by their names. A new field does not compile until it is added here.
macro_rules! numbers {
    ($limits:expr, $($field:ident),+ $(,)?) => {{
        let GetLimitsResponse { $($field),+ } = *$limits;
        [$((stringify!($field), u64::from($field))),+]
    }};
}

fn limits(limits: &GetLimitsResponse) -> Told {
    let limits = numbers!(
        limits,
        record_bytes_max,
        batch_bytes_max,
        batch_decompressed_bytes_max,
        batch_records_max,
        many_batches_max,
        key_bytes_max,
        headers_max,
        header_bytes_max,
        name_bytes_max,
        message_bytes_max,
        streams_per_connection_max,
        stream_bytes_in_flight_max,
        stream_batches_in_flight_max,
        connection_bytes_in_flight_max,
        subject_bytes_in_flight_max,
        node_bytes_in_flight_max,
        read_bytes_max,
        answer_bytes_max,
        connection_answer_bytes_max,
        subject_answer_bytes_max,
        node_answer_bytes_max,
        answer_not_taken_ms_max,
        sessions_max,
        cursors_max,
        fences_max,
        of_subject_max,
        logs_max,
        labels_max,
        labels_bytes_max,
    );
    let rows = limits.map(|(name, value)| vec![name.to_owned(), grouped(value)]);
    let json = limits.map(|(name, value)| (name.to_owned(), value.into()));
    (table(&rows), Value::Object(json.into_iter().collect()))
}

fn role_name(role: i32) -> &'static str {
    match NodeRole::try_from(role) {
        Ok(NodeRole::Voter) => "voter",
        Ok(NodeRole::Learner) => "learner",
        Ok(NodeRole::Unspecified) | Err(_) => "unknown",
    }
}

fn status_text(status: &GetStatusResponse) -> String {
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
            role_name(node.role).to_owned(),
            if node.is_leader { "yes" } else { "" }.to_owned(),
            index(node.matched_index),
            node.clock_offset_ms
                .map_or_else(|| "-".to_owned(), |offset| format!("{offset:+} ms")),
        ]);
    }
    format!(
        "cluster {}, term {}, leader {}\nas {} (version {}) sees it: {} records, offsets {} to {}, \
         applied {} of committed {} of last {}{}\non its disk: {} segments of {} bytes{}{}\n\n{}",
        status.cluster_id,
        status.term,
        name_of(status.leader_id),
        status.node_name,
        status.version,
        grouped(status.next_offset.saturating_sub(status.first_offset)),
        status.first_offset,
        status.next_offset,
        index(status.applied_index),
        index(status.committed_index),
        index(status.last_index),
        unconfirmed(status),
        status.segments,
        grouped(status.segment_bytes),
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

fn status_json(status: &GetStatusResponse) -> Value {
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
        "damaged_segments": status.damaged_segments,
        "clock_ms": status.clock_ms,
        "clock_jumps": status.clock_jumps,
        "last_clock_jump_ms": status.last_clock_jump_ms,
        "log_time_ms": status.log_time_ms,
        "held_offset": status.held_offset,
        "staleness_ms": status.staleness_ms,
        "allowed_names": status.allowed_names,
        "nodes": nodes,
    })
}

#[cfg(test)]
mod tests {
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
        let text = status_text(&status);
        assert!(
            text.contains("term 3, leader n2") && text.contains("1,234 records"),
            "{text}"
        );
        assert!(text.contains("-7 ms"), "{text}");
        let alone = GetStatusResponse {
            leader_id: 0,
            held_offset: 1300,
            ..status.clone()
        };
        let told = "up to offset 1300 may be committed";
        assert!(status_text(&alone).contains(told) && !text.contains(told));
        let json = status_json(&status);
        assert_eq!(json["nodes"][1]["role"], "learner");
        assert_eq!(json["last_index"], Value::Null);
    }

    #[test]
    fn limits_have_their_names() {
        let (text, json) = limits(&GetLimitsResponse {
            record_bytes_max: 4 << 20,
            message_bytes_max: 7,
            ..GetLimitsResponse::default()
        });
        assert!(
            text.contains("record_bytes_max                4,194,304"),
            "{text}"
        );
        assert_eq!(json["message_bytes_max"], 7);
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(29));
    }
}
