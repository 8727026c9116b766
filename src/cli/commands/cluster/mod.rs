//! `ferrolog cluster`: who is in the cluster, and changes of that.

mod status;
pub(in crate::cli) mod survey;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Told, grouped, print_as, table};
use crate::cli::{Format, UsageError};
use crate::client::Client;
use crate::config::quantity;
use crate::name::Shown;
use crate::proto::v1::GetLimitsResponse;
use crate::raft::TOKEN_LIFE_MAX;

const HELP: &str = "\
Examples:
  ferrolog cluster status --servers n1:7400,n2:7400,n3:7400
  ferrolog cluster status --server n2:7400 --output json   (what n2 itself knows)
  ferrolog cluster status --watch
  ferrolog cluster transfer                                (to the voter that is furthest on)
  ferrolog cluster transfer n3
  ferrolog cluster drain n2                                (before n2 is restarted; then: cluster undrain n2)
  ferrolog cluster undrain n2
  ferrolog cluster remove n2                               (a node that will not come back)
  ferrolog cluster allow n4                                (n4 may join now, once)
  ferrolog cluster disallow n4
  ferrolog cluster token                                   (whoever starts with it may join, once)
  ferrolog cluster token --life 10m
  ferrolog cluster leave --server n2:7400                  (a node that is up)
  ferrolog cluster limits --server n2:7400                 (how large a record may be, and the like)";

const STATUS_HELP: &str = "\
Every node is asked at the same time, those that the others name, too; one that does not answer within 1.5 s is not up.
LAST HEARD is when the leader heard of it, LAG how many entries it lacks of what is committed.
Exit code 6: fewer than a majority of the voters answer, or none of them leads.";

const DRAIN_HELP: &str = "\
The node must be up; it remembers it in its data directory. It votes, and takes records and calls as before.
If no leader is heard for sixty heartbeats (3 s), it stands for election all the same: it may be the one node that
can lead. Then it hands leadership on once another one can take it.";

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
    /// Show all nodes: which are up, who leads, how far each is; with --server, what that node knows
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Look again every second
        #[arg(long)]
        watch: bool,
    },
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
        /// How long it can be used, such as 10m or 8h, up to a day
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_life)]
        life: u32,
    },
    /// Hand leadership to another voter
    Transfer {
        /// The voter; without it, the one that is furthest on
        name: Option<String>,
    },
    /// Have a node hand leadership on and stay out of it, over restarts, too
    #[command(after_help = DRAIN_HELP)]
    Drain {
        /// The name it was started under
        name: String,
    },
    /// Let a drained node lead again
    Undrain {
        /// The name it was started under
        name: String,
    },
    /// Take the node given with --server out of the cluster
    Leave,
    /// Show what a node takes: sizes, counts, and bytes under way
    Limits,
}

impl ClusterArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }
}

pub(in crate::cli) async fn run(args: ClusterArgs, format: Format) -> anyhow::Result<ExitCode> {
    let server = args.server.as_deref();
    if matches!(args.action, Action::Leave) && server.is_none() {
        let text = "leave removes the node it talks to, which is not named; add --server HOST:PORT";
        return Err(UsageError(text.to_owned()).into());
    }
    let client = args.connection.client(server)?;
    let told = match args.action {
        Action::Status { watch } if server.is_none() => {
            let servers = args.connection.addrs();
            return status::of_all(&client, &servers, watch, format).await;
        }
        Action::Status { watch } => return status::of_one(&client, watch, format).await,
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
        Action::Token { life } => {
            let token = client.admin().join_token(life).await?;
            (
                token.clone(),
                json!({ "token": token, "life_seconds": life }),
            )
        }
        Action::Transfer { name } => {
            let leader = client.admin().transfer(name.as_deref()).await?;
            (format!("{leader} leads now"), json!({ "leader": leader }))
        }
        Action::Drain { name } => drain(&client, &name).await?,
        Action::Undrain { name } => {
            client.admin().undrain(&name).await?;
            let shown = format!("{name} may lead again");
            (shown, json!({ "name": name, "drained": false }))
        }
        Action::Limits => limits(&client.admin().limits().await?),
    };
    print_as(format, told)?;
    Ok(ExitCode::SUCCESS)
}

/// A token's life in whole seconds, up to a day.
fn parse_life(text: &str) -> Result<u32, String> {
    let seconds = quantity::parse_span_ms(text).map(|ms| ms / 1000);
    let seconds = seconds.filter(|seconds| (1..=TOKEN_LIFE_MAX.as_secs()).contains(seconds));
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    seconds.ok_or_else(|| "write a time from 1s to 24h, such as 10m or 8h".to_owned())
}

async fn drain(client: &Client, name: &str) -> anyhow::Result<Told> {
    let leader = client.admin().drain(name).await?;
    let leads = match &*leader {
        "" => "no leader is known just now".to_owned(),
        leader if leader == name => {
            format!(
                "{name} still leads, since no other voter can: it hands leadership on once one can"
            )
        }
        leader => format!("{leader} leads"),
    };
    let shown = format!("{name} is drained; {leads}; `ferrolog cluster undrain {name}` ends it");
    let leader = Some(leader).filter(|leader| !leader.is_empty());
    Ok((
        shown,
        json!({ "name": name, "drained": true, "leader": leader }),
    ))
}

/// There is no node to be removed.
#[derive(Debug, thiserror::Error)]
#[error("there is no member {}, so nothing was changed; the members are {}", Shown(.name), .members.join(", "))]
struct NoMember {
    name: String,
    members: Vec<String>,
}

async fn remove(client: &Client, name: &str) -> anyhow::Result<Told> {
    if !client.admin().remove(name).await? {
        let nodes = client.admin().status(None).await?.nodes;
        let mut members: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
        members.sort_unstable();
        let name = name.to_owned();
        return Err(NoMember { name, members }.into());
    }
    let shown = format!(
        "{name} is no longer a member; before it joins again, stop its process, delete its data, and let it in with \
         `ferrolog cluster allow {name}`"
    );
    Ok((shown, json!({ "name": name, "removed": true })))
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
    let shown = |(name, value): (&str, u64)| {
        let value = match name {
            _ if name.contains("bytes") => quantity::bytes(value),
            _ if name.contains("_ms") => quantity::span_ms(value),
            _ => grouped(value),
        };
        vec![name.to_owned(), value]
    };
    let rows = limits.map(shown);
    let json = limits.map(|(name, value)| (name.to_owned(), value.into()));
    (table(&rows), Value::Object(json.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_their_names() {
        let (text, json) = limits(&GetLimitsResponse {
            record_bytes_max: 4 << 20,
            message_bytes_max: 7,
            ..GetLimitsResponse::default()
        });
        assert!(
            text.contains("record_bytes_max                4MiB"),
            "{text}"
        );
        assert_eq!(json["message_bytes_max"], 7);
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(29));
    }
}
