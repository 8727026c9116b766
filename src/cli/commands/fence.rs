//! `ferrolog fence`: the names whose holders alone may append in them.

use clap::Subcommand;

use crate::cli::Format;
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Cell, Column, Told, deleted, listed, print_as};
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

impl FenceArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }
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
    let columns = [
        Column("NAME", "name", |fence: &FenceInfo| {
            Cell::Text(fence.name.clone())
        }),
        Column("EPOCH", "epoch", |fence| Cell::Number(fence.epoch)),
        Column("HOLDER", "holder", |fence| Cell::Text(fence.holder.clone())),
        Column("OF", "subject", |fence| Cell::Text(fence.subject.clone())),
    ];
    listed("fences", fences, &columns)
}
