//! The client: finds a server that answers, tries again where that is safe, and keeps order.
//!
//! [`Producer`] appends exactly once, [`Appender`] batch by batch and on a condition, [`Consumer`] reads
//! without gaps, [`Admin`] administers; each is about one log. Errors say what to do. The stream layer moves the
//! bytes.
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod admin;
mod attempts;
mod builder;
mod consume;
mod error;
mod info;
mod logs;
mod named;
mod produce;
mod refused;
mod servers;
mod session;
mod told;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic::client::GrpcService;
use tonic::codegen::http::HeaderValue;
use tonic::codegen::{Body, StdError};

pub use admin::Admin;
pub use builder::{ClientBuilder, ConfigError};
pub use consume::consumer::Consumer;
pub use consume::cursors::SelectionCursors;
pub use consume::reading::{Consistency, ConsumeOptions, Selection, Start};
pub use consume::unpacked::ConsumedRecord;
pub use error::ClientError;
pub use info::{Claim, CursorInfo, FenceInfo, LogInfo, LogSettings, SessionInfo};
pub use logs::watch::{LogChange, LogWatch, WatchPosition};
pub use produce::ack::{Ack, Appended, BatchAck};
pub use produce::appender::{Appender, AppenderOptions, BatchFor};
pub use produce::backlog::ProducerStats;
pub use produce::producer::{Fence, Producer, ProducerOptions};

pub use crate::batch::{Compression, Header, Record};
pub use crate::proto::v1::{
    Compaction, Freshness, GetLimitsResponse, GetStatusResponse, Node, NodeRole, Retention,
};
pub use crate::reason::Reason;

use crate::batch::Builder;
use crate::net::Security;
use crate::net::stream_layer::StreamLayer;
use crate::net::tls::{Tls, TlsFiles};
use crate::net::traceparent::{NoTraceParent, TraceParent};
use crate::proto::log_v1::log_client::LogClient;
use crate::proto::log_v1::{ProduceRequest as PlainRequest, Record as WireRecord};
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::proto::v1::{Batch, ProduceRequest};
use crate::retry::CALL_WAIT;
use attempts::within;
use servers::{Calls, Servers};

/// How long a call may show no progress before it gives up, unless the client was told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The log that is meant where none is named.
const DEFAULT_LOG: &str = "default";
/// How long a server may take to begin its answer, before the client asks the next one.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(3);
/// The client replaces a stream that owes an answer and is silent for this long. A node that looks for a leader for as
/// long as it does says so before that.
const SILENCE_MAX: Duration = Duration::from_secs(CALL_WAIT.as_secs() + 1);
/// The largest answer that the client accepts, in bytes. It is more than the largest record that a server can
/// be set to.
const RESPONSE_BYTES_MAX: usize = 65 * 1024 * 1024;

/// A handle on a log of a cluster: on the default one, until [`Self::log`] names another. Clones share their
/// connections.
#[derive(Clone)]
pub struct Client {
    servers: Arc<Servers>,
    /// The log's name; empty for the default one.
    log: String,
    timeout: Duration,
}

impl Client {
    /// Says where the cluster is and how to trust it.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// What the environment says: `FERROLOG_SERVERS` (`host:port,...`), `FERROLOG_TLS_CA`, `FERROLOG_TLS_CERT` and
    /// `FERROLOG_TLS_KEY` (PEM files), or `FERROLOG_INSECURE` (`true`: plaintext), as the command line reads them.
    /// An empty variable is an unset one.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], as of [`ClientBuilder::build`].
    pub fn from_env() -> Result<Self, ConfigError> {
        ClientBuilder::from_env()?.build()
    }

    fn new(servers: Vec<String>, layer: StreamLayer, timeout: Duration) -> Self {
        let servers = Arc::new(Servers::new(servers, layer));
        Self {
            servers,
            log: String::new(),
            timeout,
        }
    }

    /// A handle on the log of this name in the same cluster. Producers, consumers and calls of the handle are about
    /// that log. No server is asked here: if there is no such log, the first call says so. [`Admin::create_log`] makes
    /// one.
    #[must_use]
    pub fn log(&self, name: impl Into<String>) -> Self {
        Self {
            log: name.into(),
            ..self.clone()
        }
    }

    /// A handle whose calls are of a trace: each tells the nodes this `traceparent`, as W3C Trace Context writes it. So do
    /// those of producers, consumers and further handles that are made with it. Nodes that are told to record spans hang
    /// theirs off the one that it names.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TraceParent`] if it is none.
    pub fn traced(&self, traceparent: &str) -> Result<Self, ConfigError> {
        let parent: TraceParent = traceparent.parse()?;
        let header = HeaderValue::try_from(parent.to_string()).map_err(|_| NoTraceParent)?;
        Ok(Self {
            servers: Arc::new(self.servers.traced(header)),
            ..self.clone()
        })
    }

    /// Proves the client by these PEM files, and trusts the nodes of this authority, at each connection from now on:
    /// for a program that runs longer than its certificate. Connections that are open stay. All handles of this client
    /// and what was made with them follow.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tls`] if the files cannot be used, [`ConfigError::TwoSecurities`] if this client speaks
    /// plaintext; then nothing changes.
    pub fn take_up_tls(
        &self,
        ca: impl Into<PathBuf>,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<(), ConfigError> {
        let Security::Mutual(ours) = self.servers.stream_layer().security() else {
            return Err(ConfigError::TwoSecurities);
        };
        let files = TlsFiles {
            ca: ca.into(),
            cert: cert.into(),
            key: key.into(),
            crl: None,
        };
        ours.take_up(&Tls::load(&files)?);
        Ok(())
    }

    /// How the client reaches the nodes.
    #[cfg(feature = "cli")]
    pub(crate) fn stream_layer(&self) -> &StreamLayer {
        self.servers.stream_layer()
    }

    /// A producer for this log, or for several ([`Producer::send_to`]); its session is opened with the first batch.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoServers`] if the client has no servers.
    pub fn producer(&self, options: ProducerOptions) -> Result<Producer, ClientError> {
        Producer::new(&self.servers, &self.log, options, self.timeout)
    }

    /// Appends one batch at a time, under a session of its own.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoServers`] if the client has no servers.
    pub fn appender(&self, options: AppenderOptions) -> Result<Appender, ClientError> {
        Appender::new(Arc::clone(&self.servers), &self.log, options, self.timeout)
    }

    /// The calls of an operator, and those about the cluster's names and cursors.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.servers), &self.log, self.timeout)
    }

    /// The named positions of readers of several logs.
    pub fn selection_cursors(&self) -> SelectionCursors {
        SelectionCursors::new(self.admin())
    }

    /// Reads from `options.from` on, this log or those of `options.selection`; connects at the first `next`.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoServers`] if the client has no servers and `options.server` is not set.
    pub fn consume(&self, options: ConsumeOptions) -> Result<Consumer, ClientError> {
        Consumer::new(Arc::clone(&self.servers), &self.log, options, self.timeout)
    }

    /// Watches the logs whose names begin with `prefix`. Without `from` it tells the logs that there are, then each
    /// change. With `from`, the position of an earlier watch, it tells the changes since. Connects at the first `next`.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoServers`] if the client has no servers.
    pub fn watch_logs(
        &self,
        prefix: &str,
        from: Option<WatchPosition>,
    ) -> Result<LogWatch, ClientError> {
        LogWatch::new(Arc::clone(&self.servers), prefix, from, self.timeout)
    }

    /// Appends one record by one call to the first server. Gives the record's offset. The call is never tried again:
    /// without a session, a second try might append the record twice.
    ///
    /// # Errors
    ///
    /// The server's refusal, or [`ClientError::Failed`] if the server was lost or did not answer in time: then
    /// the record may be in the log or not.
    pub async fn produce(&self, value: Bytes) -> Result<u64, ClientError> {
        let rotation = self.servers.rotation(None)?;
        let server = rotation.current();
        let channel = self.servers.channel(server);
        let appended = match self.log.is_empty() {
            true => within(self.timeout, produce_plain(channel, value)).await,
            false => {
                let (records, count) = build(&[Record::new(value)])?;
                let request = ProduceRequest {
                    log: self.log.clone(),
                    batch: Some(Batch {
                        records,
                        count,
                        ..Batch::default()
                    }),
                    ..ProduceRequest::default()
                };
                let mut client = native(channel);
                let answer = within(self.timeout, client.produce(request)).await;
                answer.map(|answer| answer.into_inner().first_offset)
            }
        };
        appended.map_err(|status| ClientError::of_status(server, &status))
    }
}

/// Appends a record to the default log by the call of `log.v1`, which knows no other.
async fn produce_plain(channel: Calls, value: Bytes) -> Result<u64, Status> {
    let record = WireRecord {
        value,
        ..WireRecord::default()
    };
    let request = PlainRequest {
        record: Some(record),
    };
    let answer = LogClient::new(channel).produce(request).await?;
    Ok(answer.into_inner().offset)
}

/// The native API of the server at the other end.
fn native<C>(channel: C) -> LogServiceClient<C>
where
    C: GrpcService<tonic::body::Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    LogServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// Records as a batch, without compression.
fn build(records: &[Record]) -> Result<(Bytes, u32), ClientError> {
    if records.is_empty() {
        return Err(ClientError::EmptyBatch);
    }
    let bytes = records.iter().map(crate::batch::bytes_in_batch).sum();
    let mut builder = Builder::with_capacity(bytes);
    for record in records {
        builder.push(record);
    }
    Ok(builder.take())
}
