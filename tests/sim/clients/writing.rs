//! Clients that append: pipelined under a session, batch by batch on a condition, and without a session.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ferrolog::client::{
    AppenderOptions, BatchAck, Client, ClientError, Compression, Fence, ProducerOptions, Record,
};
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::ChannelOptions;
use ferrolog::proto::v1::log_service_client::LogServiceClient;
use ferrolog::proto::v1::{Batch, ProduceRequest, Record as WireRecord, Records};
use ferrolog::reason::{Done, Reason};
use prost::Message;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::{ANSWER_MAX, Hand};
use crate::events;
use crate::harness::checker::Outcome;
use crate::plan::{draw, one_in, pick};

pub type Raw = LogServiceClient<Channel>;

impl Hand {
    /// Raw calls to this node alone.
    pub fn raw(&self, server: &str) -> Raw {
        let options = ChannelOptions {
            connect_timeout: Duration::from_secs(2),
            ..ChannelOptions::default()
        };
        let channel = self.layer().channel(Kind::Grpc, server, options);
        LogServiceClient::new(channel).max_decoding_message_size(64 << 20)
    }

    fn compression(&self) -> Compression {
        pick(
            &self.random,
            &[Compression::None, Compression::None, Compression::Lz4],
        )
    }
}

pub fn records(values: Vec<Bytes>) -> Vec<Record> {
    values.into_iter().map(Record::from).collect()
}

/// What an error of the real client leaves.
pub fn outcome_of(hand: &Hand, error: &ClientError) -> Outcome {
    match error {
        ClientError::OffsetDiffers { .. } | ClientError::Fenced { .. } => Outcome::Refused,
        ClientError::Gap { .. } | ClientError::Protocol { .. } | ClientError::Batch { .. } => {
            hand.record.wrong(format!("{}: {error}", hand.name));
            Outcome::Unknown
        }
        _ => Outcome::Unknown,
    }
}

/// A producer with some batches in flight; a new one now and then, and after an error.
pub async fn produce(hand: Hand) {
    let client = hand.client();
    while !hand.is_told_to_stop() {
        let window = draw(&hand.random, 1..=6) as usize;
        let options = ProducerOptions {
            compression: hand.compression(),
            batch_bytes_max: pick(&hand.random, &[200, 4000, 64 << 10]),
            ..ProducerOptions::default()
        };
        let Ok(producer) = client.producer(options) else {
            return;
        };
        let (number, mut seq) = (hand.record.producer(), 0);
        let mut waiting = VecDeque::<(usize, BatchAck)>::new();
        for _ in 0..draw(&hand.random, 10..=200) {
            let count = draw(&hand.random, 1..=8) as u32;
            let most = hand.work.value_bytes_max;
            let (batch, values) = hand
                .record
                .begin(&hand.random, (number, seq), count, most, None);
            seq += count;
            match producer.send_batch(records(values)).await {
                Ok(ack) => waiting.push_back((batch, ack)),
                Err(_) => break,
            }
            if waiting.len() >= window && !taken(&hand, &mut waiting).await {
                break;
            }
            if hand.is_told_to_stop() {
                break;
            }
            hand.think().await;
        }
        while !waiting.is_empty() && taken(&hand, &mut waiting).await {}
        if one_in(&hand.random, 2) {
            let _ = producer.finish().await;
        } else {
            producer.stop();
        }
    }
}

/// Whether the oldest batch was acknowledged.
async fn taken(hand: &Hand, waiting: &mut VecDeque<(usize, BatchAck)>) -> bool {
    let Some((batch, ack)) = waiting.pop_front() else {
        return false;
    };
    match ack.await {
        Ok(appended) => {
            hand.record
                .end(batch, Outcome::Acked(appended.first_offset));
            if appended.duplicate {
                events::sometimes("a batch that was sent again was known");
            }
            true
        }
        Err(error) => {
            events::note(format_args!("{} {error}", hand.name));
            if matches!(error, ClientError::SessionExpired) && !waiting.is_empty() {
                events::sometimes("a session ended with batches in flight");
            }
            // Of those behind it nothing is known.
            let _ = outcome_of(hand, &error);
            hand.record.end(batch, Outcome::Unknown);
            false
        }
    }
}

/// Appends where the log ends, as far as it knows.
pub async fn append(hand: Hand) {
    let client = hand.client();
    let Ok(mut appender) = client.appender(AppenderOptions::default()) else {
        return;
    };
    let (mut number, mut seq, mut next) = (hand.record.producer(), 0, 0);
    while !hand.is_told_to_stop() {
        let count = draw(&hand.random, 1..=4) as u32;
        let most = hand.work.value_bytes_max;
        let (batch, values) = hand
            .record
            .begin(&hand.random, (number, seq), count, most, None);
        seq += count;
        let on_condition = one_in(&hand.random, 2);
        let appended = match on_condition {
            true => appender.append_at(next, records(values)).await,
            false => appender.append(records(values)).await,
        };
        match appended {
            Ok(appended) => {
                if on_condition && appended.first_offset != next {
                    let at = appended.first_offset;
                    hand.record
                        .wrong(format!("appended at {at} on the condition {next}"));
                }
                hand.record
                    .end(batch, Outcome::Acked(appended.first_offset));
                next = appended.first_offset + u64::from(appended.count);
            }
            Err(error) => {
                events::note(format_args!("{} {error}", hand.name));
                hand.record.end(batch, outcome_of(&hand, &error));
                if let ClientError::OffsetDiffers { next: there, .. } = error {
                    events::sometimes("a conditional append came too late");
                    next = there;
                } else {
                    (number, seq) = (hand.record.producer(), 0);
                }
            }
        }
        hand.think().await;
    }
    appender.close().await;
}

/// A batch as it is sent.
pub fn batch(values: Vec<Bytes>) -> Batch {
    let record = |value| WireRecord {
        value: Some(value),
        ..WireRecord::default()
    };
    let records: Vec<_> = values.into_iter().map(record).collect();
    Batch {
        count: records.len() as u32,
        records: Records { records }.encode_to_vec().into(),
        ..Batch::default()
    }
}

/// Single calls without a session, to a node at random.
pub async fn send(hand: Hand) {
    let mut clients: Vec<_> = hand.servers.iter().map(|server| hand.raw(server)).collect();
    while !hand.is_told_to_stop() {
        let (number, count) = (hand.record.producer(), draw(&hand.random, 1..=3) as u32);
        let most = hand.work.value_bytes_max;
        let (sent, values) = hand
            .record
            .begin(&hand.random, (number, 0), count, most, None);
        let request = ProduceRequest {
            log: hand.log.clone(),
            batch: Some(batch(values)),
            ..ProduceRequest::default()
        };
        let at = draw(&hand.random, 0..=clients.len() as u64 - 1) as usize;
        let answer = within(clients[at].produce(request)).await;
        hand.record.end(
            sent,
            match &answer {
                Ok(answer) => Outcome::Acked(answer.first_offset),
                Err(status) => told(status),
            },
        );
        hand.think().await;
    }
}

/// What a status says of the batch.
fn told(status: &Status) -> Outcome {
    events::note(format_args!(
        "status {:?} {:?}",
        status.code(),
        Reason::of(status)
    ));
    match Reason::of(status).map(Reason::done) {
        Some(Done::Nothing) => {
            if Reason::of(status) == Some(Reason::DiskFull) {
                events::sometimes("a record was refused for the room on the disk");
            }
            Outcome::Refused
        }
        _ => {
            events::sometimes("the outcome of an append stayed unknown");
            Outcome::Unknown
        }
    }
}

/// Waits for a call for some time.
pub async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    let answer = timeout(ANSWER_MAX, call).await.unwrap_or_else(late);
    answer.map(tonic::Response::into_inner)
}

/// One batch under an epoch of a fence.
pub async fn append_fenced(hand: &Hand, client: &Client, fence: &Fence, batches: u64) -> bool {
    let options = AppenderOptions {
        fence: Some(fence.clone()),
        ..AppenderOptions::default()
    };
    let Ok(mut appender) = client.appender(options) else {
        return false;
    };
    let number = hand.record.producer();
    for seq in 0..batches as u32 {
        let most = hand.work.value_bytes_max;
        let epoch = Some(fence.epoch);
        let (batch, values) = hand
            .record
            .begin(&hand.random, (number, seq), 1, most, epoch);
        match appender.append(records(values)).await {
            Ok(appended) => hand
                .record
                .end(batch, Outcome::Acked(appended.first_offset)),
            Err(error) => {
                events::note(format_args!("{} {error}", hand.name));
                if matches!(error, ClientError::Fenced { .. }) {
                    events::sometimes("a producer was fenced off");
                }
                hand.record.end(batch, outcome_of(hand, &error));
                return false;
            }
        }
        hand.think().await;
    }
    true
}
