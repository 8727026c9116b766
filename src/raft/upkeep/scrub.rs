//! Reads sealed segments from time to time, so that damage is found while other nodes have a whole copy.

use std::time::Duration;

use tokio::time::Instant;

use crate::live::Live;
use crate::log::Index;
use crate::tasks;

use super::Upkeep;

/// From the beginning of one scrub of the whole log to the beginning of the next. At the usual pace, a scrub of more
/// than 28 GiB takes longer, and the next one follows at once.
const SCRUB_EVERY: Duration = Duration::from_secs(3600);
/// About how many bytes a step of a scrub reads.
const SCRUB_STEP_BYTES: f64 = (1 << 20) as f64;

impl Upkeep {
    /// Reads all sealed segments one after the other, again and again, at `bytes_per_second` at most, and not while
    /// that is 0. After a start of the node this begins with the first segment. Never returns.
    pub async fn scrub(&self, bytes_per_second: Live<u64>) {
        loop {
            if bytes_per_second.get() == 0 {
                bytes_per_second.changed_from(0).await;
            }
            let began = Instant::now();
            let (bytes, damaged) = self.scrub_once(&bytes_per_second).await;
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

    /// Reads every sealed segment once. Returns how many bytes were read, and how many segments are damaged.
    pub async fn scrub_once(&self, bytes_per_second: &Live<u64>) -> (u64, u64) {
        let (mut bytes, mut damaged) = (0, 0);
        let mut from = Index(0);
        while let Some(mut scrub) = self.node.log.scrub(from) {
            from = scrub.next_index();
            let last = Index(from.0.saturating_sub(1));
            loop {
                let pace = bytes_per_second.get();
                if pace == 0 {
                    bytes_per_second.changed_from(0).await;
                    continue;
                }
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
                    Ok(read) => {
                        bytes += read as u64;
                        self.node.counts.scrubbed_bytes.add(read as u64);
                    }
                    // A lack of descriptors does not mean damage. The next scrub reads this segment.
                    Err(error) if error.is_short_of_files() => break,
                    // A segment that was given up meanwhile cannot be read either.
                    Err(_) => {
                        damaged += u64::from(self.node.log.is_damaged(last));
                        break;
                    }
                }
                let step = Duration::from_secs_f64(SCRUB_STEP_BYTES / pace as f64);
                // A step at a slow pace may take very long.
                tokio::select! {
                    () = tokio::time::sleep_until(began + step) => {}
                    () = bytes_per_second.changed_from(pace) => {}
                }
            }
        }
        (bytes, damaged)
    }
}
