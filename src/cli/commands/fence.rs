//! `ferrolog fence`: the names whose holders alone may append in them.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::cli::Format;
use crate::cli::connection::{ConnectionArgs, OfLog};
use crate::cli::output::{Cell, Column, Told, deleted, listed, print_as};
use crate::client::{Claim, FenceInfo};

const HELP: &str = "\
Each claim of a name raises its epoch; appends under an older one are refused. Whoever appends under a name claims it
first, and gives the epoch that the claim printed to `ferrolog produce --fence NAME:EPOCH`.

Examples:
  ferrolog fence claim nightly --servers n1:7400
  ferrolog fence claim nightly --expected 3 (only if nobody else claimed it since epoch 3)
  ferrolog produce --fence nightly:4 dump.txt
  ferrolog fence show nightly
  ferrolog fence list
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
    /// Take a name over: appends under its older epochs are refused from then on
    Claim {
        /// What is taken over, such as a job
        name: String,
        /// What the holder calls itself, for those who look [default: the user's name]
        #[arg(long, value_name = "TEXT")]
        holder: Option<String>,
        /// Only if this is the present epoch; 0 for a name that nobody claimed
        #[arg(long, value_name = "EPOCH")]
        expected: Option<u64>,
        #[command(flatten)]
        log: OfLog,
    },
    /// Show the present epoch of a name, and who holds it
    Show {
        /// As it was claimed
        name: String,
    },
    /// Show all names that were claimed
    List,
    /// Forget a name; its epochs are not given again
    Delete {
        /// As it was claimed
        name: String,
    },
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
        Action::Claim {
            name,
            holder,
            expected,
            log,
        } => {
            let holder = holder.unwrap_or_else(user);
            let of = log.of(&client).admin();
            let claim = of.claim_epoch(&name, &holder, expected).await;
            let claim = claim.with_context(|| format!("claim {name}"))?;
            claimed(&name, &holder, log.name(), claim)
        }
        Action::Show { name } => {
            let (epoch, holder) = admin.epoch(&name).await?;
            shown(&name, epoch, &holder)
        }
        Action::List => list(&admin.fences().await?),
        Action::Delete { name } => deleted("fence", &name, admin.delete_fence(&name).await?),
    };
    print_as(format, told)
}

/// Who types this, as far as the environment says.
fn user() -> String {
    let named = std::env::var("USER").ok().filter(|name| !name.is_empty());
    named.unwrap_or_else(|| "the command line".to_owned())
}

fn claimed(name: &str, holder: &str, log: &str, claim: Claim) -> Told {
    let Claim { epoch, next_offset } = claim;
    let text = format!(
        "{name} has epoch {epoch} now, held by {holder}: append with `ferrolog produce --fence {name}:{epoch}`\n\
         no record of an older epoch comes to the log {log} at offset {next_offset} or behind it"
    );
    let told = json!({
        "name": name,
        "epoch": epoch,
        "holder": holder,
        "log": log,
        "next_offset": next_offset,
    });
    (text, told)
}

fn shown(name: &str, epoch: u64, holder: &str) -> Told {
    let text = match epoch {
        0 => format!("nobody holds {name}: take it with `ferrolog fence claim {name}`"),
        epoch => format!("{name} has epoch {epoch}, held by {holder}"),
    };
    (
        text,
        json!({ "name": name, "epoch": epoch, "holder": holder }),
    )
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
