//! What a table came to, for people and for programs.

use serde_json::{Value, json};

use super::{Outcome, Settled};
use crate::cli::output::{grouped, size};

impl Settled {
    fn per_key(&self, outcome: &Outcome) -> f64 {
        self.records as f64 / (outcome.shape.keys as f64).max(1.0)
    }

    fn line(&self, when: &str, outcome: &Outcome) -> String {
        let most = self.segment_bytes.iter().copied().max().unwrap_or(0);
        format!(
            "  {when:<12} {:.2} records kept of each key, {} on a node, after {:.1} s; a new reader had all of it in {} ms",
            self.per_key(outcome),
            size(most),
            self.after.as_secs_f64(),
            self.read.as_millis()
        )
    }

    fn json(&self, outcome: &Outcome) -> Value {
        json!({
            "records": self.records,
            "records_per_key": self.per_key(outcome),
            "segment_bytes": self.segment_bytes,
            "after_ms": self.after.as_millis(),
            "read_ms": self.read.as_millis(),
        })
    }
}

impl Outcome {
    /// For people.
    pub fn text(&self) -> String {
        let memory = self.memory.iter().map(|phase| {
            let peaks = phase.peak_mib.iter().map(|mib| format!("{mib:.0}"));
            let peaks = peaks.collect::<Vec<_>>().join(" ");
            format!("\n    {:<34}{peaks}", phase.what)
        });
        format!(
            "{} keys in a log that is compacted by key, {} updates at {:.0} a second\n{}\n{}\n  what each node has is \
             what a plain map has, and the same records\n  resident memory of the nodes at most, in MiB, while{}",
            grouped(self.shape.keys),
            grouped(self.written),
            self.per_second,
            self.settled.line("by itself", self),
            self.asked.line("when asked", self),
            memory.collect::<String>()
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "keys": self.shape.keys,
            "updates": self.written,
            "updates_per_second": self.per_second,
            "by_itself": self.settled.json(self),
            "when_asked": self.asked.json(self),
            "resident_peak_mib": self.memory.iter().map(|phase| json!({
                "while": phase.what,
                "nodes": phase.peak_mib,
            })).collect::<Vec<_>>(),
        })
    }
}
