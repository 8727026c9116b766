//! `ferrolog log verify` and `ferrolog log dump`: a data directory's files, looked at and not changed.
//!
//! No node may run on the directory meanwhile. Every file is opened for reading alone.

use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::batch;
use crate::cli::output::{counted, grouped, print, progress, table};
use crate::cli::record_format::{fields, printable, put_bytes};
use crate::cli::{EXIT_FAILURE, Format, UsageError};
use crate::client::ConsumedRecord;
use crate::disk::{DirLock, Disk, ReadOnlyDisk};
use crate::log::dump::Reader;
use crate::log::record::{self, Stored};
use crate::log::verify::{self, Finding, Report, SegmentReport, What};
use crate::log::{Entry, Error, Index, Kind, LogId, Offset, Record};
use crate::raft::offline::{self, Inspection};

/// Bytes read between two moves of the progress bar.
const PROGRESS_BYTES: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// A node's data directory, or a directory with segments alone
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct DumpArgs {
    /// A node's data directory, or a directory with segments alone
    dir: PathBuf,
    /// The records of the log with this id, as `ferrolog log show` tells it; 0 is the default log
    #[arg(long, value_name = "N", default_value_t = LogId::DEFAULT.0, conflicts_with = "entries")]
    log_id: u32,
    /// Begin at this offset or, with --entries, at this raft index; without it, at the first one
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print raft entries in place of records
    #[arg(long)]
    entries: bool,
}

/// A directory that is locked against nodes.
struct Held {
    disk: ReadOnlyDisk,
    _lock: DirLock,
}

fn hold(dir: &Path) -> anyhow::Result<Held> {
    let disk = ReadOnlyDisk;
    let names = match disk.list(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let text = format!("{} is not a directory; check the path", dir.display());
            return Err(UsageError(text).into());
        }
        done => done.with_context(|| format!("list {}", dir.display()))?,
    };
    let ours = ["store", "index", "seal", "redb"].map(Some);
    let is_ours = |name: &String| ours.contains(&name.rsplit_once('.').map(|(_, suffix)| suffix));
    if !names.iter().any(is_ours) {
        let text = format!(
            "{} holds no log; give the --data-dir of a node, or a directory with its segments",
            dir.display()
        );
        return Err(UsageError(text).into());
    }
    let lock = match disk.lock(dir) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!(
            "a node runs on {}: its files change while they are read; stop it first",
            dir.display()
        ),
        done => done.with_context(|| format!("look at the lock of {}", dir.display()))?,
    };
    Ok(Held { disk, _lock: lock })
}

pub(super) fn verify(args: &VerifyArgs, format: Format) -> anyhow::Result<ExitCode> {
    let held = hold(&args.dir)?;
    let (inspected, unreadable) = match offline::inspect(&held.disk, &args.dir) {
        Ok(inspected) => (inspected, None),
        Err(error) => (None, Some(format!("{:#}", anyhow::Error::from(error)))),
    };
    let bar = progress(None, "verify");
    let read = std::cell::Cell::new(0);
    let on_bytes = |bytes| {
        read.set(read.get() + bytes);
        if read.get() >= PROGRESS_BYTES {
            bar.inc(read.take());
        }
    };
    let bounds = inspected.as_ref().map(|inspected| &inspected.bounds);
    let mut report = verify::verify(&held.disk, &args.dir, bounds, &on_bytes)?;
    bar.finish_and_clear();
    if let Some(inspected) = &inspected {
        report.findings.extend_from_slice(&inspected.findings);
    }
    // A node makes its stable store before its vote.
    let is_gone = inspected.is_none() && offline::is_a_nodes(&held.disk, &args.dir);
    let unreadable = unreadable.or(is_gone.then(|| "it is not there".to_owned()));
    if let Some(what) = unreadable {
        let found = Finding {
            path: args.dir.join("stable.redb"),
            position: 0,
            sealed: false,
            what: What::Stable(what),
        };
        report.findings.insert(0, found);
    }
    let text = match format {
        Format::Text => report_text(&report, inspected.as_ref()),
        Format::Json => report_json(&report, inspected.as_ref()).to_string(),
    };
    print(&text).context("write to standard output")?;
    Ok(match report.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FAILURE),
    })
}

fn report_text(report: &Report, inspected: Option<&Inspection>) -> String {
    let heads = ["BASE", "ENTRIES", "POSITIONS", "BYTES", "SEALED", "STATE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(report.segments.iter().map(|segment| {
        let positions = segment.positions;
        vec![
            segment.base.to_string(),
            grouped(segment.entries),
            positions.map_or("-".to_owned(), |(first, next)| format!("{first}..{next}")),
            grouped(segment.bytes),
            if segment.sealed { "yes" } else { "no" }.to_owned(),
            segment.state.name().to_owned(),
        ]
    }));
    let mut text = table(&rows);
    match inspected {
        Some(Inspection {
            identity, bounds, ..
        }) => {
            let name = identity.as_ref().map_or("no node yet", |known| &known.name);
            let covered = bounds.checkpoint.as_ref();
            let covered = covered.map_or("none".to_owned(), |covered| {
                let (applied, next) = (covered.applied, covered.next_position);
                format!("raft index {applied}, next position {next}")
            });
            let floor = bounds.floor.index;
            let _ = write!(
                text,
                "\n\n{name}: floor raft index {floor}, checkpoint {covered}"
            );
        }
        None => text.push_str("\n\nno stable store to hold these against"),
    }
    for found in &report.findings {
        let Finding {
            path,
            position,
            sealed,
            what,
        } = found;
        let kind = if what.is_damage() { "damage" } else { "note" };
        let advice = what.advice(*sealed);
        let _ = write!(
            text,
            "\n{kind}: {} at byte {position}: {what}; {advice}",
            path.display()
        );
    }
    let findings = report.findings.iter();
    let damaged = findings.filter(|found| found.what.is_damage());
    match damaged.count() {
        0 => text.push_str("\nsound"),
        count => {
            text += &format!(
                "\ndamaged: {}",
                counted(count as u64, "finding", "findings")
            )
        }
    }
    text
}

fn report_json(report: &Report, inspected: Option<&Inspection>) -> Value {
    let segment = |segment: &SegmentReport| {
        json!({
            "base": segment.base.0,
            "entries": segment.entries,
            "first_position": segment.positions.map(|(first, _)| first.0),
            "next_position": segment.positions.map(|(_, next)| next.0),
            "bytes": segment.bytes,
            "sealed": segment.sealed,
            "state": segment.state.name(),
        })
    };
    let finding = |found: &Finding| {
        json!({
            "file": found.path.to_string_lossy(),
            "position": found.position,
            "damage": found.what.is_damage(),
            "kind": found.what.kind(),
            "what": found.what.to_string(),
            "advice": found.what.advice(found.sealed),
        })
    };
    let stable = |inspected: &Inspection| {
        let covered = inspected.bounds.checkpoint.as_ref();
        json!({
            "node": inspected.identity.as_ref().map(|known| &known.name),
            "cluster_id": inspected.identity.as_ref().map(|known| &known.cluster_id),
            "floor_index": inspected.bounds.floor.index.0,
            "floor_position": inspected.bounds.floor.position.0,
            "checkpoint_applied": covered.map(|covered| covered.applied.0),
            "checkpoint_next_position": covered.map(|covered| covered.next_position.0),
        })
    };
    json!({
        "sound": report.is_sound(),
        "stable": inspected.map(stable),
        "segments": report.segments.iter().map(segment).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

pub(super) fn dump(args: &DumpArgs, format: Format) -> anyhow::Result<ExitCode> {
    let held = hold(&args.dir)?;
    let inspected = offline::inspect(&held.disk, &args.dir)?;
    let bounds = inspected.as_ref().map(|inspected| &inspected.bounds);
    let mut reader = Reader::new(&held.disk, &args.dir, LogId(args.log_id), bounds)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let count = args.count.unwrap_or(u64::MAX);
    if args.entries {
        dump_entries(&reader, args.from.map(Index), count, format, &mut out)?;
    } else {
        dump_records(&mut reader, args.from.map(Offset), count, format, &mut out)?;
    }
    out.flush().context("write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn dump_records(
    reader: &mut Reader<'_>,
    from: Option<Offset>,
    count: u64,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (first, next) = reader.offsets()?;
    let mut at = from.unwrap_or(first);
    if at < first {
        let asked = at;
        return Err(Error::Trimmed { asked, first, next }.into());
    }
    if at > next || (at == next && from.is_some()) {
        let asked = at;
        return Err(Error::OutOfRange { asked, first, next }.into());
    }
    let end = Offset(at.0.saturating_add(count)).min(next);
    while at < end {
        let stored = reader.read(at)?;
        write_batch(out, &stored, at..end, format)?;
        at = stored.next();
    }
    Ok(())
}

/// Prints the records of a batch whose offsets are in `wanted`.
fn write_batch(
    out: &mut impl Write,
    stored: &Stored,
    wanted: Range<Offset>,
    format: Format,
) -> anyhow::Result<()> {
    let failed = "write to standard output";
    let Some(compression) = stored.packed else {
        let mut records = Vec::new();
        stored.read_into(wanted.start, usize::MAX, &mut records)?;
        let records = records.iter();
        for record in records.filter(|record| wanted.contains(&record.offset)) {
            write_plain(out, record, stored.timestamp_ms, format).context(failed)?;
        }
        return Ok(());
    };
    let records = batch::records(&stored.unpacked(compression)?);
    for (record, offset) in records.zip(stored.first.0..stored.next().0) {
        let record = record.map_err(Error::Unreadable)?;
        if !wanted.contains(&Offset(offset)) {
            continue;
        }
        let consumed = ConsumedRecord {
            log: "default".into(),
            position: None,
            offset,
            append_timestamp_ms: stored.timestamp_ms,
            record,
        };
        match format {
            Format::Text => writeln!(out, "{offset}\t0\t0\t{}", printable(&consumed.record.value)),
            Format::Json => writeln!(out, "{}", Value::Object(fields(&consumed))),
        }
        .context(failed)?;
    }
    Ok(())
}

/// A record of `log.v1`.
fn write_plain(
    out: &mut impl Write,
    record: &Record,
    append_timestamp_ms: u64,
    format: Format,
) -> io::Result<()> {
    let (offset, term, kind, value) = (record.offset, record.term, record.kind, &record.value);
    if format == Format::Text {
        return writeln!(out, "{offset}\t{term}\t{kind}\t{}", printable(value));
    }
    let mut fields = Map::new();
    fields.insert("offset".to_owned(), offset.0.into());
    fields.insert("append_timestamp_ms".to_owned(), append_timestamp_ms.into());
    fields.insert("term".to_owned(), term.into());
    fields.insert("type".to_owned(), kind.into());
    put_bytes(&mut fields, "value", value);
    writeln!(out, "{}", Value::Object(fields))
}

fn dump_entries(
    reader: &Reader<'_>,
    from: Option<Index>,
    count: u64,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut left = count;
    let mut written = Ok(());
    if left == 0 {
        return Ok(());
    }
    reader.entries(from.unwrap_or(reader.first_index()), &mut |entry| {
        written = write_entry(out, entry, format);
        left -= 1;
        written.is_ok() && left > 0
    })?;
    written.context("write to standard output")
}

fn write_entry(out: &mut impl Write, entry: Entry, format: Format) -> io::Result<()> {
    let (index, term, bytes) = (entry.index, entry.term, entry.payload.len());
    let kind = match entry.kind {
        Kind::Control => "control",
        Kind::Records => "records",
        Kind::Roll => "roll",
        Kind::Audited => "audited",
        Kind::Moved => "moved",
    };
    let says = match entry.kind {
        Kind::Control | Kind::Audited => {
            offline::describe(entry).unwrap_or_else(|error| error.to_string())
        }
        Kind::Records => match record::batches(&entry.payload) {
            Ok(batches) => {
                let records: u64 = batches.iter().map(|batch| u64::from(batch.count)).sum();
                let batches = counted(batches.len() as u64, "batch", "batches");
                format!("{} in {batches}", counted(records, "record", "records"))
            }
            Err(error) => error.to_string(),
        },
        Kind::Moved => "tells where batches of a rewritten segment stood".to_owned(),
        Kind::Roll => format!(
            "ends what counts from {}",
            entry.rolls().unwrap_or_default()
        ),
    };
    if format == Format::Text {
        return writeln!(out, "{index}\t{term}\t{kind}\t{bytes}\t{says}");
    }
    let line = json!({
        "index": index.0,
        "term": term.0,
        "kind": kind,
        "bytes": bytes,
        "says": says,
    });
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Position;

    #[test]
    fn values_stay_on_one_line_and_bytes_are_marked() {
        assert_eq!(printable("a\\b\n\u{e9}".as_bytes()), "a\\\\b\\n\u{e9}");
        assert_eq!(printable(b"\xff\n"), "\\xff\\n");
        let shown = |value: &'static [u8]| {
            let record = Record {
                offset: Offset(3),
                term: 1,
                kind: 2,
                value: bytes::Bytes::from_static(value),
            };
            let mut out = Vec::new();
            write_plain(&mut out, &record, 9, Format::Json).unwrap();
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        assert_eq!(shown(b"x")["value"], "x");
        assert_eq!(shown(b"\xff")["value_base64"], "/w==");
    }

    #[test]
    fn a_dump_has_what_the_record_has() {
        let mut builder = batch::Builder::default();
        for value in ["one", "two", "three"] {
            builder.push(&batch::Record {
                value: value.into(),
                key: Some("k".into()),
                ..batch::Record::default()
            });
        }
        let (bytes, count) = builder.take();
        for compression in [batch::Compression::None, batch::Compression::Zstd] {
            let stored = Stored {
                from: Offset(0),
                log: LogId::DEFAULT,
                position: Position(70),
                first: Offset(7),
                count,
                timestamp_ms: 5,
                packed: Some(compression),
                bytes: batch::compress(&bytes, compression).unwrap(),
            };
            let mut out = Vec::new();
            write_batch(&mut out, &stored, Offset(8)..Offset(9), Format::Json).unwrap();
            let shown: Value = serde_json::from_slice(&out).unwrap();
            let expected =
                json!({ "offset": 8, "append_timestamp_ms": 5, "key": "k", "value": "two" });
            assert_eq!(shown, expected);
        }
    }
}
