//! A node's settings: defaults, then a file, then the environment, then the command line.
//!
//! The one place where settings are named. A key that is not known is an error, in a file as on
//! the command line: a misspelt setting must not silently be its default.
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod options;
#[doc(hidden)]
pub mod quantity;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use options::Options;

use crate::log;
use crate::net::identity::is_valid_name;
use crate::net::mux::CLIENTS_MAX;
use crate::net::tls::TlsFiles;
use crate::raft::{ALLOWED_MAX, Timing};
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
}

/// How long a connection lives, unless told otherwise: a day, in seconds.
const CONNECTION_AGE_S: u64 = 24 * 3600;
/// How fast sealed segments are read to find damage, unless told otherwise.
const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
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
    /// Settings contradict each other or are out of bounds.
    #[error("{0}")]
    Invalid(String),
}

impl Options {
    /// Checks the settings and fills in the defaults.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] if a setting is missing, out of bounds, or contradicts another one.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let security = self.security()?;
        let missing = ConfigError::Missing;
        let name = self
            .name
            .ok_or(missing("--name", "give the node a name of its own"))?;
        check_name("--name", &name)?;
        let bootstrap = self.bootstrap.unwrap_or(false);
        let mut join = self.join.unwrap_or_default();
        join.retain(|addr| !addr.trim().is_empty());
        if !bootstrap && join.is_empty() {
            let what = "the first node of a cluster starts with --bootstrap, the others with \
                        --join and the address of a node";
            return Err(missing("--bootstrap or --join", what));
        }
        let allow = allowed(self.allow.unwrap_or_default(), &name)?;
        let sizes = Sizes::new(self.segment_bytes_max, self.record_bytes_max)?;
        let logs_max = self.logs_max.unwrap_or(sizes.limits.logs_max);
        check_range("--logs-max", logs_max, 1..=LOGS_MOST)?;
        let timing = timing(self.heartbeat_ms, self.clock_bound_ms, self.slow_call_ms)?;
        let connections_max = self.connections_max.unwrap_or(CLIENTS_MAX);
        check_range("--connections-max", connections_max, 16..=1 << 20)?;
        let connection_age_max = connection_age(self.connection_age_max_seconds)?;
        let listen = self
            .listen
            .filter(|addr| !addr.trim().is_empty())
            .ok_or(missing(
                "--listen",
                "name the address, such as 127.0.0.1:7400",
            ))?;
        let listen = check_addr("--listen", &listen, 0)?;
        // An empty address is what a template leaves of an unset variable.
        let advertise = self.advertise.filter(|addr| !addr.trim().is_empty());
        let advertise = advertise.map(|addr| check_addr("--advertise", &addr, 1));
        let advertise = advertise.transpose()?;
        let metrics = metrics(self.metrics_listen.as_deref(), self.metrics_logs_max)?;
        let join = join.iter().map(|addr| check_addr("--join", addr, 1));
        let join = join.collect::<Result<Vec<_>, _>>()?;
        Ok(Config {
            name,
            data_dir: self.data_dir.ok_or(missing(
                "--data-dir",
                "name the directory for the node's data",
            ))?,
            listen,
            advertise,
            bootstrap,
            join,
            allow,
            join_token: self.join_token.unwrap_or_default().trim().to_owned(),
            acl: self.acl,
            security,
            metrics_listen: metrics.0,
            metrics_logs_max: metrics.1,
            connections_max,
            connection_age_max,
            descriptors_max: usize::MAX,
            limits: Limits {
                logs_max,
                create_logs_on_produce: self.create_logs_on_produce.unwrap_or(false),
                ..sizes.limits
            },
            log: sizes.log,
            disk_reserve_bytes: self.disk_reserve_bytes.unwrap_or(sizes.reserve),
            scrub_bytes_per_second: self
                .scrub_bytes_per_second
                .unwrap_or(SCRUB_BYTES_PER_SECOND),
            timing,
        })
    }

    fn security(&self) -> Result<SecurityConfig, ConfigError> {
        let files = (
            self.tls_ca.clone(),
            self.tls_cert.clone(),
            self.tls_key.clone(),
        );
        match (self.insecure.unwrap_or(false), files) {
            (true, (None, None, None)) => Ok(SecurityConfig::Insecure),
            (true, _) => Err(ConfigError::Invalid(
                "--insecure and certificates contradict each other: give one or the other"
                    .to_owned(),
            )),
            (false, (Some(ca), Some(cert), Some(key))) => {
                let crl = self.tls_crl.clone();
                Ok(SecurityConfig::Mutual(TlsFiles { ca, cert, key, crl }))
            }
            (false, _) => Err(ConfigError::Missing(
                "--tls-ca, --tls-cert or --tls-key",
                "make all three with `ferrolog certs --out certs`, or try on this machine with \
                 --insecure",
            )),
        }
    }
}

/// How long a connection lives at most.
fn connection_age(seconds: Option<u64>) -> Result<Duration, ConfigError> {
    let seconds = seconds.unwrap_or(CONNECTION_AGE_S);
    let most = 366 * CONNECTION_AGE_S;
    check_range("--connection-age-max-seconds", seconds, 60..=most)?;
    Ok(Duration::from_secs(seconds))
}

/// The address for metrics, and how many logs they tell of by name.
fn metrics(
    listen: Option<&str>,
    logs_max: Option<usize>,
) -> Result<(Option<String>, usize), ConfigError> {
    let logs_max = logs_max.unwrap_or(METRICS_LOGS);
    check_range("--metrics-logs-max", logs_max, 0..=METRICS_LOGS_MOST)?;
    Ok((metrics_addr(listen)?, logs_max))
}

/// The address for metrics: on loopback if none is said but a port.
fn metrics_addr(given: Option<&str>) -> Result<Option<String>, ConfigError> {
    let given = given.unwrap_or_default().trim();
    let port = given.strip_prefix(':').unwrap_or(given);
    let addr = match port {
        // An empty address is what a template leaves of an unset variable.
        "" => return Ok(None),
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("{LOOPBACK}:{port}"),
        _ => given.to_owned(),
    };
    check_addr("--metrics-listen", &addr, 0).map(Some)
}

/// The other nodes that are named.
fn allowed(mut names: Vec<String>, own: &str) -> Result<Vec<String>, ConfigError> {
    for name in &mut names {
        *name = name.trim().to_owned();
    }
    names.retain(|name| !name.is_empty() && name != own);
    for name in &names {
        check_name("--allow", name)?;
    }
    if names.len() > ALLOWED_MAX {
        let what = format!("--allow names at most {ALLOWED_MAX} nodes");
        return Err(ConfigError::Invalid(what));
    }
    Ok(names)
}

fn check_name(setting: &str, name: &str) -> Result<(), ConfigError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(ConfigError::Invalid(format!(
        "{setting} {name:?} is not 1 to 63 of the characters a-z, 0-9, '-' and '.', the first a letter \
         or digit"
    )))
}

fn check_range<T>(setting: &str, value: T, range: RangeInclusive<T>) -> Result<(), ConfigError>
where
    T: PartialOrd + Display,
{
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    let what = format!("{setting} is between {least} and {most}");
    Err(ConfigError::Invalid(what))
}

/// An address as it can be dialled: a host and a port, no lower than `port_min`.
fn check_addr(setting: &str, addr: &str, port_min: u16) -> Result<String, ConfigError> {
    let addr = addr.trim();
    let wrong = |what: &str| {
        let what = format!("{setting} {addr:?} {what}: write HOST:PORT, such as 127.0.0.1:7400");
        Err(ConfigError::Invalid(what))
    };
    if addr.contains("://") {
        return wrong("begins with a scheme");
    }
    let Some((host, port)) = addr.rsplit_once(':') else {
        return wrong("has no port");
    };
    if !port.parse::<u16>().is_ok_and(|port| port >= port_min) {
        return wrong("has no port that can be dialled");
    }
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let known = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
            !host.is_empty() && host.len() <= 253 && host.chars().all(known)
        }
    };
    if !is_host {
        return wrong("has no host (an IPv6 address stands in brackets)");
    }
    Ok(addr.to_owned())
}

fn timing(
    heartbeat: Option<u64>,
    clock_bound: Option<u64>,
    slow_call: Option<u64>,
) -> Result<Timing, ConfigError> {
    let usual = Timing::default();
    let heartbeat_ms = heartbeat.unwrap_or(usual.heartbeat_ms);
    check_range("--heartbeat-ms", heartbeat_ms, 10..=10_000)?;
    let clock_bound_ms = clock_bound.unwrap_or(usual.clock_bound_ms);
    check_range("--clock-bound-ms", clock_bound_ms, 100..=60_000)?;
    Ok(Timing {
        heartbeat_ms,
        election_ms: (3 * heartbeat_ms, 6 * heartbeat_ms),
        clock_bound_ms,
        slow_call: slow_call.map_or(usual.slow_call, Duration::from_millis),
        ..usual
    })
}

/// Sizes that follow from those of segments and records.
struct Sizes {
    log: log::Config,
    limits: Limits,
    reserve: u64,
}

impl Sizes {
    fn new(segment: Option<u32>, record: Option<usize>) -> Result<Self, ConfigError> {
        let (log, limits) = (log::Config::default(), Limits::default());
        let segment_bytes_max = segment.unwrap_or(log.segment_bytes_max);
        let record_bytes_max = record.unwrap_or(limits.record_bytes_max);
        if !(1 << 16..=1 << 30).contains(&segment_bytes_max) {
            let what = "--segment-bytes-max is between 64KiB and 1GiB".to_owned();
            return Err(ConfigError::Invalid(what));
        }
        // A message between nodes holds a record and little else. One that is larger than a segment
        // gets a segment of its own.
        let most = 32 << 20;
        if record_bytes_max > most {
            let what = format!("--record-bytes-max is at most {}MiB", most >> 20);
            return Err(ConfigError::Invalid(what));
        }
        // A batch of one small record takes at least eight times its row.
        let index_bytes_max = (segment_bytes_max as usize / 8).min(log.index_bytes_max);
        // Segments should hold more than a few batches.
        let batch_bytes_max = limits.batch_bytes_max.min(segment_bytes_max as usize / 4);
        Ok(Self {
            reserve: RESERVE_SEGMENTS * (u64::from(segment_bytes_max) + index_bytes_max as u64),
            log: log::Config {
                segment_bytes_max,
                index_bytes_max,
                ..log
            },
            limits: Limits {
                record_bytes_max,
                batch_bytes_max,
                ..limits
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("logs_max", config.limits.logs_max.to_string()),
            ("metrics_logs_max", config.metrics_logs_max.to_string()),
            (
                "segment_bytes_max",
                bytes(config.log.segment_bytes_max.into()),
            ),
            (
                "scrub_bytes_per_second",
                bytes(config.scrub_bytes_per_second),
            ),
            ("heartbeat_ms", span_ms(config.timing.heartbeat_ms)),
            ("clock_bound_ms", span_ms(config.timing.clock_bound_ms)),
            (
                "slow_call_ms",
                span_ms(config.timing.slow_call.as_millis() as u64),
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
