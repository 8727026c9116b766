//! What logs that forget came to, for people and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::load::figures::spread;
use super::calls::STRETCH;
use super::{CALL_RECORDS, CALLERS, Look, Outcome, STOLEN_MAX, Side};
use crate::cli::output::{grouped, size, table};

/// The table's columns.
const HEAD: [&str; 12] = [
    "REWRITING",
    "CALLS/S",
    "P50 MS",
    "P99 MS",
    "USUAL P99 MS",
    "QUIET P99 MS",
    "STOLEN %",
    "DISK/LIVE MAX",
    "AT LAST",
    "LIVE",
    "DISK",
    "WRITTEN/BYTE",
];

impl Side {
    /// The look at which the disk held most for each byte that lived.
    fn worst(&self) -> Option<&Look> {
        let of = |a: &&Look, b: &&Look| a.per_live_byte().total_cmp(&b.per_live_byte());
        self.looks.iter().max_by(of)
    }

    fn most_written(&self) -> f64 {
        self.written_per_byte.iter().copied().fold(0.0, f64::max)
    }

    /// What came of it, as soon as it is known.
    pub fn line(&self) -> String {
        let cells = HEAD.iter().zip(self.cells());
        let cells: Vec<_> = cells.map(|(head, cell)| format!("{head} {cell}")).collect();
        cells.join(", ")
    }

    fn cells(&self) -> Vec<String> {
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        let last = self.looks.last();
        let disk = last.and_then(|look| look.disk_bytes.iter().copied().max());
        vec![
            if self.is_rewritten { "yes" } else { "no" }.to_owned(),
            format!("{:.0}", self.per_second),
            ms(self.p50),
            ms(self.p99),
            ms(self.usual_p99),
            ms(self.quiet_p99),
            format!("{:.1}", self.stolen * 100.0),
            format!("{:.2}", self.worst().map_or(0.0, Look::per_live_byte)),
            format!("{:.2}", last.map_or(0.0, Look::per_live_byte)),
            size(last.map_or(0, |look| look.live_bytes)),
            size(disk.unwrap_or(0)),
            format!("{:.2}", self.most_written()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "rewritten": self.is_rewritten,
            "calls_per_second": self.per_second,
            "p50_us": self.p50.as_micros(),
            "p99_us": self.p99.as_micros(),
            "usual_p99_us": self.usual_p99.as_micros(),
            "quiet_p99_us": self.quiet_p99.as_micros(),
            "stolen_share": self.stolen,
            "stretches": self.stretches.iter().map(|stretch| json!({
                "after_ms": stretch.after.as_millis(),
                "p99_us": stretch.p99.as_micros(),
                "stolen_share": stretch.stolen,
            })).collect::<Vec<_>>(),
            "disk_per_live_byte_max": self.worst().map(Look::per_live_byte),
            "written_per_byte": self.written_per_byte,
            "looks": self.looks.iter().map(|look| json!({
                "after_ms": look.after.as_millis(),
                "live_bytes": look.live_bytes,
                "disk_bytes": look.disk_bytes,
            })).collect::<Vec<_>>(),
        })
    }
}

impl Outcome {
    /// The median of how much longer slow calls took with rewriting than without, in each pair.
    fn slower(&self, of: impl Fn(&Side) -> Duration) -> f64 {
        let pairs = self.sides.chunks_exact(2);
        let ratio = |pair: &[Side]| {
            let [one, other] = [&pair[0], &pair[1]].map(&of);
            match pair[0].is_rewritten {
                true => one.div_duration_f64(other),
                false => other.div_duration_f64(one),
            }
        };
        spread(pairs.map(ratio)).map_or(0.0, |(_, median, _)| median)
    }

    /// For people.
    pub fn text(&self) -> String {
        let head = HEAD.map(str::to_owned).to_vec();
        let cells: Vec<_> = [head]
            .into_iter()
            .chain(self.sides.iter().map(Side::cells))
            .collect();
        format!(
            "{} logs that forget after 1 to 16 minutes or never, calls of {CALL_RECORDS} x {} bytes, {:.0} a second{}; looked at, and calls timed, from {} s on; \
             what is written from the start; of the node that takes most; quiet are stretches of {} s in which the host \
             takes less than {:.0} % of the processors\n\n{}\n\np99 with rewriting is {:.2} of p99 without, that of \
             quiet stretches {:.2}, the usual one of a stretch {:.2}",
            grouped(self.shape.logs as u64),
            self.shape.record_bytes,
            self.per_second,
            self.full.map_or_else(String::new, |_| format!(
                ": half of what {CALLERS} callers reach"
            )),
            self.shape.settling().as_secs(),
            STRETCH.as_secs(),
            STOLEN_MAX * 100.0,
            table(&cells),
            self.slower(|side| side.p99),
            self.slower(|side| side.quiet_p99),
            self.slower(|side| side.usual_p99),
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "logs": self.shape.logs,
            "full_calls_per_second": self.full,
            "calls_per_second": self.per_second,
            "settling_ms": self.shape.settling().as_millis(),
            "p99_ratio": self.slower(|side| side.p99),
            "quiet_p99_ratio": self.slower(|side| side.quiet_p99),
            "usual_p99_ratio": self.slower(|side| side.usual_p99),
            "sides": self.sides.iter().map(Side::json).collect::<Vec<_>>(),
        })
    }
}
