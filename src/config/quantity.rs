//! Sizes and spans of time as people write and read them: `64MiB`, `7d`. What is printed can be typed back.

use std::time::Duration;

type Unit = (&'static str, u64);

/// Units of bytes, the largest first.
const BYTES: &[Unit] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Units of time in milliseconds, the largest first.
const SPANS: &[Unit] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Bytes such as `64MiB`, `1.5GiB` or `1000000`; `None` if the text is no size, or not one of whole bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, BYTES, Some(1))
}

/// A span such as `500ms`, `1.5h` or `7d`, in milliseconds; `None` if the text is none. It needs its unit.
pub fn parse_span_ms(text: &str) -> Option<u64> {
    parse(text, SPANS, None)
}

/// A span that may be a bare number, of seconds.
pub fn parse_seconds_ms(text: &str) -> Option<u64> {
    parse(text, SPANS, Some(1000))
}

/// A span that may be a bare number, of milliseconds.
pub fn parse_millis(text: &str) -> Option<u64> {
    parse(text, SPANS, Some(1))
}

/// A decimal number and its unit. `bare` is the factor of a number without one.
fn parse(text: &str, units: &[Unit], bare: Option<u64>) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor = match unit {
        "" => bare?,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.is_empty() {
        return None;
    }
    let places = u32::try_from(fraction.len()).ok()?;
    let scale = 10_u64.checked_pow(places)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(factor)?;
    // Half a byte is no size.
    let part = (part % scale == 0).then_some(part / scale)?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    whole.checked_add(part)
}

/// A limit in bytes, exactly: `64MiB`, `1000000B`.
pub fn bytes(bytes: u64) -> String {
    exactly(bytes, BYTES)
}

/// A span in milliseconds, exactly: `7d`, `90s`.
pub fn span_ms(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms => exactly(ms, SPANS),
    }
}

/// In the largest unit that leaves no rest.
fn exactly(number: u64, units: &[Unit]) -> String {
    let fits = |(_, factor): &&Unit| number.is_multiple_of(*factor) && (number > 0 || *factor == 1);
    let (name, factor) = units.iter().find(fits).unwrap_or(&("", 1));
    format!("{}{name}", number / factor)
}

/// Bytes that were counted, with three digits or so: `12B`, `1.50MiB`, `64MiB`.
pub fn about_bytes(number: u64) -> String {
    let (name, factor) = BYTES
        .iter()
        .find(|(_, factor)| number >= *factor)
        .unwrap_or(&("B", 1));
    if number.is_multiple_of(*factor) {
        return format!("{}{name}", number / factor);
    }
    let factor = u128::from(*factor);
    let hundredths = (u128::from(number) * 100 + factor / 2) / factor;
    format!("{}.{:02}{name}", hundredths / 100, hundredths % 100)
}

/// A time that was measured: `1.23s`, `12.34ms`.
pub fn about_span(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2}s"),
        seconds => format!("{:.2}ms", seconds * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_read_with_their_units() {
        assert_eq!(parse_bytes("1000"), Some(1000));
        assert_eq!(parse_bytes("1000B"), Some(1000));
        assert_eq!(parse_bytes("2GiB"), Some(2 << 30));
        assert_eq!(parse_bytes("1.5KiB"), Some(1536));
        assert_eq!(parse_bytes("0"), Some(0));
        assert_eq!(parse_span_ms("7d"), Some(7 * 86_400_000));
        assert_eq!(parse_span_ms("0.25s"), Some(250));
        assert_eq!(
            (parse_seconds_ms("20"), parse_seconds_ms("2m")),
            (Some(20_000), Some(120_000))
        );
        assert_eq!(
            (parse_millis("50"), parse_millis("1s")),
            (Some(50), Some(1000))
        );
        for bad in [
            "",
            "GiB",
            "1GB",
            "1gib",
            "-1",
            "1.",
            ".5MiB",
            "1.1B",
            "1..5KiB",
            "99999999999TiB",
        ] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        for bad in ["7", "", "none", "7 d", "1w"] {
            assert_eq!(parse_span_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        for number in [
            0,
            1,
            1000,
            1024,
            1536,
            64 << 20,
            3 << 40,
            4_186_112,
            u64::MAX,
        ] {
            assert_eq!(
                parse_bytes(&bytes(number)),
                Some(number),
                "{}",
                bytes(number)
            );
        }
        for ms in [
            0,
            1,
            999,
            1000,
            90_000,
            3_600_000,
            7 * 86_400_000,
            86_400_001,
        ] {
            assert_eq!(parse_span_ms(&span_ms(ms)), Some(ms), "{}", span_ms(ms));
        }
        assert_eq!(
            (bytes(64 << 20), bytes(1_000_000)),
            ("64MiB".into(), "1000000B".into())
        );
        assert_eq!(
            (span_ms(7 * 86_400_000), span_ms(90_000)),
            ("7d".into(), "90s".into())
        );
    }

    #[test]
    fn what_was_counted_has_few_digits() {
        let shown = [0, 12, 1024, 1536, 1_268_736, 64 << 20, u64::MAX].map(about_bytes);
        let expected = [
            "0B",
            "12B",
            "1KiB",
            "1.50KiB",
            "1.21MiB",
            "64MiB",
            "16777216.00TiB",
        ];
        assert_eq!(shown, expected);
        assert_eq!(about_span(Duration::from_millis(1234)), "1.23s");
        assert_eq!(about_span(Duration::from_micros(12_345)), "12.35ms");
    }
}
