//! The log of this process: lines on standard error, as text or JSON. What is logged can change while it runs.

mod lines;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::{ArgMatches, ValueEnum};
use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::stderr::LogLine;

use super::exit::UsageError;
use lines::Lines;

/// The consensus engine's crate. It tells of every try to reach a peer that is down, and of an end that was asked for
/// as of a failure; what somebody must know of it, the node says itself.
const ENGINE: &str = "openraft";

/// The options of the log, as the parser calls them.
pub const LOG_LEVEL: &str = "log_level";
pub const LOG_FORMAT: &str = "log_format";
pub const VERBOSE: &str = "verbose";

/// The log of this process, once it was started.
static LOG: OnceLock<LogHandle> = OnceLock::new();

/// How lines are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For programs: an object a line
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct LoggingArgs {
    /// Log more to standard error: once for info, twice for debug
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// What is logged: off, error, warn, info, debug or trace, or such levels of parts, as `info,ferrolog::raft=debug`
    #[arg(long, global = true, env = "FERROLOG_LOG_LEVEL", value_name = "LEVEL", value_parser = checked)]
    log_level: Option<String>,
    /// How lines are logged [default: text]
    #[arg(long, global = true, env = "FERROLOG_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

/// What a change of the level came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as it was.
    Same,
    /// It is another one from now on, which was told.
    Now,
    /// The command line or the environment says another one, and stands above a file.
    Overruled(String),
}

struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    is_json: Arc<AtomicBool>,
    /// What the command line or the environment says.
    asked: Option<String>,
    has_format: bool,
    /// What is logged unless somebody says otherwise.
    usual: &'static str,
    now: Mutex<String>,
}

/// Starts the log of this process; `is_node`: a node tells more than a command. Only the first call counts.
pub fn start(args: &LoggingArgs, is_node: bool) {
    let usual = usual(args.verbose, is_node);
    let asked = args.log_level.clone();
    let now = asked.clone().unwrap_or_else(|| usual.to_owned());
    let targets = parse(&now).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(targets);
    let is_json = Arc::new(AtomicBool::new(args.log_format == Some(LogFormat::Json)));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = !is_plain && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| LogLine)
        // Its own report of a failure would go to standard error by a call that panics.
        .log_internal_errors(false)
        .with_ansi(ansi)
        .event_format(Lines::new(is_json.clone()))
        .with_filter(filter);
    // One that was started already goes on.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    let _ = LOG.set(LogHandle {
        filter: handle,
        is_json,
        has_format: args.log_format.is_some(),
        asked,
        usual,
        now: Mutex::new(now),
    });
}

/// What is wrong with what a file of settings says of the log.
pub fn faults(level: Option<&str>, format: Option<&str>) -> Vec<UsageError> {
    let level = level.and_then(|level| parse(level).err().map(UsageError));
    let format = format.and_then(|format| known(format).err());
    level.into_iter().chain(format).collect()
}

fn known(format: &str) -> Result<LogFormat, UsageError> {
    let known = LogFormat::from_str(format, false);
    known.map_err(|_| UsageError(format!("log_format is text or json, not {format:?}")))
}

/// What the command line and the environment say of a node's log, of these options.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The level, or levels of parts.
    pub level: Option<String>,
    /// The format.
    pub format: Option<&'static str>,
    /// How often more was asked for.
    pub verbose: u8,
}

impl Asked {
    /// Nothing, of a command that has no such options.
    pub fn of(matches: &ArgMatches) -> Self {
        let level = matches.try_get_one::<String>(LOG_LEVEL).ok().flatten();
        let format = matches.try_get_one::<LogFormat>(LOG_FORMAT).ok().flatten();
        let verbose = matches.try_get_one::<u8>(VERBOSE).ok().flatten();
        Self {
            level: level.cloned(),
            format: format.map(|format| format.name()),
            verbose: verbose.copied().unwrap_or(0),
        }
    }

    /// What a node logs if no level is said.
    pub fn usual_level(&self) -> &'static str {
        usual(self.verbose, true)
    }
}

impl LogFormat {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Logs what a file of settings says, and as it says, from the beginning.
///
/// # Errors
///
/// [`UsageError`] if there is no such level or format.
pub fn begin(level: Option<&str>, format: Option<&str>) -> Result<(), UsageError> {
    let known = format.map(known).transpose()?;
    if let (Some(known), Some(log)) = (known, LOG.get().filter(|log| !log.has_format)) {
        log.is_json
            .store(known == LogFormat::Json, Ordering::Relaxed);
    }
    change(level, || ()).map(drop)
}

/// Logs what a file of settings says from now on, or without a word of it what is usual.
///
/// # Errors
///
/// [`UsageError`] if that is no level; then nothing changes.
pub fn take_up(level: Option<&str>) -> Result<Change, UsageError> {
    let is = level.unwrap_or("what is usual");
    change(level, || {
        tracing::info!(is, "logs another level from now on")
    })
}

fn change(level: Option<&str>, tell: impl Fn()) -> Result<Change, UsageError> {
    let Some(log) = LOG.get() else {
        return Ok(Change::Same);
    };
    let wanted = level.unwrap_or(log.usual);
    let targets = parse(wanted).map_err(UsageError)?;
    if let Some(asked) = &log.asked {
        return Ok(match level.is_some_and(|level| level != asked) {
            true => Change::Overruled(asked.clone()),
            false => Change::Same,
        });
    }
    let mut now = log.now.lock();
    if *now == wanted {
        return Ok(Change::Same);
    }
    // Told while it can be seen: before, or else behind the change.
    let is_seen = tracing::enabled!(Level::INFO);
    if is_seen {
        tell();
    }
    // The subscriber is the process's, and never gone.
    let _ = log.filter.reload(targets);
    if !is_seen {
        tell();
    }
    wanted.clone_into(&mut now);
    Ok(Change::Now)
}

fn usual(verbose: u8, is_node: bool) -> &'static str {
    match verbose + u8::from(is_node) {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    }
}

fn checked(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.trim().to_owned())
}

/// A level, or levels of parts.
fn parse(text: &str) -> Result<Targets, String> {
    let mut targets = Targets::new().with_target(ENGINE, LevelFilter::OFF);
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, part),
        };
        let level = level_of(level).ok_or_else(|| {
            format!(
                "{level:?} is no level: write off, error, warn, info, debug or trace, or levels of parts such as \
                 info,ferrolog::raft=debug (FERROLOG_LOG_LEVEL, --log-level, log_level in a file of settings)"
            )
        })?;
        targets = match target {
            None => targets.with_default(level),
            Some(target) => {
                let fits = |char: char| char.is_ascii_alphanumeric() || "_:-".contains(char);
                if target.is_empty() || !target.chars().all(fits) {
                    return Err(format!(
                        "{target:?} is no part of the program: write such as ferrolog::raft=debug"
                    ));
                }
                targets.with_target(target, level)
            }
        };
    }
    Ok(targets)
}

fn level_of(name: &str) -> Option<LevelFilter> {
    // Numbers would parse, too, and say nothing to who reads them.
    let is_name = name.chars().all(|char| char.is_ascii_alphabetic()) && !name.is_empty();
    is_name.then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_six_or_those_of_parts_and_anything_else_is_refused() {
        for good in [
            "info",
            "OFF",
            " debug ",
            "warn,ferrolog::raft=trace",
            "openraft=error",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "loud",
            "inof",
            "3",
            "ferrolog",
            "ferrolog=",
            "=info",
            "info,raft=loud",
            "a b=info",
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains("write"), "{bad}: {refused}");
        }
        let usual = parse("info").unwrap();
        assert!(
            !usual.would_enable("openraft::core", &Level::ERROR),
            "it speaks if asked"
        );
        let asked = parse("info,openraft=warn").unwrap();
        assert!(asked.would_enable("openraft::core", &Level::WARN));
        assert!(usual.would_enable("ferrolog::raft", &Level::INFO));
    }
}
