//! Settings as they are given: in a file, in the environment, on the command line.

use std::fmt;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConfigError, quantity};

const HELP_SECURITY: &str = "Security";
const HELP_TUNING: &str = "Tuning";

/// Settings as they are given: what is not given is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The node's name: unique in the cluster, and the same at every start
    #[arg(long, env = "FERROLOG_NAME")]
    pub name: Option<String>,
    /// Where the node keeps its data; made if missing
    #[arg(long, env = "FERROLOG_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The one address for clients and peers; port 0 picks a free one
    #[arg(long, env = "FERROLOG_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The address that others reach the node at [default: the listening one]
    #[arg(long, env = "FERROLOG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Begin a new cluster with this node, unless its directory holds a node already. With --join,
    /// refuse if one of those addresses belongs to a cluster
    #[arg(long, env = "FERROLOG_BOOTSTRAP", num_args = 0..=1, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    pub bootstrap: Option<bool>,
    /// Join the cluster that one of these nodes belongs to
    #[arg(
        long,
        env = "FERROLOG_JOIN",
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub join: Option<Vec<String>>,
    /// Names of the nodes that may join the cluster that this node begins, each once
    #[arg(
        long,
        env = "FERROLOG_ALLOW",
        value_name = "NAME,...",
        value_delimiter = ','
    )]
    pub allow: Option<Vec<String>>,
    /// What `ferrolog cluster token` printed: it lets this node join
    #[arg(
        long,
        env = "FERROLOG_JOIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub join_token: Option<String>,
    /// The authority whose certificates are trusted
    #[arg(long, env = "FERROLOG_TLS_CA", value_name = "FILE", help_heading = HELP_SECURITY)]
    pub tls_ca: Option<PathBuf>,
    /// The node's certificate, made by `ferrolog certs`
    #[arg(long, env = "FERROLOG_TLS_CERT", value_name = "FILE", help_heading = HELP_SECURITY)]
    pub tls_cert: Option<PathBuf>,
    /// Its key, readable by its owner alone
    #[arg(long, env = "FERROLOG_TLS_KEY", value_name = "FILE", help_heading = HELP_SECURITY)]
    pub tls_key: Option<PathBuf>,
    /// Certificates that the authorities have revoked, as they publish them, in PEM
    #[arg(long, env = "FERROLOG_TLS_CRL", value_name = "FILE", help_heading = HELP_SECURITY)]
    pub tls_crl: Option<PathBuf>,
    /// Serve plain text to anybody; on loopback addresses only
    #[arg(long, env = "FERROLOG_INSECURE", num_args = 0..=1, default_missing_value = "true",
          value_parser = BoolishValueParser::new(),
          help_heading = HELP_SECURITY)]
    pub insecure: Option<bool>,
    /// Which clients may produce, consume and administer what, and read metrics: lines
    /// `p, COMMON NAME, LOG|PREFIX*|*, ACTION`
    #[arg(long, env = "FERROLOG_ACL", value_name = "FILE", help_heading = HELP_SECURITY)]
    pub acl: Option<PathBuf>,
    /// A second address for metrics and probes: plain HTTP for whoever reaches it, with /metrics, /healthz and /readyz.
    /// A port alone is on 127.0.0.1 [default: none; the node's own port tells them to certificates with the action metrics]
    #[arg(long, env = "FERROLOG_METRICS_LISTEN", value_name = "[HOST:]PORT")]
    pub metrics_listen: Option<String>,
    /// How many logs metrics tell of by name, those with the most records [default: 100]
    #[arg(long, env = "FERROLOG_METRICS_LOGS_MAX", value_name = "COUNT", help_heading = HELP_TUNING)]
    pub metrics_logs_max: Option<usize>,
    /// Connections of clients: up to half of them from one address, a quarter with one certificate
    /// [default: 2048, or fewer if the system lets the process open few files]
    #[arg(long, env = "FERROLOG_CONNECTIONS_MAX", value_name = "COUNT", help_heading = HELP_TUNING)]
    pub connections_max: Option<usize>,
    /// No connection lives longer, such as 12h; a bare number is of seconds. Clients and peers dial again [default: 1d]
    #[arg(long, env = "FERROLOG_CONNECTION_AGE_MAX_SECONDS", value_name = "TIME", help_heading = HELP_SECURITY,
          value_parser = seconds)]
    #[serde(default, deserialize_with = "read_seconds")]
    pub connection_age_max_seconds: Option<u64>,
    /// The largest record, such as 1MiB [default: 4088KiB]
    #[arg(long, env = "FERROLOG_RECORD_BYTES_MAX", value_name = "BYTES", help_heading = HELP_TUNING,
          value_parser = bytes::<usize>)]
    #[serde(
        default,
        deserialize_with = "read_bytes",
        serialize_with = "write_bytes"
    )]
    pub record_bytes_max: Option<usize>,
    /// How many logs there may be, `default` among them [default: 100000]
    #[arg(long, env = "FERROLOG_LOGS_MAX", value_name = "COUNT", help_heading = HELP_TUNING)]
    pub logs_max: Option<u32>,
    /// Make a log when somebody first appends to its name, if it may
    #[arg(long, env = "FERROLOG_CREATE_LOGS_ON_PRODUCE", num_args = 0..=1, default_missing_value = "true",
          value_parser = BoolishValueParser::new(), help_heading = HELP_TUNING)]
    pub create_logs_on_produce: Option<bool>,
    /// The size of a segment [default: 64MiB]
    #[arg(long, env = "FERROLOG_SEGMENT_BYTES_MAX", value_name = "BYTES", help_heading = HELP_TUNING,
          value_parser = bytes::<u32>)]
    #[serde(
        default,
        deserialize_with = "read_bytes",
        serialize_with = "write_bytes"
    )]
    pub segment_bytes_max: Option<u32>,
    /// Refuse records while the disk has less room than this, such as 1GiB [default: four segments]
    #[arg(long, env = "FERROLOG_DISK_RESERVE_BYTES", value_name = "BYTES", help_heading = HELP_TUNING,
          value_parser = bytes::<u64>)]
    #[serde(
        default,
        deserialize_with = "read_bytes",
        serialize_with = "write_bytes"
    )]
    pub disk_reserve_bytes: Option<u64>,
    /// How fast sealed segments are read to find damage, in bytes a second; 0: not at all [default: 8MiB]
    #[arg(long, env = "FERROLOG_SCRUB_BYTES_PER_SECOND", value_name = "BYTES", help_heading = HELP_TUNING,
          value_parser = bytes::<u64>)]
    #[serde(
        default,
        deserialize_with = "read_bytes",
        serialize_with = "write_bytes"
    )]
    pub scrub_bytes_per_second: Option<u64>,
    /// Sealed segments of which so much is dead, in hundredths, such as 50, are rewritten with what lives; half as much is
    /// enough on an idle node, and more is wanted while little of all segments is dead; 0: none
    /// [default: 50]
    #[arg(long, env = "FERROLOG_REWRITE_DEAD_PERCENT", value_name = "PERCENT", help_heading = HELP_TUNING)]
    pub rewrite_dead_percent: Option<u64>,
    /// How often a leader is heard, such as 50ms; a bare number is of milliseconds. A follower waits three to six
    /// times as long [default: 50ms]
    #[arg(long, env = "FERROLOG_HEARTBEAT_MS", value_name = "TIME", help_heading = HELP_TUNING, value_parser = millis)]
    #[serde(
        default,
        deserialize_with = "read_millis",
        serialize_with = "write_millis"
    )]
    pub heartbeat_ms: Option<u64>,
    /// A clock that is further from a majority's than this is not believed; a bare number is of milliseconds
    /// [default: 1s]
    #[arg(long, env = "FERROLOG_CLOCK_BOUND_MS", value_name = "TIME", help_heading = HELP_TUNING,
          value_parser = millis)]
    #[serde(
        default,
        deserialize_with = "read_millis",
        serialize_with = "write_millis"
    )]
    pub clock_bound_ms: Option<u64>,
    /// A call that takes longer is logged, a write with its stages; 0: none is; a bare number is of milliseconds
    /// [default: 1s]
    #[arg(long, env = "FERROLOG_SLOW_CALL_MS", value_name = "TIME", help_heading = HELP_TUNING, value_parser = millis)]
    #[serde(
        default,
        deserialize_with = "read_millis",
        serialize_with = "write_millis"
    )]
    pub slow_call_ms: Option<u64>,
    /// A collector on this machine that is told the spans of calls whose callers trace them, by OTLP over gRPC; needs a
    /// build with the feature otlp [default: none]
    #[arg(long, env = "FERROLOG_OTLP_ENDPOINT", value_name = "http://HOST:PORT", help_heading = HELP_TUNING)]
    pub otlp_endpoint: Option<String>,
    /// What is logged, in a file: on a command line it is every command's.
    #[arg(skip)]
    pub log_level: Option<String>,
    /// How lines are logged, in a file: on a command line it is every command's.
    #[arg(skip)]
    pub log_format: Option<String>,
}

impl Options {
    /// Reads the text of a file of settings, in TOML.
    ///
    /// # Errors
    ///
    /// [`ConfigError::File`] if the text is no TOML, has a key that is not known, or a value that is none.
    pub fn parse(text: &str, path: PathBuf) -> Result<Self, ConfigError> {
        let failed = |what| ConfigError::File {
            path: path.clone(),
            what,
        };
        // Before the values are looked at: a misspelt key is told with the one that was meant.
        let table: toml::Table = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
        let logging = ["log_level", "log_format"].map(str::to_owned);
        let known = [Self::keys(), logging.to_vec()].concat();
        let strangers: Vec<_> = table.keys().filter(|key| !known.contains(key)).collect();
        if !strangers.is_empty() {
            let told = strangers.iter().map(|key| stranger(key, text, &known));
            return Err(failed(told.collect::<Vec<_>>().join("; ")));
        }
        toml::from_str(text).map_err(|error| failed(error.to_string()))
    }

    /// The keys of the settings: the options' names with underscores. A file may say beside them how the node logs.
    pub fn keys() -> Vec<String> {
        let command = <Self as clap::Args>::augment_args(clap::Command::new("settings"));
        let ids = command.get_arguments().map(|arg| arg.get_id().to_string());
        ids.collect()
    }

    /// These settings, and for those that are not given the others'.
    pub fn over(self, under: Self) -> Self {
        Self {
            name: self.name.or(under.name),
            data_dir: self.data_dir.or(under.data_dir),
            listen: self.listen.or(under.listen),
            advertise: self.advertise.or(under.advertise),
            bootstrap: self.bootstrap.or(under.bootstrap),
            join: self.join.or(under.join),
            allow: self.allow.or(under.allow),
            join_token: self.join_token.or(under.join_token),
            tls_crl: self.tls_crl.or(under.tls_crl),
            tls_ca: self.tls_ca.or(under.tls_ca),
            tls_cert: self.tls_cert.or(under.tls_cert),
            tls_key: self.tls_key.or(under.tls_key),
            insecure: self.insecure.or(under.insecure),
            acl: self.acl.or(under.acl),
            metrics_listen: self.metrics_listen.or(under.metrics_listen),
            metrics_logs_max: self.metrics_logs_max.or(under.metrics_logs_max),
            connections_max: self.connections_max.or(under.connections_max),
            connection_age_max_seconds: self
                .connection_age_max_seconds
                .or(under.connection_age_max_seconds),
            record_bytes_max: self.record_bytes_max.or(under.record_bytes_max),
            logs_max: self.logs_max.or(under.logs_max),
            create_logs_on_produce: self.create_logs_on_produce.or(under.create_logs_on_produce),
            segment_bytes_max: self.segment_bytes_max.or(under.segment_bytes_max),
            disk_reserve_bytes: self.disk_reserve_bytes.or(under.disk_reserve_bytes),
            scrub_bytes_per_second: self.scrub_bytes_per_second.or(under.scrub_bytes_per_second),
            rewrite_dead_percent: self.rewrite_dead_percent.or(under.rewrite_dead_percent),
            heartbeat_ms: self.heartbeat_ms.or(under.heartbeat_ms),
            clock_bound_ms: self.clock_bound_ms.or(under.clock_bound_ms),
            slow_call_ms: self.slow_call_ms.or(under.slow_call_ms),
            otlp_endpoint: self.otlp_endpoint.or(under.otlp_endpoint),
            log_level: self.log_level.or(under.log_level),
            log_format: self.log_format.or(under.log_format),
        }
    }
}

/// What is said of a key that is not known.
fn stranger(key: &str, text: &str, known: &[String]) -> String {
    let is_it = |line: &str| {
        let head = line.split_once('=').map_or("", |(head, _)| head);
        head.trim().trim_matches(['"', '\'']) == key
    };
    let line = text.lines().position(is_it).map(|line| line + 1);
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    let nearest = known.iter().min_by_key(|name| distance(key, name));
    // One that differs in most of its letters was not meant.
    let meant = nearest.filter(|name| distance(key, name) * 2 <= name.len());
    match meant {
        Some(name) => format!("{place}there is no setting {key:?}; is {name:?} meant?"),
        None => format!(
            "{place}there is no setting {key:?}; `ferrolog config show --help` lists them, to be written with underscores"
        ),
    }
}

/// How many letters must be put in, left out or replaced to get from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<_> = to.chars().collect();
    let mut row: Vec<_> = (0..=to.len()).collect();
    for (number, char) in from.chars().enumerate() {
        let mut left_above = row[0];
        row[0] = number + 1;
        for (at, other) in to.iter().enumerate() {
            let replaced = left_above + usize::from(char != *other);
            left_above = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(row[at + 1] + 1);
        }
    }
    row[to.len()]
}

fn bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let bytes = quantity::parse_bytes(text).and_then(|bytes| T::try_from(bytes).ok());
    bytes.ok_or_else(|| "write bytes such as 64MiB or 1000000".to_owned())
}

fn millis(text: &str) -> Result<u64, String> {
    quantity::parse_millis(text).ok_or_else(|| "write a time such as 50ms or 1s".to_owned())
}

fn seconds(text: &str) -> Result<u64, String> {
    let ms = quantity::parse_seconds_ms(text).filter(|ms| ms.is_multiple_of(1000));
    ms.map(|ms| ms / 1000)
        .ok_or_else(|| "write a time of whole seconds such as 90s, 12h or 7d".to_owned())
}

/// A number of bytes in a file, or a text such as `"64MiB"`.
fn read_bytes<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let read = Quantity(bytes::<u64>);
    let number = from.deserialize_any(read)?;
    let number = T::try_from(number).map_err(|_| de::Error::custom("this many bytes are too many"));
    number.map(Some)
}

/// As [`read_bytes`] reads it, in the one way in which all are written.
#[allow(clippy::ref_option, reason = "serde's way to call")]
fn write_bytes<T, S>(bytes: &Option<T>, to: S) -> Result<S::Ok, S::Error>
where
    T: Copy + TryInto<u64>,
    S: Serializer,
{
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(quantity::bytes).serialize(to)
}

/// As [`read_millis`] reads it.
#[allow(clippy::ref_option, reason = "serde's way to call")]
fn write_millis<S: Serializer>(ms: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    ms.map(quantity::span_ms).serialize(to)
}

/// A number of milliseconds in a file, or a text such as `"50ms"`.
fn read_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Quantity(millis)).map(Some)
}

/// A number of seconds in a file, or a text such as `"12h"`.
fn read_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Quantity(seconds)).map(Some)
}

/// Reads a number as it is, and a text with its unit.
struct Quantity(fn(&str) -> Result<u64, String>);

impl de::Visitor<'_> for Quantity {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a text with a unit such as \"64MiB\" or \"50ms\"")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::custom("it is below 0"))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        (self.0)(text).map_err(E::custom)
    }
}
