//! The log of this process: lines on standard error, as text or JSON. What is logged can change while it runs.
//!
//! No line is repeated without end: of the lines that one place in the source logs at INFO and above, some pass, and
//! how many did not is told. What was asked for at DEBUG and below passes as it comes.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::ValueEnum;
use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::env::Instant;
use crate::stderr::LogLine;

use super::exit::UsageError;

/// Lines of one place that pass in each [`WINDOW`].
const PASS_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// The consensus engine's crate. It tells of every try to reach a peer that is down, and of an end that was asked for
/// as of a failure; what somebody must know of it, the node says itself.
const ENGINE: &str = "openraft";

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

/// Logs what a file of settings says, and as it says, from the beginning.
///
/// # Errors
///
/// [`UsageError`] if there is no such level or format.
pub fn begin(level: Option<&str>, format: Option<&str>) -> Result<(), UsageError> {
    let known = format.map(|format| {
        let known = LogFormat::from_str(format, false);
        known.map_err(|_| UsageError(format!("log_format is text or json, not {format:?}")))
    });
    let known = known.transpose()?;
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

/// Writes lines, as text or JSON.
struct Lines {
    text: Format<Full>,
    json: Format<Json>,
    is_json: Arc<AtomicBool>,
    repeats: Mutex<Repeats>,
}

impl Lines {
    fn new(is_json: Arc<AtomicBool>) -> Self {
        let json = Format::default().json().flatten_event(true);
        Self {
            text: Format::default(),
            json: json.with_current_span(false).with_span_list(false),
            is_json,
            repeats: Mutex::default(),
        }
    }

    /// A line that says how many were left out.
    fn tell_hidden(&self, hidden: &Hidden, writer: &mut Writer<'_>) -> fmt::Result {
        let Hidden {
            level,
            target,
            place,
            count,
        } = hidden;
        let what = format!("lines were left out, like those before from {place}");
        if self.is_json.load(Ordering::Relaxed) {
            writer.write_str("{\"timestamp\":\"")?;
            SystemTime.format_time(writer)?;
            return writeln!(
                writer,
                "\",\"level\":\"{level}\",\"message\":\"{what}\",\"hidden\":{count},\"target\":\"{target}\"}}"
            );
        }
        SystemTime.format_time(writer)?;
        writeln!(writer, " {level:>5} {target}: {what} hidden={count}")
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    /// An error leaves the line out.
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let told = event.metadata();
        if *told.level() <= Level::INFO {
            let (passes, hidden) = self.repeats.lock().passes(told, Instant::now());
            for hidden in hidden {
                self.tell_hidden(&hidden, &mut writer)?;
            }
            if !passes {
                return Err(fmt::Error);
            }
        }
        match self.is_json.load(Ordering::Relaxed) {
            true => self.json.format_event(ctx, writer, event),
            false => self.text.format_event(ctx, writer, event),
        }
    }
}

/// How often each place of the source has logged a line lately.
#[derive(Default)]
struct Repeats(HashMap<Identifier, Repeated>);

struct Repeated {
    place: &'static Metadata<'static>,
    since: Instant,
    passed: u32,
    hidden: u64,
}

/// Lines of one place that nobody saw.
#[derive(Debug)]
struct Hidden {
    level: Level,
    target: &'static str,
    place: String,
    count: u64,
}

impl Repeats {
    /// Whether a line of this place passes now, and what was left out in windows that are over.
    fn passes(&mut self, place: &'static Metadata<'static>, now: Instant) -> (bool, Vec<Hidden>) {
        let known = self.0.entry(place.callsite()).or_insert(Repeated {
            place,
            since: now,
            passed: 0,
            hidden: 0,
        });
        let is_over = |known: &Repeated| now.saturating_duration_since(known.since) >= WINDOW;
        let passes = is_over(known) || known.passed < PASS_MAX;
        if !passes {
            known.hidden += 1;
            return (false, Vec::new());
        }
        let mut hidden = Vec::new();
        for known in self.0.values_mut().filter(|known| is_over(known)) {
            if known.hidden > 0 {
                hidden.push(Hidden {
                    level: *known.place.level(),
                    target: known.place.target(),
                    place: format!(
                        "{}:{}",
                        known.place.file().unwrap_or("?"),
                        known.place.line().unwrap_or(0)
                    ),
                    count: known.hidden,
                });
            }
            (known.since, known.passed, known.hidden) = (now, 0, 0);
        }
        let known = self.0.get_mut(&place.callsite());
        known.into_iter().for_each(|known| known.passed += 1);
        (true, hidden)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::subscriber::DefaultGuard;

    use super::*;

    /// What is written, for a test to read.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Logs of this thread go to a page from now on, until the guard goes.
    fn page(is_json: bool) -> (Page, DefaultGuard) {
        let page = Page::default();
        let to = page.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .log_internal_errors(false)
            .with_ansi(false)
            .event_format(Lines::new(Arc::new(AtomicBool::new(is_json))));
        let subscriber = tracing_subscriber::registry().with(lines);
        (page, tracing::subscriber::set_default(subscriber))
    }

    impl Page {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

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

    #[tokio::test(start_paused = true)]
    async fn a_line_that_repeats_is_left_out_and_counted() {
        let (page, _guard) = page(false);
        let repeat = || tracing::warn!(peer = 3, "not heard");
        for _ in 0..25 {
            repeat();
        }
        tracing::info!("another one passes");
        for _ in 0..25 {
            tracing::debug!("what was asked for passes");
        }
        tokio::time::advance(WINDOW).await;
        tracing::info!("later");
        repeat();
        let lines = page.lines();
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(count("not heard"), PASS_MAX as usize + 1, "{lines:#?}");
        assert_eq!((count("another one passes"), count("asked for")), (1, 25));
        let told = lines.iter().filter(|line| line.contains("hidden="));
        let told: Vec<_> = told.collect();
        assert!(
            told.len() == 1 && told[0].contains("hidden=15") && told[0].contains("WARN"),
            "{lines:#?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn json_is_an_object_a_line() {
        let (page, _guard) = page(true);
        for _ in 0..=PASS_MAX {
            tracing::info!(node = "n\"2\n", ms = 7, "is heard again");
        }
        tokio::time::advance(WINDOW).await;
        tracing::info!("later");
        let lines = page.lines();
        assert_eq!(lines.len(), PASS_MAX as usize + 2, "{lines:#?}");
        let objects = lines.iter().map(|line| serde_json::from_str(line));
        let objects: Vec<serde_json::Value> = objects.collect::<Result<_, _>>().unwrap();
        let first = &objects[0];
        assert_eq!(first["level"], "INFO");
        assert_eq!(first["message"], "is heard again");
        assert_eq!(
            (&first["node"], &first["ms"]),
            (&"n\"2\n".into(), &7.into())
        );
        assert_eq!(objects[PASS_MAX as usize]["hidden"], 1);
        let is_dated = |object: &serde_json::Value| object["timestamp"].is_string();
        assert!(objects.iter().all(is_dated));
    }
}
