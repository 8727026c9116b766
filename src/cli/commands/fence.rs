//! `ferrolog fence`: the names whose holders alone may append in them.

use clap::Subcommand;
use serde_json::json;

use crate::cli::Format;
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Told, deleted, listed, print_as};
use crate::client::FenceInfo;

const HELP: &str = "\
Each claim of a name raises its epoch; appends under an older one are refused.

Examples:
  ferrolog fence list --servers n1:8400
  ferrolog fence delete nightly       (appends under any of its epochs are refused, also once it is claimed anew)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct FenceArgs {
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

pub(in crate::cli) async fn run(args: FenceArgs, format: Format) -> anyhow::Result<()> {
    let client = args.connection.client(None)?;
    let admin = client.admin();
    let told = match args.action {
        Action::List => list(&admin.fences().await?),
        Action::Delete { name } => deleted("fence", &name, admin.delete_fence(&name).await?),
    };
    print_as(format, told)
}

fn list(fences: &[FenceInfo]) -> Told {
    let head = ["NAME", "EPOCH", "HOLDER", "OF"];
    let row = |fence: &FenceInfo| {
        vec![
            fence.name.clone(),
            fence.epoch.to_string(),
            fence.holder.clone(),
            fence.subject.clone(),
        ]
    };
    listed("fences", &head, fences, row, |fence| {
        json!({
            "name": fence.name,
            "epoch": fence.epoch,
            "holder": fence.holder,
            "subject": fence.subject,
        })
    })
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
    }
}
