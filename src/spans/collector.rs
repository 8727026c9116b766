//! The way to the collector: what waits for it, how much goes at a time, and what is said when it takes nothing.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use crate::env::Instant;
use crate::metrics::Counter;

/// Spans that wait for the collector. Of more, the later ones are lost.
pub const WAITING_MAX: usize = 4096;
/// Spans of one message.
const MESSAGE_SPANS_MAX: usize = 512;
/// How long the first span of a message waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take for a message. What it has not taken by then is lost.
const MESSAGE_WAIT: Duration = Duration::from_secs(5);
/// While spans are lost, the log says so once in so long.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    pub taken: Counter,
    pub lost: Counter,
}

/// A collector, and who tells it.
pub struct Collector {
    endpoint: String,
    resource: Resource,
    counts: Arc<Counts>,
    told: Told,
}

/// What the log said of losses.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    lost: u64,
}

impl Collector {
    pub fn new(endpoint: String, node: &str, counts: Arc<Counts>) -> Self {
        let resource = Resource::builder().with_service_name("ferrolog");
        let resource = resource.with_attributes([
            KeyValue::new("service.instance.id", node.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        Self {
            endpoint,
            resource: resource.build(),
            counts,
            told: Told::default(),
        }
    }

    /// Tells the collector all spans that come, until nobody makes any.
    pub async fn tell_all(mut self, mut spans: mpsc::Receiver<SpanData>) {
        // It dials at the first message, and again after a loss.
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&self.endpoint)
            .with_timeout(MESSAGE_WAIT)
            .with_retry_policy(RetryPolicy::disabled())
            .build();
        let mut exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                let endpoint = &self.endpoint;
                tracing::error!(endpoint, %error, "no spans are told: the collector cannot be called");
                return;
            }
        };
        exporter.set_resource(&self.resource);
        while let Some(first) = spans.recv().await {
            let message = gather(first, &mut spans).await;
            let count = message.len() as u64;
            let failed = match timeout(MESSAGE_WAIT, exporter.export(message)).await {
                Ok(Ok(())) => {
                    self.counts.taken.add(count);
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", MESSAGE_WAIT.as_secs())),
            };
            if failed.is_some() {
                self.counts.lost.add(count);
            }
            self.say(failed.as_deref());
        }
    }

    /// Says in the log that spans are lost, once in a while, and that they are no more.
    fn say(&mut self, failed: Option<&str>) {
        let (endpoint, lost, now) = (&self.endpoint, self.counts.lost.get(), Instant::now());
        let more = lost - self.told.lost;
        let is_due = self.told.at.is_none_or(|at| now >= at + TELL_EVERY);
        if more > 0 && is_due {
            let error = failed.unwrap_or("it takes them too slowly");
            tracing::warn!(
                endpoint,
                lost = more,
                error,
                "spans are lost: the collector does not take them"
            );
            (self.told.at, self.told.lost) = (Some(now), lost);
        } else if more == 0 && is_due && self.told.at.take().is_some() {
            tracing::info!(endpoint, "the collector takes spans again");
        }
    }
}

/// A span and those that come soon after it.
async fn gather(first: SpanData, spans: &mut mpsc::Receiver<SpanData>) -> Vec<SpanData> {
    let until = Instant::now() + GATHER;
    let mut message = vec![first];
    while message.len() < MESSAGE_SPANS_MAX
        && let Ok(Some(span)) = timeout_at(until, spans.recv()).await
    {
        message.push(span);
    }
    message
}
