//! Where a read begins and how fresh it is, as the command line spells them.

use std::time::Duration;

use crate::cli::output::quantities::parse_utc_ms;
use crate::client::{Consistency, Start};
use crate::config::quantity::parse_span_ms;

/// `N`, `earliest`, `latest`, `timestamp:MS`, `timestamp:RFC3339`, `tail:N` or `position:N`.
pub(super) fn parse_start(text: &str) -> Result<Start, String> {
    let wrong =
        "give an offset such as 0, or earliest, latest, timestamp:TIME, tail:N or position:N";
    match text.split_once(':') {
        None if text == "earliest" => Ok(Start::Earliest),
        None if text == "latest" => Ok(Start::Latest),
        None => text
            .parse()
            .map(Start::Offset)
            .map_err(|_| wrong.to_owned()),
        Some(("tail", count)) => {
            let count = count.parse().map(Start::Tail);
            count.map_err(|_| "give a number of records, such as tail:10".to_owned())
        }
        Some(("position", position)) => {
            let position = position.parse().map(Start::Position);
            position.map_err(|_| "give a position, such as position:1000".to_owned())
        }
        Some(("timestamp", time)) => {
            let ms = time.parse().ok().or_else(|| parse_utc_ms(time));
            ms.map(Start::Timestamp).ok_or_else(|| {
                "give milliseconds since 1970, or a time in UTC that ends in Z, such as \
                 timestamp:2026-01-31T23:59:59.5Z"
                    .to_owned()
            })
        }
        Some(_) => Err(wrong.to_owned()),
    }
}

/// `relaxed`, `strong`, `at-least:N` or `bounded:TIME`.
pub(super) fn parse_consistency(text: &str) -> Result<Consistency, String> {
    match text.split_once(':') {
        None if text == "relaxed" => Ok(Consistency::Relaxed),
        None if text == "strong" => Ok(Consistency::Strong),
        Some(("at-least", offset)) => {
            let offset = offset.parse().map(Consistency::AtLeast);
            offset.map_err(|_| "give an offset, such as at-least:1000".to_owned())
        }
        Some(("bounded", time)) => {
            let bound = parse_span_ms(time).map(Duration::from_millis);
            let bound = bound.map(Consistency::Bounded);
            bound.ok_or_else(|| "give a time, such as bounded:500ms or bounded:2s".to_owned())
        }
        _ => Err("give relaxed, strong, at-least:N or bounded:TIME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_an_offset_or_a_word() {
        let good = [
            ("earliest", Start::Earliest),
            ("latest", Start::Latest),
            ("17", Start::Offset(17)),
            ("18446744073709551615", Start::Offset(u64::MAX)),
            ("tail:10", Start::Tail(10)),
            ("position:7", Start::Position(7)),
            ("timestamp:1500", Start::Timestamp(1500)),
            ("timestamp:1970-01-01T00:00:02Z", Start::Timestamp(2000)),
        ];
        for (text, start) in good {
            assert_eq!(parse_start(text), Ok(start), "{text}");
        }
        let bad = [
            "",
            "-1",
            "first",
            "1.5",
            "18446744073709551616",
            "tail:",
            "tail:-1",
            "position:",
            "position:x",
            "timestamp:",
            "timestamp:yesterday",
            "cursor:x",
        ];
        for text in bad {
            assert!(parse_start(text).is_err(), "{text:?}");
        }
        let local = parse_start("timestamp:2026-01-31T23:59:59+01:00").unwrap_err();
        assert!(local.contains("ends in Z"), "{local}");
    }

    #[test]
    fn a_consistency_is_a_word_or_a_bound() {
        let good = [
            ("relaxed", Consistency::Relaxed),
            ("strong", Consistency::Strong),
            ("at-least:7", Consistency::AtLeast(7)),
            (
                "bounded:500ms",
                Consistency::Bounded(Duration::from_millis(500)),
            ),
            ("bounded:2s", Consistency::Bounded(Duration::from_secs(2))),
        ];
        for (text, consistency) in good {
            assert_eq!(parse_consistency(text), Ok(consistency), "{text}");
        }
        for text in ["", "weak", "at-least:", "bounded:", "bounded:2", "strong:1"] {
            assert!(parse_consistency(text).is_err(), "{text:?}");
        }
    }
}
