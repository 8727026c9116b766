//! A node's settings: defaults, then a file, then the environment, then the command line.
//!
//! The one place where settings are named. A key that is not known is an error, in a file as on
//! the command line: a misspelt setting must not silently be its default.
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod options;
#[doc(hidden)]
pub mod quantity;
mod resolve;
mod shown;
mod told;

use std::path::PathBuf;
use std::time::Duration;

pub use options::Options;
pub use shown::Setting;

use crate::log;
use crate::net::tls::TlsFiles;
use crate::raft::Timing;
use crate::server::Limits;

/// How a node proves itself.
#[derive(Debug, Clone)]
pub enum SecurityConfig {
    /// The node proves nothing, and speaks plain text.
    Insecure,
    /// The node and its peers show certificates.
    Mutual(TlsFiles),
}

/// The settings of a node, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name: 1 to 63 of a-z, 0-9, `-` and `.`.
    pub name: String,
    /// The directory that holds the node's data.
    pub data_dir: PathBuf,
    /// The address to listen on, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where others reach the node, `host:port`; `None`: where it listens.
    pub advertise: Option<String>,
    /// Whether the node may begin a cluster, if its directory is empty.
    pub bootstrap: bool,
    /// The addresses that the node asks to join. A node that begins a cluster must find none there.
    pub join: Vec<String>,
    /// The names that may join the cluster that the node begins.
    pub allow: Vec<String>,
    /// A token that lets the node join; empty: none.
    pub join_token: String,
    /// The access policy's file.
    pub acl: Option<PathBuf>,
    /// How the node proves itself, and what it asks of others.
    pub security: SecurityConfig,
    /// A second address for metrics and probes, without certificates; `None`: there is none.
    pub metrics_listen: Option<String>,
    /// How many logs are told of by name in metrics.
    pub metrics_logs_max: usize,
    /// How many connections of clients there may be.
    pub connections_max: usize,
    /// No connection lives longer.
    pub connection_age_max: Duration,
    /// How many descriptors the port may have open.
    pub descriptors_max: usize,
    /// What the node takes from clients at most.
    pub limits: Limits,
    /// The log's limits: sizes of segments and caches.
    pub log: log::Config,
    /// How often a leader is heard, and how far clocks may be apart.
    pub timing: Timing,
    /// Below so many bytes of room on the disk, records are refused.
    pub disk_reserve_bytes: u64,
    /// How many bytes of sealed segments are read a second to find damage; 0: none.
    pub scrub_bytes_per_second: u64,
    /// How much of the bytes of sealed segments must be dead, in hundredths, so that these are rewritten; 0: they never
    /// are.
    pub rewrite_dead_percent: u64,
    /// The collector that is told the spans of traced calls, `http://host:port`; always `None` without the feature `otlp`.
    pub otlp_endpoint: Option<String>,
}

/// How long a connection lives, unless told otherwise: a day, in seconds.
const CONNECTION_AGE_S: u64 = 24 * 3600;
/// How fast sealed segments are read to find damage, unless told otherwise.
const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
/// How much of sealed segments is dead when they are rewritten, in hundredths, unless told otherwise: they are not.
const REWRITE_DEAD_PERCENT: u64 = 50;
/// Segments that must still fit when records are refused: raft's own entries, and what is under
/// way, need room.
const RESERVE_SEGMENTS: u64 = 4;

/// Logs that metrics tell of by name, unless told otherwise: two series each.
const METRICS_LOGS: usize = 100;
/// More would be too many series for what scrapes them.
const METRICS_LOGS_MOST: usize = 10_000;
/// The host of an address for metrics that names none.
const LOOPBACK: &str = "127.0.0.1";
/// More logs than so many would not fit into the memory that a node is to take.
const LOGS_MOST: u32 = 1_000_000;

/// The reserve of the disk that a log is on, unless a setting says otherwise: it follows from how large segments are.
pub fn reserve_beside(log: &log::Config) -> u64 {
    RESERVE_SEGMENTS * (u64::from(log.segment_bytes_max) + log.index_bytes_max as u64)
}

/// Why a node cannot run with its settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file of settings cannot be read as one.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it, and where.
        what: String,
    },
    /// A setting is missing.
    #[error("{0} is missing: {1}")]
    Missing(&'static str, &'static str),
    /// A setting is out of bounds, or what it says cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Settings contradict each other: each may come from another place.
    #[error("{0}")]
    Contradicting(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::ALLOWED_MAX;

    fn options(text: &str) -> Options {
        Options::parse(text, "f.toml".into()).unwrap()
    }

    const BASE: &str = "name = 'n'\ndata_dir = '/d'\nlisten = '127.0.0.1:0'\n";

    #[test]
    fn what_is_given_later_wins() {
        let file = options("name = 'file'\nlisten = 'f:1'\ninsecure = true\nbootstrap = true");
        let flags = options("name = 'flag'\ndata_dir = '/d'");
        let config = flags.over(file).resolve().unwrap();
        assert_eq!(
            (config.name.as_str(), config.listen.as_str()),
            ("flag", "f:1")
        );
    }

    /// What `--help` says of a default is what holds.
    #[test]
    fn the_help_tells_the_defaults() {
        let config = options(&format!("{BASE}bootstrap = true\ninsecure = true"));
        let config = config.resolve().unwrap();
        let command = <Options as clap::Args>::augment_args(clap::Command::new("serve"));
        let (bytes, span_ms) = (quantity::bytes, quantity::span_ms);
        let shown = [
            (
                "record_bytes_max",
                bytes(config.limits.record_bytes_max as u64),
            ),
            ("logs_max", config.limits.logs_max.get().to_string()),
            ("metrics_logs_max", config.metrics_logs_max.to_string()),
            (
                "segment_bytes_max",
                bytes(config.log.segment_bytes_max.into()),
            ),
            (
                "scrub_bytes_per_second",
                bytes(config.scrub_bytes_per_second),
            ),
            (
                "rewrite_dead_percent",
                config.rewrite_dead_percent.to_string(),
            ),
            ("heartbeat_ms", span_ms(config.timing.heartbeat_ms)),
            ("clock_bound_ms", span_ms(config.timing.clock_bound_ms)),
            (
                "slow_call_ms",
                span_ms(config.timing.slow_call.get().as_millis() as u64),
            ),
            (
                "connection_age_max_seconds",
                span_ms(config.connection_age_max.as_secs() * 1000),
            ),
        ];
        for (name, shown) in shown {
            let arg = command.get_arguments().find(|arg| arg.get_id() == name);
            let help = arg.and_then(clap::Arg::get_help).unwrap().to_string();
            assert!(
                help.contains(&format!("[default: {shown}]")),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn a_collector_is_named_in_a_build_that_can_tell_it() {
        let with = |endpoint: &str| {
            let rest = format!("bootstrap = true\ninsecure = true\notlp_endpoint = '{endpoint}'");
            options(&format!("{BASE}{rest}")).resolve()
        };
        let refused = |endpoint| with(endpoint).unwrap_err().to_string();
        assert_eq!(with(" ").unwrap().otlp_endpoint, None);
        if cfg!(not(feature = "otlp")) {
            let told = refused("http://127.0.0.1:4317");
            assert!(told.contains("--features otlp"), "{told}");
            return;
        }
        let config = with("http://127.0.0.1:4317/").unwrap();
        let endpoint = config.otlp_endpoint.as_deref();
        assert_eq!(endpoint, Some("http://127.0.0.1:4317"));
        for bad in [
            "https://127.0.0.1:4317",
            "127.0.0.1:4317",
            "http://localhost",
        ] {
            let told = refused(bad);
            assert!(told.contains("--otlp-endpoint"), "{bad}: {told}");
        }
    }

    #[test]
    fn metrics_are_told_on_loopback_unless_an_address_is_said() {
        let with = |listen: &str| {
            let rest = format!("bootstrap = true\ninsecure = true\nmetrics_listen = '{listen}'");
            options(&format!("{BASE}{rest}")).resolve()
        };
        for (given, meant) in [
            ("9464", Some("127.0.0.1:9464")),
            (":0", Some("127.0.0.1:0")),
            ("0.0.0.0:9464", Some("0.0.0.0:9464")),
            (" ", None),
        ] {
            let config = with(given).unwrap();
            assert_eq!(config.metrics_listen.as_deref(), meant, "{given:?}");
        }
        let refused = with("localhost").unwrap_err().to_string();
        assert!(refused.contains("--metrics-listen"), "{refused}");
    }

    #[test]
    fn sizes_and_times_are_numbers_or_have_their_unit() {
        let with = |rest: &str| {
            let rest = format!("{BASE}bootstrap = true\ninsecure = true\n{rest}");
            Options::parse(&rest, "f.toml".into()).and_then(Options::resolve)
        };
        let config =
            with("segment_bytes_max = '1MiB'\nrecord_bytes_max = 1000\nheartbeat_ms = '0.1s'");
        let config = config.unwrap();
        assert_eq!(config.log.segment_bytes_max, 1 << 20);
        assert_eq!(config.limits.record_bytes_max, 1000);
        assert_eq!(config.timing.heartbeat_ms, 100);
        for text in ["'12h'", "43200", "'43200'"] {
            let config = with(&format!("connection_age_max_seconds = {text}")).unwrap();
            assert_eq!(config.connection_age_max.as_secs(), 43_200, "{text}");
        }
        let wrong = [
            ("segment_bytes_max = '1 MB'", "write bytes such as 64MiB"),
            ("segment_bytes_max = '8GiB'", "too many"),
            ("disk_reserve_bytes = -1", "below 0"),
            ("heartbeat_ms = true", "50ms"),
            ("connection_age_max_seconds = '90500ms'", "whole seconds"),
            ("connection_age_max_seconds = '1s'", "60"),
        ];
        for (text, hint) in wrong {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = Options::parse("nmae = 'n'", "f.toml".into()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("f.toml") && text.contains("nmae"), "{text}");
    }

    #[test]
    fn the_names_to_let_in_are_those_of_others() {
        let with = |allow: &str| {
            let rest = format!("bootstrap = true\ninsecure = true\nallow = {allow}");
            options(&format!("{BASE}{rest}")).resolve()
        };
        let config = with("['n', ' n2 ', '', 'n3']").unwrap();
        assert_eq!(config.allow, ["n2", "n3"]);
        let refused = with("['N 2']").unwrap_err().to_string();
        assert!(refused.contains("--allow"), "{refused}");
        let many: Vec<_> = (0..=ALLOWED_MAX)
            .map(|number| format!("m{number}"))
            .collect();
        let refused = with(&format!("{many:?}")).unwrap_err().to_string();
        assert!(refused.contains("at most 64"), "{refused}");
    }

    #[test]
    fn contradictions_and_gaps_say_what_to_do() {
        let bad_name = BASE.replace("'n'", "'N 1'") + "bootstrap = true\ninsecure = true";
        let error = options(&bad_name).resolve().unwrap_err().to_string();
        assert!(error.contains("a-z"), "{error}");
        let refused = [
            ("insecure = true", "--join"),
            ("bootstrap = true", "ferrolog certs"),
            (
                "bootstrap = true\ninsecure = true\ntls_ca = 'x'",
                "contradict",
            ),
            ("bootstrap = true\ntls_ca = 'x'", "--tls-cert"),
            (
                "bootstrap = true\ninsecure = true\nlogs_max = 0",
                "--logs-max",
            ),
            (
                "bootstrap = true\ninsecure = true\nsegment_bytes_max = 100",
                "64KiB",
            ),
            (
                "bootstrap = true\ninsecure = true\nrecord_bytes_max = 99999999",
                "at most",
            ),
            ("bootstrap = true\ninsecure = true\nheartbeat_ms = 1", "10"),
            (
                "bootstrap = true\ninsecure = true\nclock_bound_ms = 1",
                "100",
            ),
            (
                "bootstrap = true\ninsecure = true\nconnections_max = 1",
                "16",
            ),
        ];
        for (text, hint) in refused {
            let error = options(&format!("{BASE}{text}"))
                .resolve()
                .unwrap_err()
                .to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        let addrs = [
            ("advertise = 'localhost'", "no port"),
            ("advertise = 'localhost:'", "no port"),
            ("advertise = 'localhost:0'", "no port"),
            ("advertise = 'localhost:99999'", "no port"),
            ("advertise = 'https://127.0.0.1:7400'", "scheme"),
            ("advertise = ':7400'", "no host"),
            ("advertise = 'a b:7400'", "no host"),
            ("advertise = '::1:7400'", "no host"),
            ("join = ['n2']", "no port"),
        ];
        for (text, hint) in addrs {
            let text = format!("{BASE}bootstrap = true\ninsecure = true\n{text}");
            let error = options(&text).resolve().unwrap_err().to_string();
            let setting = if text.contains("join") {
                "--join"
            } else {
                "--advertise"
            };
            assert!(error.contains(hint) && error.contains(setting), "{error}");
        }
        let unset = format!("{BASE}bootstrap = true\ninsecure = true\nadvertise = ''");
        assert_eq!(options(&unset).resolve().unwrap().advertise, None);
        let ipv6 = format!("{BASE}bootstrap = true\ninsecure = true\nadvertise = '[::1]:7400'");
        assert!(options(&ipv6).resolve().unwrap().advertise.is_some());
        let good = format!("{BASE}bootstrap = true\ninsecure = true");
        assert!(options(&good).resolve().is_ok());
    }
}
