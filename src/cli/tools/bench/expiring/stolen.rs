//! What the host of a virtual machine takes of its processors: figures of such moments are the host's.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::files;

/// The share of the processors that was taken in each stretch.
#[derive(Debug)]
pub struct Stolen {
    processors: f64,
    /// When it was looked at last, and how much time had been taken by then.
    last: (Instant, Duration),
    shares: Vec<f64>,
}

impl Stolen {
    /// Looks for the first time.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 processors")]
    pub fn new() -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            processors: processors as f64,
            last: (Instant::now(), files::stolen_time()?),
            shares: Vec::new(),
        })
    }

    /// Looks at the begin of each stretch; the first time there is none behind it.
    pub fn look(&mut self) -> anyhow::Result<()> {
        self.take((Instant::now(), files::stolen_time()?));
        Ok(())
    }

    fn take(&mut self, now: (Instant, Duration)) {
        let (since, taken) = std::mem::replace(&mut self.last, now);
        let time = now.0.saturating_duration_since(since).as_secs_f64() * self.processors;
        let taken = now.1.saturating_sub(taken).as_secs_f64();
        self.shares
            .push(if time > 0.0 { taken / time } else { 0.0 });
    }

    /// In the stretch of this number; 0 if it was not looked at.
    pub fn of(&self, stretch: u32) -> f64 {
        let number = usize::try_from(stretch).map_or(usize::MAX, |number| number.saturating_add(1));
        self.shares.get(number).copied().unwrap_or(0.0)
    }

    /// In all of them.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 stretches")]
    pub fn of_all(&self) -> f64 {
        let behind = self.shares.get(1..).unwrap_or_default();
        behind.iter().sum::<f64>() / behind.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_a_share_of_all_processors() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut stolen = Stolen {
            processors: 2.0,
            last: (began, second),
            shares: Vec::new(),
        };
        for (after, taken) in [(0, 1), (5, 1), (10, 3), (15, 3)] {
            stolen.take((began + second * after, second * taken));
        }
        let near = |share: f64, expected: f64| (share - expected).abs() < 1e-9;
        assert!(near(stolen.of(0), 0.0) && near(stolen.of(1), 0.2));
        assert!(near(stolen.of(2), 0.0) && near(stolen.of(9), 0.0));
        assert!(near(stolen.of_all(), 0.2 / 3.0));
    }
}
