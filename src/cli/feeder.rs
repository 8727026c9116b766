//! Feeds a producer from an input without piling up its acks, and says how much was acknowledged if it ends early.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::output::grouped;
use crate::client::{Ack, ClientError, Producer, ProducerStats, Record};

/// How many records were appended, and where they stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Fed {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) first_offset: Option<u64>,
    pub(super) last_offset: Option<u64>,
}

/// The input was not appended to its end, or not acknowledged to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub(super) struct Unfinished {
    pub(super) acknowledged: u64,
    /// Records that were sent and have no answer.
    pub(super) in_doubt: u64,
    /// The offsets of the first and the last record that was acknowledged.
    pub(super) offsets: Option<(u64, u64)>,
    #[source]
    pub(super) cause: anyhow::Error,
}

impl Unfinished {
    fn text(&self) -> String {
        let offsets = match self.offsets {
            Some((first, last)) if self.acknowledged > 1 => format!(" (offsets {first} to {last})"),
            Some((first, _)) => format!(" (offset {first})"),
            None => String::new(),
        };
        let acknowledged = match self.acknowledged {
            0 => "no record was acknowledged".to_owned(),
            1 => format!("only the first record was acknowledged{offsets}"),
            count => {
                let count = grouped(count);
                format!("only the first {count} records were acknowledged{offsets}")
            }
        };
        let more = if self.acknowledged > 0 { " more" } else { "" };
        match self.in_doubt {
            0 => acknowledged,
            1 => format!("{acknowledged}, and one{more} may be in the log or not"),
            count => {
                let count = grouped(count);
                format!("{acknowledged}, and {count}{more} may be in the log or not")
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "in_doubt": self.in_doubt,
            "first_offset": self.offsets.map(|(first, _)| first),
            "last_offset": self.offsets.map(|(_, last)| last),
        })
    }
}

/// Sends records and collects their offsets without piling them up.
pub(super) struct Feeder<'a> {
    producer: &'a Producer,
    acks: VecDeque<Ack>,
    pub(super) fed: Fed,
}

impl<'a> Feeder<'a> {
    /// More than a producer's window, so that the oldest is acknowledged when it is asked.
    const ACKS_MAX: usize = 65_536;

    pub(super) fn new(producer: &'a Producer) -> Self {
        Self {
            producer,
            acks: VecDeque::new(),
            fed: Fed::default(),
        }
    }

    pub(super) async fn send(&mut self, record: impl Into<Record>) -> Result<(), ClientError> {
        let record = record.into();
        let bytes = record.value.len() as u64;
        self.acks.push_back(self.producer.send(record).await?);
        self.fed.records += 1;
        self.fed.bytes += bytes;
        if self.acks.len() > Self::ACKS_MAX {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until all that was sent is acknowledged.
    pub(super) async fn settle(&mut self) -> Result<(), ClientError> {
        self.settle_first(self.fed.records).await
    }

    /// Waits until the first `count` records are acknowledged.
    pub(super) async fn settle_first(&mut self, count: u64) -> Result<(), ClientError> {
        while self.fed.records - (self.acks.len() as u64) < count.min(self.fed.records) {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Sends nothing more, and says how many records were acknowledged.
    pub(super) async fn stop(mut self, cause: anyhow::Error) -> Unfinished {
        let ProducerStats {
            acknowledged,
            in_doubt,
            ..
        } = self.producer.stop();
        // What was acknowledged has its offset; the first that was not ends the wait.
        let _ = self.settle().await;
        Unfinished {
            acknowledged,
            in_doubt,
            offsets: self.fed.first_offset.zip(self.fed.last_offset),
            cause,
        }
    }

    async fn settle_one(&mut self) -> Result<(), ClientError> {
        // The ack stays at the front until it is known, since this wait may be given up.
        let Some(ack) = self.acks.front_mut() else {
            return Ok(());
        };
        let outcome = ack.await;
        self.acks.pop_front();
        let offset = outcome?;
        self.fed.first_offset.get_or_insert(offset);
        self.fed.last_offset = Some(offset);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_is_sure_and_what_is_not() {
        let told = |acknowledged, in_doubt, offsets| {
            let cause = anyhow::anyhow!("interrupted");
            let unfinished = Unfinished {
                acknowledged,
                in_doubt,
                offsets,
                cause,
            };
            unfinished.to_string()
        };
        assert_eq!(told(0, 0, None), "no record was acknowledged");
        assert_eq!(
            told(0, 1, None),
            "no record was acknowledged, and one may be in the log or not"
        );
        assert_eq!(
            told(1, 0, Some((7, 7))),
            "only the first record was acknowledged (offset 7)"
        );
        assert_eq!(
            told(1234, 2, Some((7, 1240))),
            "only the first 1,234 records were acknowledged (offsets 7 to 1240), \
             and 2 more may be in the log or not"
        );
    }
}
