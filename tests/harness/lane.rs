//! A producer that sends each batch until it is answered, on node after node, by raw calls of `ferrolog.v1`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::proto::v1::{
    OpenSessionRequest, ProduceRequest, ProduceResponse, ProduceStreamRequest,
    ProduceStreamResponse, SessionSequence,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::checker::{self, Append, Outcome};
use super::native::{self, Client};

/// Records of a batch.
pub const RECORDS: u32 = 3;
/// Batches of a session without an answer, unless the server allows less.
const WINDOW: u64 = 32;
/// An answer that takes longer counts as a broken connection.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between two tries.
const PACE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    Opened,
    /// No batch says whose it is, so that the server knows none again.
    None,
}

/// Counts over all lanes.
#[derive(Default)]
pub struct Counts {
    pub answered: AtomicU64,
    /// Batches that were sent once more.
    pub retried: AtomicU64,
    /// Batches of these that the server knew already.
    pub duplicates: AtomicU64,
    /// Streams that broke.
    pub breaks: AtomicU64,
}

/// One producer: batches in order, each until it is answered.
pub struct Lane {
    pub number: u32,
    pub batches: u64,
    pub sessions: Sessions,
    pub session: Option<u64>,
    /// The proxies before the nodes.
    pub addrs: Vec<String>,
    pub layer: StreamLayer,
    pub origin: Instant,
    pub counts: Arc<Counts>,
    /// By batch: when it was first sent, and its first offset with the time of the answer.
    pub begun: Vec<Duration>,
    pub acked: Vec<(u64, Duration)>,
}

impl Lane {
    /// Sends until every batch is answered.
    pub async fn run(mut self) -> Self {
        let mut paces = tokio::time::interval(PACE);
        paces.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut place = self.number as usize;
        while self.answered() < self.batches {
            paces.tick().await;
            if let Err(status) = self.stream(place % self.addrs.len()).await {
                self.judge(&status);
                self.counts.breaks.fetch_add(1, Ordering::Relaxed);
            }
            // On another node after any break.
            place += 1;
        }
        self
    }

    fn answered(&self) -> u64 {
        self.acked.len() as u64
    }

    fn client(&self, place: usize) -> Client {
        let options = ChannelOptions {
            connect_timeout: ANSWER_MAX,
            ..ChannelOptions::default()
        };
        native::client(&self.layer, &self.addrs[place], options)
    }

    /// One stream, from the first batch without an answer on, until it breaks or all is done.
    async fn stream(&mut self, place: usize) -> Result<(), Status> {
        let mut client = self.client(place);
        self.open_session(&mut client).await?;
        let (requests, sent) = mpsc::unbounded_channel();
        let call = client.produce_stream(UnboundedReceiverStream::new(sent));
        let mut answers = within(call).await?.into_inner();
        let credit = next(&mut answers).await?;
        assert!(credit.ack.is_none(), "the first answer is the credit alone");
        let window = u64::from(credit.credit_batches).min(WINDOW);
        assert!(window > 0 && credit.credit_bytes > 0, "no credit");

        let mut next_batch = self.answered();
        while self.answered() < self.batches {
            while next_batch < self.batches && next_batch < self.answered() + window {
                let request = self.request(next_batch);
                self.note_sent(next_batch);
                // A stream that has ended says why by its answers.
                let _ = requests.send(request);
                next_batch += 1;
            }
            let answer = next(&mut answers).await?;
            self.note_ack(answer.ack.expect("an answer after the first holds an ack"));
        }
        Ok(())
    }

    /// The same secret in every try: whichever of them comes through gives the same session.
    async fn open_session(&mut self, client: &mut Client) -> Result<(), Status> {
        if self.sessions == Sessions::None || self.session.is_some() {
            return Ok(());
        }
        let (log, secret) = (String::new(), self.secret());
        let opened = within(client.open_session(OpenSessionRequest { log, secret })).await?;
        self.session = Some(opened.into_inner().session);
        Ok(())
    }

    fn secret(&self) -> Bytes {
        checker::payload(self.number, u32::MAX).to_vec().into()
    }

    fn request(&self, batch: u64) -> ProduceStreamRequest {
        let sequence = batch * u64::from(RECORDS);
        let values = (0..RECORDS).map(|record| self.value(sequence + u64::from(record)).to_vec());
        let session = self.session.map(|session| SessionSequence {
            session,
            sequence,
            secret: self.secret(),
        });
        ProduceStreamRequest {
            produce: Some(ProduceRequest {
                batch: Some(native::batch(values)),
                session,
                ..ProduceRequest::default()
            }),
            many: None,
        }
    }

    fn value(&self, sequence: u64) -> [u8; 16] {
        checker::payload(self.number, u32::try_from(sequence).expect("few records"))
    }

    fn note_sent(&mut self, batch: u64) {
        if self.begun.len() as u64 == batch {
            self.begun.push(self.origin.elapsed());
        } else {
            self.counts.retried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers come in the order of the batches.
    fn note_ack(&mut self, ack: ProduceResponse) {
        assert_eq!(ack.count, RECORDS);
        let at = self.origin.elapsed();
        self.acked.push((ack.first_offset, at));
        self.counts.answered.fetch_add(1, Ordering::Relaxed);
        let duplicate = u64::from(ack.duplicate);
        self.counts
            .duplicates
            .fetch_add(duplicate, Ordering::Relaxed);
    }

    /// Only what a break may cause is tried again. A gap that begins before the first batch without an answer
    /// would be a loss.
    fn judge(&self, status: &Status) {
        let reason = native::reason(status);
        let known = match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
            // So h2 tells of a connection that ended within a frame.
            Code::Internal => reason.is_empty(),
            Code::ResourceExhausted => reason == "IN_FLIGHT_LIMIT",
            Code::Aborted if reason == "SEQUENCE_GAP" => {
                let expected = native::detail(status, "expected").expect("what it expects");
                expected >= self.answered() * u64::from(RECORDS)
            }
            _ => false,
        };
        assert!(known, "producer {}: {reason} {status:?}", self.number);
    }

    pub fn appends(&self) -> Vec<Append> {
        let each = |(batch, (first, end)): (usize, &(u64, Duration))| {
            let sequence = batch as u64 * u64::from(RECORDS);
            let (begin, first, end) = (self.begun[batch], *first, *end);
            (0..u64::from(RECORDS))
                .map(move |record| (sequence + record, first + record, begin, end))
        };
        let records = self.acked.iter().enumerate().flat_map(each);
        records
            .map(|(seq, offset, begin, end)| Append {
                producer: self.number,
                seq,
                hash: checker::hash(&self.value(seq)),
                begin,
                end,
                outcome: Outcome::Acked(offset),
            })
            .collect()
    }
}

/// Waits for a call. A call that takes too long counts as broken.
async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    timeout(ANSWER_MAX, call).await.unwrap_or_else(late)
}

async fn next(
    answers: &mut Streaming<ProduceStreamResponse>,
) -> Result<ProduceStreamResponse, Status> {
    let answer = within(answers.message()).await?;
    answer.ok_or_else(|| Status::unavailable("the stream ended without a word"))
}
