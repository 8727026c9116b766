//! `ferrolog dev`: a cluster on this machine, with certificates, until Ctrl-C.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;
use tempfile::TempDir;

use super::local_cluster::{LocalCluster, LocalClusterOptions};
use crate::cli::signals::Signals;
use crate::cli::{Format, output};

const HELP: &str = "\
The nodes speak mutual TLS with certificates made for the occasion. Without --dir all of it is gone at the end;
with it, the next call goes on where this one stopped.

Examples:
  ferrolog dev
  ferrolog dev --nodes 5 --dir ./cluster --base-port 8400";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Keep data, logs and certificates here
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The port of the first node; the others follow [default: free ports]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
}

pub(in crate::cli) async fn run(args: DevArgs, format: Format) -> anyhow::Result<ExitCode> {
    // Before the first child, so that a signal in between stops what was started.
    let mut signals = Signals::listen()?;
    // The directory outlives the cluster: the nodes write into it until they have stopped.
    let (dir, _temporary) = scratch_dir(args.dir, "dev")?;
    let binary = std::env::current_exe().context("find this program's own path")?;
    let mut options = LocalClusterOptions::new(binary, &dir);
    options.nodes = usize::from(args.nodes);
    options.base_port = args.base_port;

    let started = tokio::select! {
        started = LocalCluster::start(options) => started?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let mut cluster = started;
    output::print(&greeting(&cluster, format)).context("write to standard output")?;
    loop {
        tokio::select! {
            _ = signals.next() => break,
            (place, status) = cluster.next_exit() => {
                let log = cluster.log_path(place);
                let name = cluster.name(place);
                output::say(&format!("{name} ended ({status}); see {}", log.display()));
            }
        }
    }
    output::say("stopping");
    cluster.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// The given directory, or a temporary one that goes when the second value is dropped.
pub(in crate::cli) fn scratch_dir(
    given: Option<PathBuf>,
    what: &str,
) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    match given {
        // Absolute, because the commands we print are run from anywhere.
        Some(dir) => Ok((
            std::path::absolute(&dir).context("find the directory")?,
            None,
        )),
        None => {
            let prefix = format!("ferrolog-{what}-");
            let dir = tempfile::Builder::new()
                .prefix(&prefix)
                .tempdir()
                .context("make a temporary directory")?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
    }
}

fn greeting(cluster: &LocalCluster, format: Format) -> String {
    let connection = connection_flags(cluster);
    let program = std::env::current_exe()
        .map_or_else(|_| "ferrolog".into(), |path| path.display().to_string());
    let commands = [
        format!("echo hello | {program} produce {connection}"),
        format!("{program} consume {connection} --follow"),
        format!("{program} cluster status {connection}"),
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
        return json!({ "nodes": nodes.collect::<Vec<_>>(), "commands": commands }).to_string();
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
    let _ = write!(
        text,
        "\nTry, in another terminal:\n\n  {}\n\nCtrl-C stops the nodes.",
        commands.join("\n\n  ")
    );
    text
}

/// The options of a client command that reach this cluster.
fn connection_flags(cluster: &LocalCluster) -> String {
    let servers = cluster.addrs().join(",");
    match cluster.client_tls_files() {
        None => format!("--servers {servers} --insecure"),
        Some(files) => format!(
            "--servers {servers} --tls-ca {} --tls-cert {} --tls-key {}",
            files.ca.display(),
            files.cert.display(),
            files.key.display()
        ),
    }
}
