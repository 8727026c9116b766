//! Feeds a producer from an input without piling up its acks, and says how much was acknowledged if it ends early.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::output::grouped;
use crate::client::{Ack, ClientError, Producer, ProducerStats, Record};
use crate::name::Shown;

/// How many records were appended, and where they stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Fed {
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Those that were acknowledged, by the name of their log; an empty one where the producer's own was meant.
    pub(super) logs: BTreeMap<Arc<str>, Appended>,
}

/// The records of one log that were acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) records: u64,
    pub(super) first_offset: u64,
    pub(super) last_offset: u64,
}

impl Fed {
    fn acknowledged(&mut self, log: &Arc<str>, offset: u64) {
        if let Some(appended) = self.logs.get_mut(log) {
            appended.records += 1;
            appended.last_offset = offset;
            return;
        }
        let appended = Appended {
            records: 1,
            first_offset: offset,
            last_offset: offset,
        };
        self.logs.insert(log.clone(), appended);
    }

    /// The offsets of the first and the last record, if all are of one log.
    pub(super) fn offsets(&self) -> Option<(u64, u64)> {
        offsets(&self.logs)
    }

    /// By log, for programs; nothing where no record named its log.
    pub(super) fn logs_json(&self) -> Option<Value> {
        logs_json(&self.logs)
    }
}

fn offsets(logs: &BTreeMap<Arc<str>, Appended>) -> Option<(u64, u64)> {
    let only = logs.values().next().filter(|_| logs.len() == 1)?;
    Some((only.first_offset, only.last_offset))
}

fn logs_json(logs: &BTreeMap<Arc<str>, Appended>) -> Option<Value> {
    let named = logs.iter().filter(|(log, _)| !log.is_empty());
    let told = named.map(|(log, appended)| {
        json!({
            "log": **log,
            "records": appended.records,
            "first_offset": appended.first_offset,
            "last_offset": appended.last_offset,
        })
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.into())
}

/// The input was not appended to its end, or not acknowledged to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub(super) struct Unfinished {
    pub(super) acknowledged: u64,
    /// Records that were sent and have no answer.
    pub(super) in_doubt: u64,
    /// What was acknowledged, by log.
    pub(super) logs: BTreeMap<Arc<str>, Appended>,
    #[source]
    pub(super) cause: anyhow::Error,
}

impl Unfinished {
    fn text(&self) -> String {
        let offsets = match offsets(&self.logs) {
            Some((first, last)) if self.acknowledged > 1 => format!(" (offsets {first} to {last})"),
            Some((first, _)) => format!(" (offset {first})"),
            None => String::new(),
        };
        let acknowledged = match (self.acknowledged, self.logs.len()) {
            (0, _) => "no record was acknowledged".to_owned(),
            (1, _) => format!("only the first record was acknowledged{offsets}"),
            (count, 0 | 1) => {
                let count = grouped(count);
                format!("only the first {count} records were acknowledged{offsets}")
            }
            // Each log has the first of its own.
            (count, logs) => {
                let (count, logs) = (grouped(count), grouped(logs as u64));
                format!(
                    "only {count} records were acknowledged, the first ones of each of {logs} logs"
                )
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
        let offsets = offsets(&self.logs);
        let mut told = json!({
            "acknowledged": self.acknowledged,
            "in_doubt": self.in_doubt,
            "first_offset": offsets.map(|(first, _)| first),
            "last_offset": offsets.map(|(_, last)| last),
        });
        if let Some(logs) = logs_json(&self.logs) {
            told["logs"] = logs;
        }
        told
    }
}

/// Sends records and collects their offsets without piling them up.
pub(super) struct Feeder<'a> {
    producer: &'a Producer,
    /// What is waited for, and which log it is for.
    acks: VecDeque<(Ack, Arc<str>)>,
    pub(super) fed: Fed,
    /// The log of records that name none.
    own: Arc<str>,
}

impl<'a> Feeder<'a> {
    /// More than a producer's window, so that the oldest is acknowledged when it is asked.
    const ACKS_MAX: usize = 65_536;

    pub(super) fn new(producer: &'a Producer) -> Self {
        Self {
            producer,
            acks: VecDeque::new(),
            fed: Fed::default(),
            own: "".into(),
        }
    }

    /// Sends a record to the producer's own log.
    pub(super) async fn send(&mut self, record: impl Into<Record>) -> Result<(), ClientError> {
        let record = record.into();
        let bytes = record.value.len() as u64;
        let ack = self.producer.send(record).await?;
        self.sent(ack, self.own.clone(), bytes).await
    }

    /// Sends a record to the log that it names.
    pub(super) async fn send_to(
        &mut self,
        log: Arc<str>,
        record: Record,
    ) -> Result<(), ClientError> {
        let bytes = record.value.len() as u64;
        let ack = self.producer.send_to(&log, record).await?;
        self.sent(ack, log, bytes).await
    }

    async fn sent(&mut self, ack: Ack, log: Arc<str>, bytes: u64) -> Result<(), ClientError> {
        self.acks.push_back((ack, log));
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
        let failed_log = self.producer.failed_log();
        let ProducerStats {
            acknowledged,
            in_doubt,
            ..
        } = self.producer.stop();
        // The first record of that log without an offset is the one that was refused.
        let mut refused = None;
        while let Some((ack, log)) = self.acks.pop_front() {
            match ack.await {
                Ok(offset) => self.fed.acknowledged(&log, offset),
                Err(_) if failed_log.as_ref() == Some(&log) && refused.is_none() => {
                    refused = Some(self.fed.records - self.acks.len() as u64);
                }
                Err(_) => {}
            }
        }
        Unfinished {
            acknowledged,
            in_doubt,
            logs: self.fed.logs,
            cause: match (refused, failed_log) {
                (Some(line), Some(log)) if is_refusal(&cause) => {
                    let about = format!("line {line}, which is for the log {}", Shown(&log));
                    cause.context(about)
                }
                _ => cause,
            },
        }
    }

    async fn settle_one(&mut self) -> Result<(), ClientError> {
        // The ack stays at the front until it is known, since this wait may be given up.
        let Some((ack, _)) = self.acks.front_mut() else {
            return Ok(());
        };
        match ack.await {
            Ok(offset) => {
                if let Some((_, log)) = self.acks.pop_front() {
                    self.fed.acknowledged(&log, offset);
                }
                Ok(())
            }
            // It stays: where the line of what was refused is told, it is counted.
            Err(error) => Err(error),
        }
    }
}

/// Whether a server refused a record, for what it is or where it was to go.
fn is_refusal(cause: &anyhow::Error) -> bool {
    let client = cause.downcast_ref::<ClientError>();
    client.is_some_and(|error| !error.is_timeout() && !error.is_doubt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_is_sure_and_what_is_not() {
        let told = |acknowledged, in_doubt, offsets: Option<(u64, u64)>| {
            let cause = anyhow::anyhow!("interrupted");
            let of_one = offsets.map(|(first_offset, last_offset)| {
                let appended = Appended {
                    records: acknowledged,
                    first_offset,
                    last_offset,
                };
                (Arc::from(""), appended)
            });
            let unfinished = Unfinished {
                acknowledged,
                in_doubt,
                logs: of_one.into_iter().collect(),
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
        let of = |log: &str, records| {
            let appended = Appended {
                records,
                first_offset: 4,
                last_offset: 3 + records,
            };
            (Arc::from(log), appended)
        };
        let several = Unfinished {
            acknowledged: 5,
            in_doubt: 0,
            logs: [of("a", 3), of("b", 2)].into(),
            cause: anyhow::anyhow!("refused"),
        };
        assert_eq!(
            several.to_string(),
            "only 5 records were acknowledged, the first ones of each of 2 logs"
        );
        assert_eq!(
            several.to_json(),
            json!({
                "acknowledged": 5, "in_doubt": 0, "first_offset": null, "last_offset": null,
                "logs": [
                    { "log": "a", "records": 3, "first_offset": 4, "last_offset": 6 },
                    { "log": "b", "records": 2, "first_offset": 4, "last_offset": 5 },
                ],
            })
        );
    }
}
