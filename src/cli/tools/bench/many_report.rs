//! What a comparison of many logs with one came to, as a table and for programs.

use serde_json::{Value, json};

use super::load::figures::spread;
use super::many::{Compared, Outcome};
use super::{BenchArgs, report};
use crate::cli::Format;
use crate::cli::output::{counted, grouped, size, table};

impl Compared {
    fn medians(&self) -> (f64, f64) {
        let median = |rates: &[f64]| {
            let spread = spread(rates.iter().copied());
            spread.map_or(0.0, |(_, median, _)| median)
        };
        (median(&self.one), median(&self.many))
    }

    fn ratio(&self) -> f64 {
        let (one, many) = self.medians();
        many / one.max(1e-9)
    }
}

/// What is printed.
pub(super) fn shown(args: &BenchArgs, format: Format, outcome: &Outcome) -> String {
    report::shown(args, format, || text(outcome), || json(outcome))
}

/// The table, for people.
fn text(outcome: &Outcome) -> String {
    let head = ["WORK", "ONE LOG", "ALL LOGS", "RATIO"].map(str::to_owned);
    let mut cells = vec![head.to_vec()];
    for row in &outcome.rows {
        let (one, many) = row.medians();
        cells.push(vec![
            row.what.clone(),
            format!("{one:.0}"),
            format!("{many:.0}"),
            format!("{:.2}", row.ratio()),
        ]);
    }
    let mut text = format!(
        "{}, made at {:.0} a second, deleted at {:.0} a second",
        counted(outcome.logs as u64, "log", "logs"),
        outcome.created_per_second,
        outcome.deleted_per_second
    );
    if !outcome.rows.is_empty() {
        text = format!("{text}\n\n{}", table(&cells));
    }
    if let Some(rest) = &outcome.at_rest {
        text = format!(
            "{text}\n\nat rest, each node:\n  resident memory, MiB   {} (before the logs {})\n  percent of a core      \
             {} (before the logs {})\n  start of a node        {} ms",
            list(&rest.resident_mib),
            list(&rest.resident_before_mib),
            list(&rest.cpu_percent),
            list(&rest.cpu_before_percent),
            rest.start.as_millis()
        );
    }
    if let Some(idle) = &outcome.idle {
        text = format!(
            "{text}\n\nten of them appended to, a checkpoint wrote {} bytes\na new node joined in {} ms, with {:.0} \
             records a second meanwhile, the longest wait {} ms, {}\n  resident memory, MiB   {}",
            grouped(idle.checkpoint_bytes),
            idle.joined.as_millis(),
            idle.per_second,
            idle.longest_gap.as_millis(),
            counted(idle.term_changes, "change of term", "changes of term"),
            list(&idle.resident_mib)
        );
    }
    if let Some(room) = &outcome.room {
        text = format!(
            "{text}\n\n{} records took {} on a node; half of the logs deleted, {} were left after {} ms\n  one log \
             read after the other, from the disk: {:.0} records a second before, {:.0} after\n  and from what the \
             system keeps in memory: {:.0} before, {:.0} after",
            grouped(room.records),
            size(room.filled_bytes),
            size(room.left_bytes),
            room.back.as_millis(),
            room.read_before.from_disk,
            room.read_after.from_disk,
            room.read_before.from_memory,
            room.read_after.from_memory
        );
    }
    text
}

fn list(values: &[f64]) -> String {
    let values = values.iter().map(|value| format!("{value:.1}"));
    values.collect::<Vec<_>>().join(" ")
}

/// The same for programs.
fn json(outcome: &Outcome) -> Value {
    let rates = |rates: &[f64]| {
        spread(rates.iter().copied())
            .map(|(min, median, max)| json!({ "median": median, "min": min, "max": max }))
    };
    let rows = outcome.rows.iter().map(|row| {
        json!({
            "row": row.name,
            "what": row.what,
            "runs": row.one.len(),
            "one_log_per_second": rates(&row.one),
            "all_logs_per_second": rates(&row.many),
            "ratio": row.ratio(),
        })
    });
    json!({
        "logs": outcome.logs,
        "created_per_second": outcome.created_per_second,
        "deleted_per_second": outcome.deleted_per_second,
        "rows": rows.collect::<Vec<_>>(),
        "at_rest": outcome.at_rest.as_ref().map(|rest| json!({
            "resident_mib": rest.resident_mib,
            "resident_before_mib": rest.resident_before_mib,
            "cpu_percent": rest.cpu_percent,
            "cpu_before_percent": rest.cpu_before_percent,
            "start_ms": rest.start.as_millis(),
        })),
        "idle": outcome.idle.as_ref().map(|idle| json!({
            "checkpoint_bytes": idle.checkpoint_bytes,
            "joined_ms": idle.joined.as_millis(),
            "records_per_second": idle.per_second,
            "longest_gap_ms": idle.longest_gap.as_millis(),
            "term_changes": idle.term_changes,
            "resident_mib": idle.resident_mib,
        })),
        "room": outcome.room.as_ref().map(|room| json!({
            "records": room.records,
            "filled_bytes": room.filled_bytes,
            "left_bytes": room.left_bytes,
            "back_ms": room.back.as_millis(),
            "read_before_per_second": room.read_before.from_disk,
            "read_after_per_second": room.read_after.from_disk,
            "read_again_before_per_second": room.read_before.from_memory,
            "read_again_after_per_second": room.read_after.from_memory,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let outcome = Outcome {
            logs: 10,
            created_per_second: 3000.0,
            deleted_per_second: 2000.0,
            rows: vec![Compared {
                name: "unary64",
                what: "calls".to_owned(),
                one: vec![100.0, 1000.0, 200.0],
                many: vec![90.0, 180.0, 10_000.0],
            }],
            at_rest: None,
            idle: None,
            room: None,
        };
        let told = json(&outcome);
        assert_eq!(told["rows"][0]["ratio"], 0.9);
        assert_eq!(told["rows"][0]["all_logs_per_second"]["max"], 10_000.0);
        assert!(text(&outcome).contains("0.90"), "{}", text(&outcome));
    }
}
