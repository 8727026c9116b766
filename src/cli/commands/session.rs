//! `ferrolog session`: the sessions of producers that are open, for administrators.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::cli::Format;
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::{Cell, Column, Told, listed, print_as};
use crate::client::{Client, SessionInfo};

const HELP: &str = "\
A producer appends under a session, so that a batch that is sent again is there once. It closes the session when
it ends; one that is idle for a day is forgotten.

Examples:
  ferrolog session list --servers n1:7400
  ferrolog session close 1234         (what its producer sends from then on is refused)";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct SessionArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all sessions
    List,
    /// Forget a session
    Close {
        /// Its number, as `session list` shows it
        #[arg(value_name = "SESSION")]
        session: u64,
    },
}

impl SessionArgs {
    pub(in crate::cli) fn connection(&self) -> &ConnectionArgs {
        &self.connection
    }
}

pub(in crate::cli) async fn run(args: SessionArgs, format: Format) -> anyhow::Result<()> {
    let client = args.connection.client(None)?;
    let told = match args.action {
        Action::List => list(&client.admin().sessions().await?),
        Action::Close { session } => close(&client, session).await?,
    };
    print_as(format, told)
}

fn list(sessions: &[SessionInfo]) -> Told {
    let columns = [
        Column("SESSION", "session", |session: &SessionInfo| {
            Cell::Number(session.id)
        }),
        Column("OF", "subject", |session| {
            Cell::Text(session.subject.clone())
        }),
        Column("RECORDS", "records", |session| Cell::Count(session.records)),
        Column("LAST USED", "last_used_ms", |session| {
            Cell::Time(session.last_used_ms)
        }),
    ];
    listed("sessions", sessions, &columns)
}

async fn close(client: &Client, session: u64) -> anyhow::Result<Told> {
    let closed = client.admin().close_session(session).await;
    closed.with_context(|| format!("close session {session}"))?;
    let shown = format!("session {session} is closed");
    Ok((shown, json!({ "session": session, "closed": true })))
}
