//! What the command line says of a measurement.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::rows::{self, RowName};
use crate::cli::connection::ConnectionArgs;
use crate::cli::output::quantities::parse_wait;
use crate::cli::tools::local_cluster::LocalClusterOptions;

#[derive(Debug, clap::Args)]
#[command(after_help = rows::HELP)]
pub(in crate::cli) struct BenchArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
    /// How often each row runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) runs: u32,
    /// How long a run of a produce row is, such as 30s; a bare number is of seconds
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_wait)]
    pub(super) seconds: Duration,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = RowName::ALL)]
    pub(super) rows: Vec<RowName>,
    /// Compare so many logs with one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub(super) logs: Option<u32>,
    /// Measure a table of so many keys, in a log that is compacted by key, and nothing else
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000),
        conflicts_with_all = ["rows", "logs", "servers"]
    )]
    pub(super) keys: Option<u32>,
    /// How often each key is set, on average
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        requires = "keys",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub(super) updates: u32,
    /// Measure so many logs that forget their records after times of their own, and nothing else
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000),
        conflicts_with_all = ["rows", "logs", "keys", "servers"]
    )]
    pub(super) expiring: Option<u32>,
    /// The load on them [default: half of what callers reach first]
    #[arg(
        long,
        value_name = "N",
        requires = "expiring",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(super) calls_per_second: Option<u32>,
    /// The bytes of a record
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=4 * 1024 * 1024))]
    pub(super) size: u32,
    /// Own nodes speak mutual TLS
    #[arg(long, conflicts_with = "servers")]
    pub(super) tls: bool,
    /// Where own nodes keep their data [default: a temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "servers")]
    pub(super) dir: Option<PathBuf>,
}

impl BenchArgs {
    /// Nodes of its own to measure.
    pub(super) fn own_nodes(&self, dir: PathBuf) -> anyhow::Result<LocalClusterOptions> {
        let binary = std::env::current_exe().context("find this program's own path")?;
        let mut options = LocalClusterOptions::new(binary, dir);
        options.tls = self.tls;
        Ok(options)
    }
}
