//! `ferrolog fence`: the names whose holders alone may append in them.

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Format;
use super::connection::ConnectionArgs;
use super::output::{print, table};
use crate::client::{Client, FenceInfo};

const HELP: &str = "\
Each claim of a name raises its epoch; appends under an older one are refused.

Examples:
  ferrolog fence list --servers n1:8400
  ferrolog fence delete nightly       (appends under any of its epochs are refused, also once it is claimed anew)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct FenceArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all names that were claimed
    List,
    /// Forget a name; its epochs are not given again
    Delete { name: String },
}

pub(super) async fn run(args: FenceArgs, format: Format) -> anyhow::Result<()> {
    let client = args.connection.client(None)?;
    let (shown, result) = match args.action {
        Action::List => list(&client.admin().fences().await?),
        Action::Delete { name } => delete(&client, &name).await?,
    };
    let text = if format == Format::Json {
        result.to_string()
    } else {
        shown
    };
    print(&text).context("write to standard output")
}

fn list(fences: &[FenceInfo]) -> (String, Value) {
    let head = ["NAME", "EPOCH", "HOLDER", "OF"]
        .map(str::to_owned)
        .to_vec();
    let rows = fences.iter().map(|fence| {
        vec![
            fence.name.clone(),
            fence.epoch.to_string(),
            fence.holder.clone(),
            fence.subject.clone(),
        ]
    });
    let shown = match fences {
        [] => "there are no fences".to_owned(),
        _ => table(&[head].into_iter().chain(rows).collect::<Vec<_>>()),
    };
    let fences = fences.iter().map(|fence| {
        json!({
            "name": fence.name,
            "epoch": fence.epoch,
            "holder": fence.holder,
            "subject": fence.subject,
        })
    });
    (shown, json!({ "fences": fences.collect::<Vec<_>>() }))
}

async fn delete(client: &Client, name: &str) -> anyhow::Result<(String, Value)> {
    let deleted = client.admin().delete_fence(name).await?;
    let shown = match deleted {
        true => format!("{name} is deleted"),
        false => format!("there is no fence {name}; nothing was changed"),
    };
    Ok((shown, json!({ "name": name, "deleted": deleted })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_shown_for_people_and_for_programs() {
        let fence = FenceInfo {
            name: "job".to_owned(),
            epoch: 3,
            holder: "me".to_owned(),
            subject: "ann".to_owned(),
        };
        let (text, json) = list(&[fence]);
        assert_eq!(text, "NAME  EPOCH  HOLDER  OF\njob       3  me      ann");
        assert_eq!(json["fences"][0]["epoch"], 3);
        let (text, json) = list(&[]);
        assert_eq!(text, "there are no fences");
        assert_eq!(json["fences"], json!([]));
    }
}
