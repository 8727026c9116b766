//! How a line of the log is written, as text or JSON, and which lines are left out.
//!
//! No line is repeated without end: of the lines that one place in the source logs at INFO and above, some pass, and
//! how many did not is told. What was asked for at DEBUG and below passes as it comes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::env::Instant;

/// Lines of one place that pass in each [`WINDOW`].
const PASS_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Writes lines, as text or JSON.
pub struct Lines {
    text: Format<Full>,
    json: Format<Json>,
    is_json: Arc<AtomicBool>,
    repeats: Mutex<Repeats>,
}

impl Lines {
    pub fn new(is_json: Arc<AtomicBool>) -> Self {
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
    use tracing_subscriber::layer::SubscriberExt;

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
