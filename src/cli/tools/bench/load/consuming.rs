//! One consume stream that is given credit as its batches are taken.

use anyhow::{Context, bail, ensure};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::SILENCE_MAX;
use crate::batch;
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::proto::v1::{
    ConsumeStreamRequest, ConsumeStreamResponse, ConsumeStreamStart, StoredBatch,
};

/// What a consume stream may send ahead, and when it is told more.
const CREDIT_BYTES: u64 = 64 << 20;
const CREDIT_STEP_BYTES: u64 = 8 << 20;
/// One answer holds whole batches, so it may be larger than tonic takes by itself.
const ANSWER_BYTES_MAX: usize = 65 << 20;

/// See the module.
pub struct Consuming {
    credit: mpsc::Sender<ConsumeStreamRequest>,
    answers: Streaming<ConsumeStreamResponse>,
    /// Bytes that were taken and not yet given back as credit.
    owed: u64,
}

/// What was found in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    pub records: u64,
    pub value_bytes: u64,
    batch_bytes: u64,
}

impl Consuming {
    pub async fn open(channel: Channel, start: ConsumeStreamStart) -> anyhow::Result<Self> {
        let (credit, requests) = mpsc::channel(16);
        let first = ConsumeStreamRequest {
            start: Some(start),
            credit_bytes: CREDIT_BYTES,
        };
        credit.send(first).await.context("the channel is open")?;
        let client = LogServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let answers = client.consume_stream(ReceiverStream::new(requests)).await;
        Ok(Self {
            credit,
            answers: answers.context("open a consume stream")?.into_inner(),
            owed: 0,
        })
    }

    /// The next answer's batches; there may be none in it.
    pub async fn next(&mut self) -> anyhow::Result<Vec<StoredBatch>> {
        let answer = timeout(SILENCE_MAX, self.answers.message()).await;
        let answer = answer.context("the consume stream is stuck")?;
        let answer = answer.context("the consume stream broke")?;
        Ok(answer
            .context("the server ended the consume stream")?
            .batches)
    }

    /// Walks a batch to its end and counts it as taken.
    pub fn take(&mut self, stored: &StoredBatch) -> anyhow::Result<Walked> {
        let walked = walk(stored)?;
        self.owed += walked.batch_bytes;
        Ok(walked)
    }

    /// Gives credit for what was taken, once it is enough for a message.
    pub async fn give(&mut self) -> anyhow::Result<()> {
        if self.owed < CREDIT_STEP_BYTES {
            return Ok(());
        }
        let more = ConsumeStreamRequest {
            start: None,
            credit_bytes: std::mem::take(&mut self.owed),
        };
        let sent = self.credit.send(more).await;
        sent.context("the server closed the consume stream")
    }
}

/// Looks at each record of a batch.
pub fn walk(stored: &StoredBatch) -> anyhow::Result<Walked> {
    let batch = stored.batch.as_ref();
    let batch = batch.context("an answer has a batch without records")?;
    if batch.compression != 0 {
        bail!("a batch came compressed, which was not accepted");
    }
    let (mut records, mut value_bytes) = (0, 0);
    for record in batch::records(&batch.records) {
        let record = record.context("read a batch")?;
        records += 1;
        value_bytes += record.value.len() as u64;
    }
    ensure!(
        records == u64::from(batch.count),
        "a batch of {} records has {records}",
        batch.count
    );
    Ok(Walked {
        records,
        value_bytes,
        batch_bytes: batch.records.len() as u64,
    })
}
