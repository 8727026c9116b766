//! Spans: where they hang, when they began, and what becomes of them once they end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::env::{Clock, Instant, random_u64};
use crate::net::traceparent::TraceParent;
use crate::tasks;

use super::Side;
use super::collector::{Collector, Counts, WAITING_MAX};

/// Makes spans for one node and hands them to its collector; clones share it. The default one makes none.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    waiting: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
    clock: Clock,
}

/// Where spans hang: off a span of a caller, or of this node. Nowhere by default: then none is made.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Place>>);

#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    trace: TraceId,
    span: SpanId,
    is_remote: bool,
    /// The same moment by both clocks: all spans of a call on a node lie as its pace says, and end as they began.
    moment: (Instant, SystemTime),
}

/// A span under way. It ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    parent: Arc<Place>,
    id: SpanId,
    name: &'static str,
    side: Side,
    began: Instant,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Tracer {
    /// Tells the collector at this endpoint, if there is one, as the node of this name, on that runtime.
    pub fn start(endpoint: Option<&str>, node: &str, clock: &Clock, runtime: &Handle) -> Self {
        let Some(endpoint) = endpoint else {
            return Self::default();
        };
        let (waiting, spans) = mpsc::channel(WAITING_MAX);
        let counts = Arc::<Counts>::default();
        let collector = Collector::new(endpoint.to_owned(), node, counts.clone());
        drop(tasks::spawn_on(runtime, "spans", collector.tell_all(spans)));
        Self(Some(Arc::new(Shared {
            waiting,
            counts,
            clock: clock.clone(),
        })))
    }

    /// Where the spans of a call hang whose caller says this. Nowhere if nobody records the trace.
    pub fn trace(&self, traceparent: Option<&str>) -> Trace {
        let Some(shared) = &self.0 else {
            return Trace::default();
        };
        let parent = traceparent.and_then(|text| text.parse::<TraceParent>().ok());
        let place = parent.filter(|parent| parent.is_sampled).map(|parent| {
            Arc::new(Place {
                shared: shared.clone(),
                trace: TraceId::from(parent.trace),
                span: SpanId::from(parent.span),
                is_remote: true,
                moment: (Instant::now(), shared.clock.now()),
            })
        });
        Trace(place)
    }

    /// How many spans the collector took, and how many were lost.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.0.as_ref().map(|shared| &shared.counts);
        counts.map_or((0, 0), |counts| (counts.taken.get(), counts.lost.get()))
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        let ids = |trace: &Self| {
            let place = trace.0.as_ref();
            place.map(|place| (place.trace, place.span))
        };
        ids(self) == ids(other)
    }
}

impl Eq for Trace {}

impl Trace {
    /// Whether spans hang there.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span that begins now.
    pub fn span(&self, name: &'static str, side: Side) -> Span {
        Span(self.0.as_ref().map(|parent| {
            Box::new(Open {
                parent: parent.clone(),
                id: new_id(),
                name,
                side,
                began: Instant::now(),
                attributes: Vec::new(),
                status: Status::Unset,
            })
        }))
    }

    /// A span that has ended; none if it is not known when.
    pub fn past(&self, name: &'static str, from: Option<Instant>, to: Option<Instant>) {
        if let (Some(parent), Some((from, to))) = (&self.0, from.zip(to)) {
            let (side, attributes) = (Side::Within, Vec::new());
            parent.tell(new_id(), name, side, (from, to), attributes, Status::Unset);
        }
    }
}

impl Place {
    fn at(&self, instant: Instant) -> SystemTime {
        let (moment, at) = self.moment;
        match instant.checked_duration_since(moment) {
            Some(since) => at + since,
            None => at - moment.saturating_duration_since(instant),
        }
    }

    /// Hands a span to the collector, if there is room among those that wait for it.
    fn tell(
        &self,
        id: SpanId,
        name: &'static str,
        side: Side,
        (from, to): (Instant, Instant),
        attributes: Vec<KeyValue>,
        status: Status,
    ) {
        let state = TraceState::NONE;
        let span = SpanData {
            span_context: SpanContext::new(self.trace, id, TraceFlags::SAMPLED, false, state),
            parent_span_id: self.span,
            parent_span_is_remote: self.is_remote,
            span_kind: match side {
                Side::Served => SpanKind::Server,
                Side::Asked => SpanKind::Client,
                Side::Within => SpanKind::Internal,
            },
            name: Cow::Borrowed(name),
            start_time: self.at(from),
            end_time: self.at(to),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder("ferrolog").build(),
        };
        if self.shared.waiting.try_send(span).is_err() {
            self.shared.counts.lost.one_more();
        }
    }
}

impl Span {
    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// When it began, if there is one.
    pub fn began(&self) -> Option<Instant> {
        self.0.as_ref().map(|open| open.began)
    }

    /// Where the spans hang that are parts of it.
    pub fn trace(&self) -> Trace {
        Trace(self.0.as_ref().map(|open| {
            Arc::new(Place {
                shared: open.parent.shared.clone(),
                trace: open.parent.trace,
                span: open.id,
                is_remote: false,
                moment: open.parent.moment,
            })
        }))
    }

    /// What another program is told that is asked within it.
    pub fn traceparent(&self) -> Option<String> {
        let open = self.0.as_ref()?;
        let parent = TraceParent {
            trace: u128::from_be_bytes(open.parent.trace.to_bytes()),
            span: u64::from_be_bytes(open.id.to_bytes()),
            is_sampled: true,
        };
        Some(parent.to_string())
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: u64) {
        if let Some(open) = &mut self.0 {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            open.attributes.push(KeyValue::new(key, value));
        }
    }

    /// What it was for did not come about, by this code.
    pub fn failed(&mut self, code: &'static str) {
        if let Some(open) = &mut self.0 {
            open.status = Status::error(code);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let Open {
                parent,
                id,
                name,
                side,
                began,
                attributes,
                status,
            } = *open;
            let to = Instant::now();
            parent.tell(id, name, side, (began, to), attributes, status);
        }
    }
}

/// Not zero, which is none.
fn new_id() -> SpanId {
    SpanId::from(random_u64().max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer() -> Tracer {
        // Nobody listens there.
        let endpoint = Some("http://127.0.0.1:1");
        Tracer::start(endpoint, "n1", &Clock::system(), &Handle::current())
    }

    #[tokio::test]
    async fn spans_hang_off_what_somebody_records_and_off_nothing_else() {
        let tracer = tracer();
        for nothing in [
            None,
            Some(""),
            Some("00-1-2-01"),
            Some(&*PARENT.replace("-01", "-00")),
        ] {
            let trace = tracer.trace(nothing);
            assert!(
                !trace.is_on() && !trace.span("call", Side::Served).is_on(),
                "{nothing:?}"
            );
        }
        assert!(
            !Tracer::default().trace(Some(PARENT)).is_on(),
            "nobody is told"
        );
        let call = tracer.trace(Some(PARENT)).span("call", Side::Served);
        let told = call.trace().span("forward", Side::Asked).traceparent();
        let told: TraceParent = told.unwrap().parse().unwrap();
        let parent: TraceParent = PARENT.parse().unwrap();
        assert_eq!((told.trace, told.is_sampled), (parent.trace, true));
        assert_ne!(told.span, parent.span);
    }

    /// Nobody waits for it: of too many spans the later ones are lost, and so are those that it does not take.
    #[tokio::test]
    async fn a_dead_collector_costs_spans_and_nothing_else() {
        const MORE: u64 = 100;
        let tracer = tracer();
        let trace = tracer.trace(Some(PARENT));
        // Nothing is sent meanwhile: the runtime has one thread.
        for _ in 0..WAITING_MAX as u64 + MORE {
            drop(trace.span("call", Side::Served));
        }
        assert_eq!(tracer.counts(), (0, MORE));
        let all_lost = async {
            while tracer.counts().1 < WAITING_MAX as u64 + MORE {
                tokio::task::yield_now().await;
            }
        };
        let lost = timeout(Duration::from_secs(30), all_lost).await;
        lost.expect("each is counted");
        assert_eq!(tracer.counts().0, 0);
    }
}
