//! `ferrolog cursor`: consumers' named positions, kept by the cluster.

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Format;
use super::connection::ConnectionArgs;
use super::output::{grouped, print, table};
use crate::client::{Client, CursorInfo};

const HELP: &str = "\
A cursor holds the offset of the record that is read next. It never expires.

Examples:
  ferrolog consume --cursor billing --follow      (makes it, reads on from it, and moves it)
  ferrolog cursor list --servers n1:8400
  ferrolog cursor set billing 1000
  ferrolog cursor set billing 1000 --expected 900 (only if nobody moved it meanwhile)
  ferrolog cursor delete billing
  ferrolog log retention --wait-for-cursor billing --wait-max-bytes 100GiB";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct CursorArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all cursors
    List,
    /// Make or move a cursor
    Set {
        name: String,
        /// The offset of the record that is read next
        offset: u64,
        /// Only if the cursor stands here
        #[arg(long, value_name = "N")]
        expected: Option<u64>,
    },
    /// Forget a cursor
    Delete { name: String },
}

pub(super) async fn run(args: CursorArgs, format: Format) -> anyhow::Result<()> {
    let client = args.connection.client(None)?;
    let (shown, result) = match args.action {
        Action::List => list(&client.admin().cursors().await?),
        Action::Set {
            name,
            offset,
            expected,
        } => set(&client, &name, offset, expected).await?,
        Action::Delete { name } => delete(&client, &name).await?,
    };
    let text = if format == Format::Json {
        result.to_string()
    } else {
        shown
    };
    print(&text).context("write to standard output")
}

fn list(cursors: &[CursorInfo]) -> (String, Value) {
    let head = ["NAME", "OFFSET", "UPDATED MS"].map(str::to_owned).to_vec();
    let rows = cursors.iter().map(|cursor| {
        vec![
            cursor.name.clone(),
            grouped(cursor.offset),
            cursor.updated_ms.to_string(),
        ]
    });
    let shown = match cursors {
        [] => "there are no cursors".to_owned(),
        _ => table(&[head].into_iter().chain(rows).collect::<Vec<_>>()),
    };
    let cursors = cursors.iter().map(|cursor| {
        json!({ "name": cursor.name, "offset": cursor.offset, "updated_ms": cursor.updated_ms })
    });
    (shown, json!({ "cursors": cursors.collect::<Vec<_>>() }))
}

async fn set(
    client: &Client,
    name: &str,
    offset: u64,
    expected: Option<u64>,
) -> anyhow::Result<(String, Value)> {
    let set = client.admin().commit_cursor(name, offset, expected).await;
    set.with_context(|| format!("set the cursor {name}"))?;
    let shown = format!("{name} stands at offset {offset} now");
    Ok((shown, json!({ "name": name, "offset": offset })))
}

async fn delete(client: &Client, name: &str) -> anyhow::Result<(String, Value)> {
    let deleted = client.admin().delete_cursor(name).await?;
    let shown = match deleted {
        true => format!("{name} is deleted"),
        false => format!("there is no cursor {name}; nothing was changed"),
    };
    Ok((shown, json!({ "name": name, "deleted": deleted })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_shown_for_people_and_for_programs() {
        let cursor = CursorInfo {
            name: "billing".to_owned(),
            offset: 1234,
            updated_ms: 7,
        };
        let (text, json) = list(&[cursor]);
        assert_eq!(
            text,
            "NAME     OFFSET  UPDATED MS\nbilling   1,234           7"
        );
        assert_eq!(json["cursors"][0]["offset"], 1234);
        let (text, json) = list(&[]);
        assert_eq!(text, "there are no cursors");
        assert_eq!(json["cursors"], json!([]));
    }
}
