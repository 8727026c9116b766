//! What is set for a log, as it is written on a command line and shown.

use serde_json::{Value, json};

use crate::cli::UsageError;
use crate::cli::output::quantities::{parse_age, parse_bytes};
use crate::client::LogSettings;
use crate::config::quantity;
use crate::proto::v1::{Compaction, Retention};

/// A cursor of this name is none: the word takes what was set away.
const NONE: &str = "none";

#[derive(Debug, clap::Args)]
pub(super) struct SettingsArgs {
    /// Bytes of its batches to keep, such as 50GiB or 1000000, or `none`
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    retention_bytes: Option<u64>,
    /// For how long its records are kept, such as 7d, 12h, 30m or 45s, or `none`
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    retention_age: Option<u64>,
    /// Keep what this cursor has not read; may be given several times, `none` for no cursor
    #[arg(long, value_name = "NAME")]
    retention_wait_for: Vec<String>,
    /// Do not wait once the log has more bytes than this, such as 100GiB, or `none`
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    retention_cap: Option<u64>,
    /// The largest record that it takes, such as 64KiB, or `none` for what the nodes take
    #[arg(long, value_name = "BYTES", value_parser = parse_record)]
    record_bytes_max: Option<u32>,
    /// Whether each record needs a time of its producer's
    #[arg(long, value_name = "BOOL")]
    timestamps_required: Option<bool>,
    /// Keep the last record of each key, and none before it, or `none`
    #[arg(long, value_enum, value_name = "BY")]
    compact: Option<Compact>,
    /// Compact no record that is younger than this, such as 1h or 0s [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = parse_span_ms)]
    min_compaction_age: Option<u64>,
    /// How long a record without a value stays, which says that its key is gone, such as 1d [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = parse_span_ms)]
    tombstone_retention: Option<u64>,
    /// A word of yours about it; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

/// By what a log is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compact {
    Key,
    None,
}

/// How long a tombstone stays unless it is said.
const TOMBSTONE_MS: u64 = 24 * 60 * 60 * 1000;

fn parse_span_ms(text: &str) -> Result<u64, String> {
    let ms = quantity::parse_seconds_ms(text);
    ms.ok_or_else(|| "write a time such as 0s, 30m, 1h or 7d".to_owned())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or("write KEY=VALUE, such as team=sales")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_record(text: &str) -> Result<u32, UsageError> {
    let bytes = parse_bytes(text)?;
    u32::try_from(bytes).map_err(|_| UsageError(format!("no record is as large as {text}")))
}

impl SettingsArgs {
    /// Whether they name nothing.
    pub fn is_empty(&self) -> bool {
        self.change().is_nothing()
            && self.record_bytes_max.is_none()
            && self.timestamps_required.is_none()
            && self.compact.is_none()
            && self.min_compaction_age.is_none()
            && self.tombstone_retention.is_none()
            && self.labels.is_empty()
    }

    /// The cursors that are newly to be waited for.
    pub fn waited_for(&self) -> impl Iterator<Item = &String> {
        self.retention_wait_for.iter().filter(|name| *name != NONE)
    }

    fn change(&self) -> Change {
        Change {
            max_bytes: self.retention_bytes,
            max_age: self.retention_age,
            wait_for_cursor: self.retention_wait_for.clone(),
            wait_max_bytes: self.retention_cap,
            cap_option: "--retention-cap",
        }
    }

    /// The settings after the change. What is not named stays.
    pub fn apply(self, known: LogSettings) -> Result<LogSettings, UsageError> {
        let retention = self.change().apply(known.retention)?;
        let mut labels = known.labels;
        for (number, (key, value)) in self.labels.iter().enumerate() {
            if self.labels[..number].iter().any(|(other, _)| other == key) {
                let text = format!("the label {key} is given twice; give it once");
                return Err(UsageError(text));
            }
            labels.insert(key.clone(), value.clone());
        }
        let compaction = self.compaction(known.compaction)?;
        Ok(LogSettings {
            retention,
            labels,
            compaction,
            record_bytes_max: self.record_bytes_max.unwrap_or(known.record_bytes_max),
            timestamps_required: self
                .timestamps_required
                .unwrap_or(known.timestamps_required),
        })
    }
}

impl SettingsArgs {
    /// How it is compacted after the change.
    fn compaction(&self, known: Option<Compaction>) -> Result<Option<Compaction>, UsageError> {
        let known = match self.compact {
            Some(Compact::None) => None,
            Some(Compact::Key) => Some(known.unwrap_or(Compaction {
                min_age_ms: 0,
                tombstone_ms: TOMBSTONE_MS,
            })),
            None => known,
        };
        let is_named = self.min_compaction_age.is_some() || self.tombstone_retention.is_some();
        let Some(known) = known else {
            return match is_named {
                true => Err(UsageError(
                    "the log is not compacted: give --compact key, too".to_owned(),
                )),
                false => Ok(None),
            };
        };
        Ok(Some(Compaction {
            min_age_ms: self.min_compaction_age.unwrap_or(known.min_age_ms),
            tombstone_ms: self.tombstone_retention.unwrap_or(known.tombstone_ms),
        }))
    }
}

pub(super) fn compaction_text(compaction: Option<Compaction>) -> String {
    match compaction {
        None => "none".to_owned(),
        Some(set) => format!(
            "the last record of each key stays; others go after {}, tombstones after {}",
            quantity::span_ms(set.min_age_ms),
            quantity::span_ms(set.tombstone_ms)
        ),
    }
}

/// What of the retention is to be set.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Change {
    pub max_bytes: Option<u64>,
    pub max_age: Option<u64>,
    pub wait_for_cursor: Vec<String>,
    pub wait_max_bytes: Option<u64>,
    /// The option that says that.
    pub cap_option: &'static str,
}

impl Change {
    /// Whether it changes nothing: what a message calls an option is no setting.
    pub fn is_nothing(&self) -> bool {
        let nothing = Self {
            cap_option: self.cap_option,
            ..Self::default()
        };
        *self == nothing
    }

    /// The retention after the change.
    pub fn apply(self, kept: Retention) -> Result<Retention, UsageError> {
        let is_none = |name: &String| name == NONE;
        let cursors = match self.wait_for_cursor {
            names if names.is_empty() => kept.wait_for_cursors,
            names if names.iter().all(is_none) => Vec::new(),
            names if names.iter().any(is_none) => {
                let text = "--wait-for-cursor none stands alone; drop it or the names";
                return Err(UsageError(text.to_owned()));
            }
            names => names,
        };
        let wait_bytes_max = match self.wait_max_bytes {
            Some(bytes) => bytes,
            // Without a cursor to wait for, a limit of the wait means nothing.
            None if cursors.is_empty() => 0,
            None => kept.wait_bytes_max,
        };
        if wait_bytes_max == 0 && !cursors.is_empty() {
            return Err(UsageError(format!(
                "a cursor may not keep the log for ever; say how many bytes at most with {}, such as 10GiB",
                self.cap_option
            )));
        }
        Ok(Retention {
            max_bytes: self.max_bytes.unwrap_or(kept.max_bytes),
            max_age_ms: self.max_age.unwrap_or(kept.max_age_ms),
            wait_for_cursors: cursors,
            wait_bytes_max,
        })
    }
}

pub(super) fn retention_text(kept: &Retention) -> String {
    let bytes = match kept.max_bytes {
        0 => "any number of bytes".to_owned(),
        bytes => quantity::bytes(bytes),
    };
    let age = match kept.max_age_ms {
        0 => "for ever".to_owned(),
        age => format!("for {}", quantity::span_ms(age)),
    };
    let cursors = match kept.wait_for_cursors.join(", ") {
        names if names.is_empty() => String::new(),
        names => format!(
            "; what {names} did not read yet stays, up to {}",
            quantity::bytes(kept.wait_bytes_max)
        ),
    };
    format!("kept: {bytes}, {age}{cursors}")
}

pub(super) fn retention_json(kept: &Retention) -> Value {
    let limit = |value: u64| Some(value).filter(|value| *value > 0);
    json!({
        "max_bytes": limit(kept.max_bytes),
        "max_age_ms": limit(kept.max_age_ms),
        "wait_for_cursors": kept.wait_for_cursors,
        "wait_max_bytes": limit(kept.wait_bytes_max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key() {
        let label = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_label("team=a=b"), label("team", "a=b"));
        assert_eq!(parse_label("note="), label("note", ""));
        assert!(parse_label("=x").is_err() && parse_label("team").is_err());
    }

    #[test]
    fn a_retention_is_changed_in_parts() {
        let change = |names: &[&str], wait_max_bytes| Change {
            wait_for_cursor: names.iter().map(|&name| name.to_owned()).collect(),
            wait_max_bytes,
            ..Change::default()
        };
        let kept = Retention {
            max_bytes: 1000,
            ..Retention::default()
        };
        assert!(change(&["a"], None).apply(kept.clone()).is_err());
        let waits = change(&["a", "b"], Some(5000)).apply(kept.clone()).unwrap();
        assert_eq!(
            retention_text(&waits),
            "kept: 1000B, for ever; what a, b did not read yet stays, up to 5000B"
        );
        assert_eq!(retention_json(&waits)["wait_max_bytes"], 5000);
        assert!(change(&["a", "none"], None).apply(waits.clone()).is_err());
        let other = change(&["c"], None).apply(waits.clone()).unwrap();
        assert_eq!(
            (other.wait_for_cursors, other.wait_bytes_max),
            (vec!["c".to_owned()], 5000)
        );
        assert_eq!(change(&["none"], None).apply(waits).unwrap(), kept);
    }
}
