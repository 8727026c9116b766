//! Turns: both sides of a case, one after the other, many times.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

/// What the turns of one case took, in seconds.
#[derive(Default)]
pub struct Pairs {
    pub ours: Vec<f64>,
    pub raw: Vec<f64>,
}

impl Pairs {
    /// Runs a case under criterion, which decides how often and reports the engine's side. A case that the
    /// command line leaves out is not run, and has no turns.
    pub fn measure(
        criterion: &mut Criterion,
        name: &str,
        work: Throughput,
        mut ours: impl FnMut() -> Duration,
        mut raw: impl FnMut() -> Duration,
    ) -> Self {
        let mut pairs = Self::default();
        let mut group = criterion.benchmark_group("storage");
        group.throughput(work).sampling_mode(SamplingMode::Flat);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|turns| {
                let mut total = Duration::ZERO;
                for _ in 0..turns {
                    pairs.raw.push(raw().as_secs_f64());
                    let took = ours();
                    pairs.ours.push(took.as_secs_f64());
                    total += took;
                }
                total
            });
        });
        group.finish();
        pairs
    }

    /// The medians of both sides in seconds, the engine's first; `None` if the case did not run.
    pub fn medians(&self) -> Option<(f64, f64)> {
        Some((percentile(&self.ours, 50)?, percentile(&self.raw, 50)?))
    }
}

/// The value at `percent` of the samples, by the nearest rank; `None` of none.
pub fn percentile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}
