//! What the gRPC edge counts: calls by verb and code, and what its clients read.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::live::Live;
use crate::metrics::families::{BYTES_OUT, CALLS, READS, RECORDS_OUT, REQUEST_SECONDS, REQUESTS};
use crate::metrics::{ByLabel, Counter, Level, Page, Times, labels};
use crate::net::traceparent::TRACEPARENT;
use crate::spans::{Side, Span, Tracer};

use super::intake::verbs;

labels! {
    /// How fresh a read is to be.
    pub enum Asked as "consistency" {
        Relaxed = "relaxed",
        Strong = "strong",
        Bounded = "bounded",
        AtLeast = "at_least",
    }
}

/// What the codes of gRPC are called, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// A number that is no code of gRPC's, which `log.v1` has for offsets that are not there.
const OTHER_CODE: &str = "OTHER";
/// A call of something that is not served.
const OTHER_VERB: &str = "other";

/// See the module.
#[derive(Debug)]
pub struct Counts {
    /// By service and name, as in the path of a call.
    verbs: HashMap<&'static str, usize>,
    calls: Vec<VerbCounts>,
    pub reads: ByLabel<Asked, Counter>,
    pub records_out: Counter,
    pub bytes_out: Counter,
    /// A call that takes longer is logged; zero: none is.
    slow: Live<Duration>,
    /// Makes the spans of calls that somebody traces.
    tracer: Tracer,
}

/// A verb, as the counts know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verb(usize);

#[derive(Debug)]
struct VerbCounts {
    name: &'static str,
    /// A stream's time tells nothing of how fast it is served.
    is_stream: bool,
    codes: [Counter; CODES.len() + 1],
    times: Times,
    open: Level,
}

impl Default for Counts {
    fn default() -> Self {
        let known = verbs().map(|(name, is_stream)| VerbCounts::new(name, is_stream));
        let other = VerbCounts::new(OTHER_VERB, true);
        let calls: Vec<_> = known.chain([other]).collect();
        let numbered = calls.iter().enumerate();
        Self {
            verbs: numbered.map(|(number, verb)| (verb.name, number)).collect(),
            calls,
            reads: ByLabel::default(),
            records_out: Counter::default(),
            bytes_out: Counter::default(),
            slow: Live::new(Duration::ZERO),
            tracer: Tracer::default(),
        }
    }
}

impl VerbCounts {
    fn new(name: &'static str, is_stream: bool) -> Self {
        Self {
            name,
            is_stream,
            codes: Default::default(),
            times: Times::default(),
            open: Level::default(),
        }
    }

    fn is_used(&self) -> bool {
        self.open.get() > 0 || self.codes.iter().any(|code| code.get() > 0)
    }
}

impl Counts {
    /// The same, and calls that take longer than this are logged; zero: none is.
    pub fn telling(self, slow: Live<Duration>) -> Self {
        Self { slow, ..self }
    }

    /// The same, and calls that somebody traces are told there.
    pub fn tracing(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The span of a call that has just begun, if its caller traces it.
    pub fn span(&self, Verb(verb): Verb, headers: &HeaderMap) -> Span {
        let parent = headers.get(TRACEPARENT).map(HeaderValue::to_str);
        let trace = self.tracer.trace(parent.and_then(Result::ok));
        trace.span(self.calls[verb].name, Side::Served)
    }

    /// A call of this path begins.
    pub fn begin(&self, path: &str) -> Verb {
        let name = path.strip_prefix('/').unwrap_or(path);
        let verb = self.verbs.get(name).copied();
        let verb = verb.unwrap_or(self.calls.len() - 1);
        self.calls[verb].open.up();
        Verb(verb)
    }

    /// It ended so, after so long.
    pub fn end(
        &self,
        Verb(verb): Verb,
        code: usize,
        (took, mut span): (Duration, Span),
        who: &str,
    ) {
        span.set("rpc.grpc.status_code", code as u64);
        if code != 0 {
            span.failed(CODES.get(code).unwrap_or(&OTHER_CODE));
        }
        let counts = &self.calls[verb];
        counts.open.down();
        counts.codes[code.min(CODES.len())].one_more();
        if !counts.is_stream {
            counts.times.note(took);
            let slow = self.slow.get();
            if took >= slow && !slow.is_zero() {
                let code = CODES.get(code).unwrap_or(&OTHER_CODE);
                let took_ms = took.as_millis();
                tracing::warn!(verb = counts.name, code, who, took_ms, "a slow call");
            }
        }
    }

    /// Tells all that, of the verbs that were ever called.
    pub fn tell(&self, page: &mut Page<'_>) {
        let used = || self.calls.iter().filter(|verb| verb.is_used());
        page.family(&REQUESTS, |series| {
            for verb in used() {
                let names = CODES.iter().chain([&OTHER_CODE]);
                for (code, count) in names.zip(&verb.codes) {
                    if count.get() > 0 {
                        let labels = [("verb", verb.name), ("code", *code)];
                        series.value(&labels, count.get());
                    }
                }
            }
        });
        page.family(&REQUEST_SECONDS, |series| {
            for verb in used().filter(|verb| verb.times.count() > 0) {
                series.times(&[("verb", verb.name)], &verb.times);
            }
        });
        page.family(&CALLS, |series| {
            for verb in used() {
                series.value(&[("verb", verb.name)], verb.open.get());
            }
        });
        self.tracer.tell(page);
        page.by_label(&READS, &self.reads);
        page.one(&RECORDS_OUT, self.records_out.get());
        page.one(&BYTES_OUT, self.bytes_out.get());
    }
}
