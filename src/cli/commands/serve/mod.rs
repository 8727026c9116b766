//! `ferrolog serve`: runs a node until it is told to stop, or cannot go on.

mod reload;
mod settings;

pub(in crate::cli) use reload::policy;
pub(in crate::cli) use settings::{SettingsArgs, Together};

use std::future::pending;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, Stdin};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{Agent, Bound, Policy, Seams, Threads, check_certificate};
use crate::config::SecurityConfig;
use crate::log;
use crate::net::Security;
use crate::net::mux::MuxLimits;
use crate::net::tls::Tls;

use crate::cli::{files, logging, output};
use reload::Reloading;

const EXAMPLES: &str = "\
Examples:
  ferrolog certs --out certs --nodes n1,n2,n3
  ferrolog serve --name n1 --data-dir data/n1 --listen 127.0.0.1:7401 \\
    --bootstrap --allow n2,n3 --join 127.0.0.1:7402,127.0.0.1:7403 \\
    --tls-ca certs/ca.pem --tls-cert certs/n1.pem --tls-key certs/n1-key.pem
  ferrolog serve --name n2 --data-dir data/n2 --listen 127.0.0.1:7402 --join 127.0.0.1:7401 \\
    --tls-ca certs/ca.pem --tls-cert certs/n2.pem --tls-key certs/n2-key.pem

One line goes to standard output, once the port is bound: `listening HOST:PORT`.
Start a node with the same options every time: what is done already is not done again.
Name the other nodes with --join beside --bootstrap: a first node whose disk was wiped then finds
its cluster, instead of beginning a second one.
With certificates a node joins if its name was allowed, with --allow at the beginning or with
`ferrolog cluster allow`, or if it shows what `ferrolog cluster token` printed.
SIGTERM and SIGINT stop it within ten seconds: leadership is handed on first.";

/// Run a node
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Stop when standard input closes, as it does when whoever started the node is gone
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs until a signal or a failure.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let together = args.settings.together()?;
    if args.settings.file().is_some() {
        let file = &together.options;
        logging::begin(file.log_level.as_deref(), file.log_format.as_deref())?;
    }
    let of_both = |error| together.with_origins(error);
    let resolved = together.options.clone().resolve();
    let mut config = resolved.map_err(|fault| together.explained(fault))?;
    let security = match &config.security {
        SecurityConfig::Insecure => Security::Insecure,
        SecurityConfig::Mutual(files) => {
            let loaded = Tls::load(files).map_err(anyhow::Error::new);
            Security::Mutual(loaded.map_err(of_both)?)
        }
    };
    if let Security::Mutual(tls) = &security {
        let fits = check_certificate(&config.name, &tls.identity());
        fits.map_err(anyhow::Error::new).map_err(of_both)?;
    }
    let policy = match &config.acl {
        Some(path) => policy(path)?,
        None => Policy::default(),
    };
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // Listened for from the beginning, so that a terminal that is closed ends no node.
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let mut starter = args.until_stdin_closes.then(tokio::io::stdin);

    let files = raise_file_limit();
    config.descriptors_max = descriptors_for_connections(files, config.connections_max);
    share_with_log(files, &mut config.log);
    let threads = Threads::start().context("start the threads of consensus")?;
    let seams = Seams::real(threads.runtimes());
    let files_of = config.clone();
    let bound = Bound::bind(config, security, policy, seams).await?;
    let mut reloading = Reloading::new(args.settings, &files_of, bound.reloads());
    let mut told = async || {
        tokio::select! {
            () = closed(starter.as_mut()) => "the end of whoever started it",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = reloading.run(&mut hangup) => "no more signals",
        }
    };
    announce(bound.local_addr());
    let mut agent: Agent = tokio::select! {
        started = bound.start() => started?,
        signal = told() => {
            tracing::info!(signal, "stopped before the node was a member");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tracing::info!(addr = %agent.addr(), node = agent.log().identity().node_id,
        cluster = %agent.log().identity().cluster_id, "serving");
    tokio::select! {
        failed = agent.failed() => {
            agent.kill().await;
            Err(anyhow::Error::new(failed).context("the node stopped"))
        }
        signal = told() => {
            tracing::info!(signal, "stopping");
            agent.shutdown().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The end of standard input: it closes when the process at its other end is gone, however that ended.
async fn closed(stdin: Option<&mut Stdin>) {
    match stdin {
        // Nobody writes to it; an error is an end as well.
        Some(stdin) => while matches!(stdin.read(&mut [0; 64]).await, Ok(1..)) {},
        None => pending().await,
    }
}

/// Half of what the process may open is for connections that come in; the other half is kept for the log's
/// files, the stable store, and the connections to peers.
fn descriptors_for_connections(files: Option<u64>, connections_max: usize) -> usize {
    let Some(files) = files else {
        return usize::MAX;
    };
    let half = usize::try_from(files / 2).unwrap_or(usize::MAX);
    let connections = MuxLimits::within(connections_max, half).clients_max;
    if connections < connections_max {
        tracing::warn!(
            files,
            connections,
            "this process may open few files, so it takes few connections: raise the limit (ulimit -n, \
             LimitNOFILE)"
        );
    }
    half
}

/// Limits how many files the log opens at once, so that they fit into its half beside the connections to peers.
fn share_with_log(files: Option<u64>, log: &mut log::Config) {
    let Some(files) = files else {
        return;
    };
    log.keep_to(files);
    let needed = log.descriptors_max() as u64;
    if needed > files / 2 {
        tracing::warn!(
            files,
            needed,
            "this process may open few files, and the log may have to wait for one: raise the limit (ulimit -n, \
             LimitNOFILE)"
        );
    } else {
        tracing::info!(files, needed, "the log opens so many files at most");
    }
}

/// Raises the limit of open files to what the system allows: shells allow few, and a node holds many. Returns the
/// limit; `None` if there is none.
fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    getrlimit(Resource::Nofile).current
}

/// The text of a file that must be there.
pub(in crate::cli) fn read(path: &Path) -> anyhow::Result<String> {
    let text = files::read_if_present(path)?;
    text.with_context(|| format!("{} does not exist; check the path", path.display()))
}

/// Prints where the node listens: the one line that the process which started the node waits for.
fn announce(addr: &str) {
    if let Err(error) = output::print(&format!("listening {addr}")) {
        tracing::warn!(%error, "nobody was told where this node listens");
    }
}
