//! What a run measured, and how several runs become one line: the median, and from where to where.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output::grouped;

/// The outcome of one run of one row.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub per_second: f64,
    /// Bytes of values a second, in rows that measure them.
    pub bytes_per_second: Option<f64>,
    /// The median time of a call, in rows that time single calls.
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
}

/// A row of the table: what was done, and its runs.
pub struct Row {
    pub name: &'static str,
    pub what: String,
    pub runs: Vec<Run>,
}

/// The value at `percent` of the sorted samples, by the nearest rank; `None` of none.
pub fn percentile(sorted: &[u32], percent: u32) -> Option<u32> {
    debug_assert!(sorted.is_sorted());
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Lowest, median and highest. The median of an even number is the lower middle one: a value that was measured.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len().saturating_sub(1) / 2)?;
    Some((*values.first()?, *median, *values.last()?))
}

impl Row {
    pub fn cells(&self) -> Vec<String> {
        let rate = spread(self.runs.iter().map(|run| run.per_second));
        let (rate, range) = match rate {
            Some((low, median, high)) => (
                grouped(whole(median)),
                format!("{} to {}", grouped(whole(low)), grouped(whole(high))),
            ),
            None => ("-".to_owned(), String::new()),
        };
        let time = |pick: fn(&Run) -> Option<Duration>| {
            let values = self
                .runs
                .iter()
                .filter_map(pick)
                .map(|time| time.as_secs_f64() * 1000.0);
            spread(values).map_or_else(String::new, |(_, median, _)| format!("{median:.3}"))
        };
        vec![
            self.what.clone(),
            rate,
            range,
            time(|run| run.p50),
            time(|run| run.p99),
            self.megabytes()
                .map_or_else(String::new, |(_, median, _)| format!("{median:.1}")),
        ]
    }

    /// Lowest, median and highest, in 10^6 bytes a second.
    fn megabytes(&self) -> Option<(f64, f64, f64)> {
        let bytes = self.runs.iter().filter_map(|run| run.bytes_per_second);
        spread(bytes.map(|bytes| bytes / 1e6))
    }

    pub fn json(&self) -> Value {
        let summary = |values: Vec<f64>| {
            spread(values)
                .map(|(min, median, max)| json!({ "median": median, "min": min, "max": max }))
        };
        let times = |pick: fn(&Run) -> Option<Duration>| {
            summary(
                self.runs
                    .iter()
                    .filter_map(pick)
                    .map(|time| time.as_secs_f64() * 1000.0)
                    .collect(),
            )
        };
        json!({
            "row": self.name,
            "what": self.what,
            "runs": self.runs.len(),
            "per_second": summary(self.runs.iter().map(|run| run.per_second).collect()),
            "megabytes_per_second": self.megabytes()
                .map(|(min, median, max)| json!({ "median": median, "min": min, "max": max })),
            "p50_ms": times(|run| run.p50),
            "p99_ms": times(|run| run.p99),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is neither negative nor huge"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&samples, 50), Some(50));
        assert_eq!(percentile(&samples, 99), Some(99));
        assert_eq!(percentile(&samples, 100), Some(100));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[1, 2, 3], 99), Some(3));
        assert_eq!(percentile(&[1, 2, 3], 0), Some(1));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn runs_become_a_median_and_its_range() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread([4.0, 1.0]), Some((1.0, 1.0, 4.0)));
        assert_eq!(spread([]), None);

        let run = |per_second| Run {
            per_second,
            p50: Some(Duration::from_micros(1500)),
            bytes_per_second: Some(per_second * 1000.0),
            p99: None,
        };
        let row = Row {
            name: "x",
            what: "X".into(),
            runs: [3000.0, 1000.0, 2000.0].map(run).to_vec(),
        };
        assert_eq!(
            row.cells(),
            ["X", "2,000", "1,000 to 3,000", "1.500", "", "2.0"]
        );
        assert_eq!(row.json()["megabytes_per_second"]["min"], 1.0);
        assert_eq!(row.json()["per_second"]["max"], 3000.0);
        assert_eq!(row.json()["p99_ms"], Value::Null);
    }
}
