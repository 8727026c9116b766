//! `ferrolog dev`: a cluster on this machine, with certificates, until Ctrl-C.

mod control;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use super::local_cluster::{LocalCluster, LocalClusterOptions};
use crate::cli::files::{self, scratch_dir};
use crate::cli::signals::Signals;
use crate::cli::{Format, UsageError, output};
use control::Control;

const HELP: &str = "\
The nodes speak mutual TLS with certificates made for the occasion. Without --dir all of it is gone at the end;
with it, the next call goes on where this one stopped. Ctrl-C, or the end of the terminal, stops the nodes. A node that
was killed stays down, so that you see what the others do, until `restart` starts it again.

Examples:
  ferrolog dev
  ferrolog dev --nodes 5 --dir ./cluster --base-port 7401
  ferrolog dev restart n2          (in another terminal, with FERROLOG_DEV_DIR set as the first one printed it)";

/// The nodes of a new cluster.
const NODES_DEFAULT: u8 = 3;

#[derive(Debug, clap::Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct DevArgs {
    /// How many nodes [default: 3, or as many as --dir has]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Keep data, logs and certificates here
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The port of the first node; the others follow [default: free ports, or those that --dir has]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a node again that was killed; one that runs is stopped first
    Restart {
        /// The node, such as n2
        name: String,
        /// The directory of the `ferrolog dev` that runs
        #[arg(long = "dir", value_name = "DIR", env = "FERROLOG_DEV_DIR")]
        running: Option<PathBuf>,
    },
}

pub(in crate::cli) async fn run(args: DevArgs, format: Format) -> anyhow::Result<ExitCode> {
    if let Some(Action::Restart { name, running }) = &args.action {
        let text =
            "say where it runs with --dir, or set FERROLOG_DEV_DIR as `ferrolog dev` printed it";
        let running = running
            .as_ref()
            .ok_or_else(|| UsageError(text.to_owned()))?;
        let addr = control::restart(running, name).await?;
        let told = json!({ "name": name, "addr": addr });
        output::print_as(format, (format!("{name} listens on {addr}"), told))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before the first child, so that a signal in between stops what was started.
    let mut signals = Signals::listen()?;
    // The directory outlives the cluster: the nodes write into it until they have stopped.
    let (dir, _temporary) = scratch_dir(args.dir.clone(), "dev")?;
    files::create_private_dir(&dir)?;
    let control = Control::listen(&dir)?;
    let binary = std::env::current_exe().context("find this program's own path")?;
    let mut options = LocalClusterOptions::new(binary, &dir);
    options.nodes = fitting(&args, &dir)?;
    options.base_port = args.base_port;

    let started = tokio::select! {
        started = LocalCluster::start(options) => started?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let mut cluster = started;
    output::print(&greeting(&cluster, &dir, format)).context("write to standard output")?;
    loop {
        tokio::select! {
            _ = signals.next() => break,
            (place, status) = cluster.next_exit() => {
                let log = cluster.log_path(place);
                let name = cluster.name(place);
                output::say(&format!(
                    "{name} ended ({status}); see {}, and start it again with `ferrolog dev restart {name}`",
                    log.display()
                ));
            }
            request = control.next() => {
                let outcome = restart(&mut cluster, &request.name).await;
                if let Ok(addr) = &outcome {
                    output::say(&format!("{} runs again, on {addr}", request.name));
                }
                request.answer(&outcome).await;
            }
        }
    }
    output::say("stopping");
    cluster.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a node again; gives where it listens.
async fn restart(cluster: &mut LocalCluster, name: &str) -> anyhow::Result<String> {
    let mut places = 0..cluster.node_count();
    let place = places.find(|&place| cluster.name(place) == name);
    let place = place.with_context(|| {
        let count = cluster.node_count();
        format!("there is no node {name:?} here; the nodes are n1 to n{count}")
    })?;
    if cluster.is_running(place) {
        cluster.end(place).await?;
    }
    cluster.restart(place).await?;
    Ok(cluster.addr(place).to_owned())
}

/// How many nodes to start. A cluster that is in the directory goes on as it was: its nodes know each other by their
/// addresses, and let in no others.
fn fitting(args: &DevArgs, dir: &Path) -> anyhow::Result<usize> {
    let known = LocalCluster::left_in(dir)?;
    let (dir, count) = (dir.display(), known.len());
    if count == 0 {
        return Ok(args.nodes.unwrap_or(NODES_DEFAULT).into());
    }
    if args.nodes.is_some_and(|nodes| usize::from(nodes) != count) {
        let nodes = output::counted(count as u64, "node", "nodes");
        let text = format!(
            "{dir} holds a cluster of {nodes}; leave --nodes out to go on with it, or give another --dir"
        );
        return Err(UsageError(text).into());
    }
    let first = args.base_port.map(|port| format!("127.0.0.1:{port}"));
    if first.is_some_and(|first| first != known[0]) {
        let at = known.join(", ");
        let text = format!(
            "the nodes of the cluster in {dir} listen on {at}; leave --base-port out to go on with them, or give \
             another --dir"
        );
        return Err(UsageError(text).into());
    }
    Ok(count)
}

/// What the environment of a client command has to hold to reach this cluster, as three lines for a shell.
fn exports(cluster: &LocalCluster, dir: &Path) -> [String; 3] {
    let security = match cluster.client_tls_files() {
        None => "FERROLOG_INSECURE=true".to_owned(),
        Some(files) => {
            let below = |path: &Path| match path.strip_prefix(dir) {
                Ok(below) => format!("$FERROLOG_DEV_DIR/{}", below.display()),
                Err(_) => quoted(path),
            };
            format!(
                "FERROLOG_TLS_CA={} FERROLOG_TLS_CERT={} FERROLOG_TLS_KEY={}",
                below(&files.ca),
                below(&files.cert),
                below(&files.key)
            )
        }
    };
    [
        format!("export FERROLOG_DEV_DIR={}", quoted(dir)),
        format!("export FERROLOG_SERVERS={}", cluster.addrs().join(",")),
        format!("export {security}"),
    ]
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// This program as it is typed: by its name alone if it was found so.
fn program() -> String {
    let typed = std::env::args_os().next().map(PathBuf::from);
    match typed.filter(|typed| typed.components().count() == 1) {
        Some(name) => quoted(&name),
        None => std::env::current_exe().map_or_else(|_| "ferrolog".into(), |path| quoted(&path)),
    }
}

fn greeting(cluster: &LocalCluster, dir: &Path, format: Format) -> String {
    let (program, exports) = (program(), exports(cluster, dir));
    let commands = [
        format!("echo hello | {program} produce"),
        format!("{program} consume --follow"),
        format!("{program} cluster status"),
    ];
    let nodes = (0..cluster.node_count()).map(|place| {
        json!({
            "name": cluster.name(place),
            "addr": cluster.addr(place),
            "pid": cluster.pid(place),
            "data_dir": cluster.data_dir(place),
            "log": cluster.log_path(place),
        })
    });
    if format == Format::Json {
        let nodes = nodes.collect::<Vec<_>>();
        return json!({ "nodes": nodes, "exports": exports, "commands": commands }).to_string();
    }
    let mut text = String::new();
    for place in 0..cluster.node_count() {
        let pid = cluster.pid(place).unwrap_or_default();
        let log = cluster.log_path(place);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}  {}  process {pid}  log {}",
            cluster.name(place),
            cluster.addr(place),
            log.display()
        );
    }
    let last = cluster.node_count() - 1;
    let _ = write!(
        text,
        "\nTry, in another terminal:\n\n  {}\n\n  {}\n\nKill a node, and start it again:\n\n  kill -9 {}\n  \
         {program} dev restart {}\n\nCtrl-C stops the nodes.",
        exports.join("\n  "),
        commands.join("\n  "),
        cluster.pid(last).unwrap_or_default(),
        cluster.name(last),
    );
    text
}
