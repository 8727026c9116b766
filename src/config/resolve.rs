//! Checks the settings that were given, and fills in the rest.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::told::{collector, metrics};
use super::{
    CONNECTION_AGE_S, Config, ConfigError, LOGS_MOST, Options, REWRITE_DEAD_PERCENT,
    SCRUB_BYTES_PER_SECOND, SecurityConfig, reserve_beside,
};
use crate::live::Live;
use crate::log;
use crate::net::identity::is_valid_name;
use crate::net::mux::CLIENTS_MAX;
use crate::net::tls::TlsFiles;
use crate::raft::{ALLOWED_MAX, Timing};
use crate::server::Limits;

/// What is wrong with the settings, in the order of their help.
#[derive(Default)]
struct Faults(Vec<ConfigError>);

impl Faults {
    /// The value, or its fault kept for later: whoever mends one setting should hear of the others at once.
    fn keep<T>(&mut self, checked: Result<T, ConfigError>) -> Option<T> {
        checked.map_err(|fault| self.0.push(fault)).ok()
    }
}

/// Who the node is, where, and among whom.
struct Place {
    name: String,
    data_dir: PathBuf,
    listen: String,
    advertise: Option<String>,
    bootstrap: bool,
    join: Vec<String>,
    allow: Vec<String>,
}

/// Counts, sizes and times.
struct Measures {
    metrics_listen: Option<String>,
    metrics_logs_max: usize,
    connections_max: usize,
    connection_age_max: Duration,
    rewrite_dead_percent: u64,
    logs_max: u32,
    sizes: Sizes,
    timing: Timing,
    otlp_endpoint: Option<String>,
}

impl Options {
    /// Checks the settings and fills in the defaults.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] if a setting is missing, out of bounds, or contradicts another one: the first of them.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.resolve_all()
            .map_err(|mut faults| faults.swap_remove(0))
    }

    /// Checks the settings and fills in the defaults.
    ///
    /// # Errors
    ///
    /// All that is wrong with them, at least one fault.
    pub fn resolve_all(self) -> Result<Config, Vec<ConfigError>> {
        let mut faults = Faults::default();
        let place = self.place(&mut faults);
        let security = faults.keep(self.security());
        let measures = self.measures(&mut faults);
        let (Some(place), Some(security), Some(measures)) = (place, security, measures) else {
            return Err(faults.0);
        };
        Ok(Config {
            name: place.name,
            data_dir: place.data_dir,
            listen: place.listen,
            advertise: place.advertise,
            bootstrap: place.bootstrap,
            join: place.join,
            allow: place.allow,
            join_token: self.join_token.unwrap_or_default().trim().to_owned(),
            acl: self.acl,
            security,
            metrics_listen: measures.metrics_listen,
            metrics_logs_max: measures.metrics_logs_max,
            connections_max: measures.connections_max,
            connection_age_max: measures.connection_age_max,
            descriptors_max: usize::MAX,
            limits: Limits {
                logs_max: Live::new(measures.logs_max),
                create_logs_on_produce: Live::new(self.create_logs_on_produce.unwrap_or(false)),
                ..measures.sizes.limits
            },
            disk_reserve_bytes: self
                .disk_reserve_bytes
                .unwrap_or_else(|| reserve_beside(&measures.sizes.log)),
            log: measures.sizes.log,
            scrub_bytes_per_second: self
                .scrub_bytes_per_second
                .unwrap_or(SCRUB_BYTES_PER_SECOND),
            rewrite_dead_percent: measures.rewrite_dead_percent,
            timing: measures.timing,
            otlp_endpoint: measures.otlp_endpoint,
        })
    }

    fn place(&self, faults: &mut Faults) -> Option<Place> {
        let name = faults.keep(self.checked_name());
        let missing = "name the directory for the node's data";
        let data_dir = self.data_dir.clone();
        let data_dir = data_dir.ok_or(ConfigError::Missing("--data-dir", missing));
        let data_dir = faults.keep(data_dir);
        let listen = faults.keep(self.checked_listen());
        let advertise = faults.keep(self.checked_advertise());
        let beginning = faults.keep(self.checked_beginning());
        let allow = self.allow.clone().unwrap_or_default();
        let allow = faults.keep(allowed(allow, self.name.as_deref().unwrap_or_default()));
        let (bootstrap, join) = beginning?;
        Some(Place {
            name: name?,
            data_dir: data_dir?,
            listen: listen?,
            advertise: advertise?,
            bootstrap,
            join,
            allow: allow?,
        })
    }

    fn measures(&self, faults: &mut Faults) -> Option<Measures> {
        let metrics = metrics(self.metrics_listen.as_deref(), self.metrics_logs_max);
        let metrics = faults.keep(metrics);
        let connections_max = self.connections_max.unwrap_or(CLIENTS_MAX);
        let connections = check_range("--connections-max", connections_max, 16..=1 << 20);
        let connections = faults.keep(connections);
        let age_max = faults.keep(connection_age(self.connection_age_max_seconds));
        let sizes = faults.keep(Sizes::new(self.segment_bytes_max, self.record_bytes_max));
        let logs_max = self.logs_max.unwrap_or(Limits::default().logs_max.get());
        let logs = faults.keep(check_range("--logs-max", logs_max, 1..=LOGS_MOST));
        let timing = faults.keep(timing(
            self.heartbeat_ms,
            self.clock_bound_ms,
            self.slow_call_ms,
        ));
        let collector = faults.keep(collector(self.otlp_endpoint.as_deref()));
        let dead_percent = self.rewrite_dead_percent.unwrap_or(REWRITE_DEAD_PERCENT);
        let rewriting = check_range("--rewrite-dead-percent", dead_percent, 0..=99);
        let rewriting = faults.keep(rewriting);
        let (metrics_listen, metrics_logs_max) = metrics?;
        connections.and(logs).and(rewriting)?;
        Some(Measures {
            metrics_listen,
            metrics_logs_max,
            connections_max,
            connection_age_max: age_max?,
            rewrite_dead_percent: dead_percent,
            logs_max,
            sizes: sizes?,
            timing: timing?,
            otlp_endpoint: collector?,
        })
    }

    fn checked_name(&self) -> Result<String, ConfigError> {
        let missing = ConfigError::Missing("--name", "give the node a name of its own");
        let name = self.name.clone().ok_or(missing)?;
        check_name("--name", &name)?;
        Ok(name)
    }

    fn checked_listen(&self) -> Result<String, ConfigError> {
        let listen = self
            .listen
            .as_deref()
            .filter(|addr| !addr.trim().is_empty());
        let missing = "name the address, such as 127.0.0.1:7400";
        let listen = listen.ok_or(ConfigError::Missing("--listen", missing))?;
        check_addr("--listen", listen, 0)
    }

    fn checked_advertise(&self) -> Result<Option<String>, ConfigError> {
        // An empty address is what a template leaves of an unset variable.
        let advertise = self
            .advertise
            .as_deref()
            .filter(|addr| !addr.trim().is_empty());
        advertise
            .map(|addr| check_addr("--advertise", addr, 1))
            .transpose()
    }

    /// Whether the node begins a cluster, and whom it asks to join.
    fn checked_beginning(&self) -> Result<(bool, Vec<String>), ConfigError> {
        let bootstrap = self.bootstrap.unwrap_or(false);
        let mut join = self.join.clone().unwrap_or_default();
        join.retain(|addr| !addr.trim().is_empty());
        if !bootstrap && join.is_empty() {
            let what = "the first node of a cluster starts with --bootstrap, the others with \
                        --join and the address of a node";
            return Err(ConfigError::Missing("--bootstrap or --join", what));
        }
        let join = join.iter().map(|addr| check_addr("--join", addr, 1));
        Ok((bootstrap, join.collect::<Result<_, _>>()?))
    }

    fn security(&self) -> Result<SecurityConfig, ConfigError> {
        let files = (
            self.tls_ca.clone(),
            self.tls_cert.clone(),
            self.tls_key.clone(),
        );
        match (self.insecure.unwrap_or(false), files) {
            (true, (None, None, None)) => Ok(SecurityConfig::Insecure),
            (true, _) => Err(ConfigError::Contradicting(
                "--insecure and certificates contradict each other: give one or the other",
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

pub fn check_range<T>(setting: &str, value: T, range: RangeInclusive<T>) -> Result<(), ConfigError>
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
pub fn check_addr(setting: &str, addr: &str, port_min: u16) -> Result<String, ConfigError> {
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
        slow_call: slow_call.map_or(usual.slow_call, |ms| Live::new(Duration::from_millis(ms))),
        ..usual
    })
}

/// Sizes that follow from those of segments and records.
struct Sizes {
    log: log::Config,
    limits: Limits,
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
