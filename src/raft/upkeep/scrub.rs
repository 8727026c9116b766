//! Sealed segments are read now and then, so that damage is found while other nodes are whole.

use std::time::Duration;

use tokio::time::Instant;

use crate::log::Index;
use crate::tasks;

use super::Upkeep;

/// From the beginning of one scrub of the whole log to the beginning of the next. A scrub that takes longer, as
/// one of more than 28 GiB does at the usual pace, is followed by the next one at once.
const SCRUB_EVERY: Duration = Duration::from_secs(3600);
/// About how many bytes a step of a scrub reads.
const SCRUB_STEP_BYTES: f64 = (1 << 20) as f64;

impl Upkeep {
    /// Reads all sealed segments, one after the other and again and again, at `bytes_per_second` at most, so
    /// that damage is found while other nodes are whole. A start begins with the first segment. Never returns.
    pub async fn scrub(&self, bytes_per_second: u64) {
        loop {
            let began = Instant::now();
            let (bytes, damaged) = self.scrub_once(bytes_per_second).await;
            if bytes > 0 {
                tracing::info!(
                    bytes,
                    damaged,
                    seconds = began.elapsed().as_secs(),
                    "scrubbed"
                );
            }
            tokio::time::sleep_until(began + SCRUB_EVERY).await;
        }
    }

    /// Reads every sealed segment once; gives the bytes read and the segments found damaged.
    pub async fn scrub_once(&self, bytes_per_second: u64) -> (u64, u64) {
        let (mut bytes, mut damaged) = (0, 0);
        let mut from = Index(0);
        while let Some(mut scrub) = self.node.log.scrub(from) {
            from = scrub.next_index();
            loop {
                let began = Instant::now();
                let stepped = tasks::spawn_blocking("scrub", move || {
                    let step = scrub.step();
                    (scrub, step)
                });
                let Ok((back, step)) = stepped.await else {
                    return (bytes, damaged);
                };
                scrub = back;
                match step {
                    Ok(0) => break,
                    Ok(read) => bytes += read as u64,
                    // A lack of descriptors says nothing of the segment: the next scrub reads it.
                    Err(error) if error.is_short_of_files() => break,
                    Err(_) => {
                        damaged += 1;
                        break;
                    }
                }
                let pace = SCRUB_STEP_BYTES / bytes_per_second.max(1) as f64;
                tokio::time::sleep_until(began + Duration::from_secs_f64(pace)).await;
            }
        }
        (bytes, damaged)
    }
}
