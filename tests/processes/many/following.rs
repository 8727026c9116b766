//! A reader of all logs of a prefix, which goes on behind its last record however often it is broken off.

use std::ops::Range;
use std::time::Duration;

use ferrolog::client::{Client, Consistency, ConsumeOptions, ConsumedRecord, Selection, Start};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::Stage;

/// How long it waits for a record before it looks whether it is at the end.
const LOOK: Duration = Duration::from_millis(100);

/// Reads from one node, or from any.
pub struct Following {
    client: Client,
    prefix: &'static str,
    server: Option<String>,
    /// It breaks off after so many records.
    breaks: Range<u64>,
    random: StdRng,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Followed {
    pub broken_off: u64,
    pub errors: u64,
    /// Positions that it was not told.
    pub gaps: Vec<Range<u64>>,
}

impl Following {
    pub fn new(client: Client, prefix: &'static str, breaks: Range<u64>, seed: u64) -> Self {
        Self {
            client,
            prefix,
            server: None,
            breaks,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Reads from this node alone.
    pub fn at(mut self, addr: &str) -> Self {
        self.server = Some(addr.to_owned());
        self
    }

    /// Reads from the first record on until the position that `end` tells in the end. `seen` is always where
    /// it is. Positions never go back.
    pub async fn run(
        mut self,
        mut end: watch::Receiver<Option<u64>>,
        seen: watch::Sender<u64>,
        mut take: impl FnMut(u64, &ConsumedRecord),
    ) -> Followed {
        let mut followed = Followed::default();
        let mut next = 0;
        while end.borrow_and_update().is_none_or(|end| next < end) {
            let options = ConsumeOptions {
                selection: Some(Selection::Prefix(self.prefix.to_owned())),
                from: Start::Position(next),
                consistency: Consistency::Relaxed,
                server: self.server.clone(),
                follow: true,
                ..ConsumeOptions::default()
            };
            let mut consumer = self.client.consume(options).expect("a consumer");
            let mut left = self.random.random_range(self.breaks.clone());
            while left > 0 && end.borrow_and_update().is_none_or(|end| next < end) {
                let Ok(told) = timeout(LOOK, consumer.next()).await else {
                    continue;
                };
                let Some(Ok(record)) = told else {
                    followed.errors += 1;
                    break;
                };
                let position = record.position.expect("a selection tells it");
                assert!(position >= next, "{position} where {next} is due");
                if position > next {
                    followed.gaps.push(next..position);
                }
                take(position, &record);
                next = position + 1;
                left -= 1;
                seen.send_replace(next);
            }
            followed.broken_off += u64::from(left == 0);
        }
        followed
    }
}

/// The position behind all records.
pub async fn end_of(stage: &Stage, prefix: &str) -> u64 {
    let options = ConsumeOptions {
        selection: Some(Selection::Prefix(prefix.to_owned())),
        from: Start::Latest,
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = stage.client().consume(options).expect("a consumer");
    consumer.position().await.expect("a position")
}
