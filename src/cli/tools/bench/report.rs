//! The table of a measurement, for people and for programs.

use serde_json::{Value, json};

use super::load::figures::{Row, spread};
use super::{BenchArgs, NodeFigures};
use crate::cli::output::{grouped, table};
use crate::cli::{Format, files};

pub(super) fn text(args: &BenchArgs, rows: &[Row], nodes: Option<&NodeFigures>) -> String {
    let head = ["WORK", "PER SECOND", "RANGE", "P50 MS", "P99 MS", "MB/S"]
        .map(str::to_owned)
        .to_vec();
    let cells: Vec<_> = [head]
        .into_iter()
        .chain(rows.iter().map(Row::cells))
        .collect();
    let mut text = heading(args);
    if !rows.is_empty() {
        text = format!("{text}\n\n{}", table(&cells));
    }
    let range = |values: &[f64]| spread(values.iter().copied()).unwrap_or_default();
    if let Some(nodes) = nodes {
        let (disk_low, disk, disk_high) = range(&nodes.disk_per_record_byte);
        let (mib_low, mib, mib_high) = range(&nodes.resident_mib);
        text = format!(
            "{text}\n\nafter {} records, per node:\n  disk bytes per record byte  {disk:.2} ({disk_low:.2} to \
             {disk_high:.2}), preallocated space counted\n  resident memory             {mib:.0} MiB \
             ({mib_low:.0} to {mib_high:.0})",
            grouped(nodes.records)
        );
    }
    text
}

/// What was measured, and where.
fn heading(args: &BenchArgs) -> String {
    format!("{}\n{}", setting(args), files::machine())
}

/// What is printed: a text under its head, or figures for programs.
pub(super) fn shown(
    args: &BenchArgs,
    format: Format,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> Value,
) -> String {
    match format {
        Format::Text => format!("{}\n\n{}", heading(args), text()),
        Format::Json => with_head(args, json()).to_string(),
    }
}

/// The same beside figures, for programs.
fn with_head(args: &BenchArgs, mut figures: Value) -> Value {
    figures["machine"] = json!(files::machine());
    figures["setting"] = json!(setting(args));
    figures
}

fn setting(args: &BenchArgs) -> String {
    let cluster = match (args.connection.servers.is_empty(), args.tls) {
        (false, _) => format!("servers {}", args.connection.servers.join(",")),
        (true, true) => "three local nodes over mutual TLS".to_owned(),
        (true, false) => "three local nodes in plaintext".to_owned(),
    };
    format!(
        "{cluster}, records of {} bytes, medians of {} runs",
        args.size, args.runs
    )
}

pub(super) fn json(args: &BenchArgs, rows: &[Row], nodes: Option<&NodeFigures>) -> Value {
    json!({
        "machine": files::machine(),
        "setting": setting(args),
        "record_bytes": args.size,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "nodes": nodes.map(|nodes| json!({
            "records": nodes.records,
            "disk_bytes_per_record_byte": nodes.disk_per_record_byte,
            "resident_mib": nodes.resident_mib,
        })),
    })
}
