//! The client: finds a server that answers, tries again where that is safe, and keeps order.
//!
//! [`Producer`] appends exactly once, [`Consumer`] reads without gaps, [`Client::status`] and its siblings
//! administer. Errors say what to do. Where the bytes travel is the stream layer's affair.

mod admin;
mod attempts;
mod consumer;
mod error;
mod producer;
mod servers;
mod window;

#[cfg(test)]
mod fake_server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use consumer::{Consistency, ConsumeOptions, Consumer, Record, Start};
pub use error::ClientError;
pub use producer::{Ack, Producer};
pub use window::ProducerStats;

use crate::net::stream_layer::StreamLayer;
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::{ProduceRequest, Record as WireRecord};
use attempts::within;
use servers::Servers;

/// How long a call may give no sign of progress, unless the settings say otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// A server that has not begun to answer by then is left for the next one.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(3);
/// A stream that owes an answer and is silent for this long is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The largest answer taken: more than any record a server may be configured for.
const MESSAGE_BYTES_MAX: usize = 65 * 1024 * 1024;

/// Where a cluster is and how to speak to it.
pub struct ClientConfig {
    /// `host:port` of some or all nodes.
    pub servers: Vec<String>,
    pub stream_layer: StreamLayer,
    /// The longest time without progress before a call gives up.
    pub timeout: Duration,
}

/// A handle on a cluster. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    servers: Arc<Servers>,
    timeout: Duration,
}

impl Client {
    /// Connects to nothing yet. Its calls need a tokio runtime.
    pub fn new(config: ClientConfig) -> Self {
        let servers = Arc::new(Servers::new(config.servers, config.stream_layer));
        Self {
            servers,
            timeout: config.timeout,
        }
    }

    /// A producer with a session of its own.
    pub fn producer(&self) -> Result<Producer, ClientError> {
        Producer::new(
            Arc::clone(&self.servers),
            crate::env::random_u128(),
            self.timeout,
        )
    }

    /// Reads from `options.from` on; connects at the first `next`.
    pub fn consume(&self, options: ConsumeOptions) -> Result<Consumer, ClientError> {
        Consumer::new(Arc::clone(&self.servers), options, self.timeout)
    }

    /// Appends one record by one call to the first server. Never tried again: without a session a lost answer
    /// leaves open whether the record is in the log.
    pub async fn produce(&self, value: Bytes) -> Result<u64, ClientError> {
        let rotation = self.servers.rotation(None)?;
        let server = rotation.current();
        let record = WireRecord {
            value,
            ..WireRecord::default()
        };
        let mut client = LogClient::new(self.servers.channel(server));
        let answer = within(
            self.timeout,
            client.produce(ProduceRequest {
                record: Some(record),
            }),
        )
        .await;
        answer
            .map(|answer| answer.into_inner().offset)
            .map_err(|status| ClientError::of_status(server, &status))
    }
}
