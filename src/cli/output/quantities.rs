//! Limits and dates as they are written on a command line.

use crate::cli::exit::UsageError;
use crate::config::quantity;
pub(in crate::cli) use crate::env::utc;

const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 86_400_000;

/// A limit in bytes, such as `50GiB`; 0 for `none`.
pub(in crate::cli) fn parse_bytes(text: &str) -> Result<u64, UsageError> {
    let example = "write bytes such as 1000000, 512MiB or 50GiB, or none";
    limit(text, quantity::parse_bytes(text), example)
}

/// A limit of time in milliseconds, such as `7d`; 0 for `none`.
pub(in crate::cli) fn parse_age(text: &str) -> Result<u64, UsageError> {
    let example = "write a time such as 45s, 30m, 12h or 7d, or none";
    limit(text, quantity::parse_span_ms(text), example)
}

fn limit(text: &str, read: Option<u64>, example: &str) -> Result<u64, UsageError> {
    if text == "none" {
        return Ok(0);
    }
    let read = read.filter(|limit| *limit > 0);
    read.ok_or_else(|| UsageError(format!("{text:?} is not a limit: {example}")))
}

/// How long to wait: a span such as `30s` or `2m`, or a number of seconds; not 0.
pub(in crate::cli) fn parse_wait(text: &str) -> Result<std::time::Duration, String> {
    let ms = quantity::parse_seconds_ms(text).filter(|ms| *ms > 0);
    ms.map(std::time::Duration::from_millis)
        .ok_or_else(|| "write a time such as 30s or 2m".to_owned())
}

/// An RFC 3339 time in UTC, such as `2026-01-31T23:59:59.5Z`, in milliseconds since 1970.
pub(in crate::cli) fn parse_utc_ms(text: &str) -> Option<u64> {
    let text = text.strip_suffix(['Z', 'z'])?;
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let ms = millis_of_fraction(fraction)?;
    Some(days * DAY_MS + ((hour * 60 + minute) * 60 + second) * SECOND_MS + ms)
}

/// Three numbers of so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut values = [0; 3];
    for (value, digits) in values.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *value = all_digits(part)?;
    }
    parts.next().is_none().then_some(values)
}

fn all_digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

fn millis_of_fraction(digits: &str) -> Option<u64> {
    all_digits(digits.get(..digits.len().min(18))?)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let three: String = digits.chars().chain("000".chars()).take(3).collect();
    is_number.then(|| three.parse().ok())?
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // Leap days of all years before one.
    let leaps = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    if year < 1970 {
        return None;
    }
    let february = 28 + leaps(year + 1) - leaps(year);
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    if day == 0 || day > *months.get(before)? {
        return None;
    }
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    Some(years + months[..before].iter().sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        assert_eq!(parse_bytes("1000").unwrap(), 1000);
        assert_eq!(parse_bytes("2GiB").unwrap(), 2 << 30);
        assert_eq!(parse_bytes("none").unwrap(), 0);
        assert_eq!(parse_age("7d").unwrap(), 7 * 86_400_000);
        assert_eq!(parse_age("250ms").unwrap(), 250);
        for bad in ["", "0", "0KiB", "GiB", "1GB", "-1"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_age("7").is_err(), "a time needs its unit");
        let waits = ["20", "2m", "500ms"].map(|text| parse_wait(text).unwrap().as_millis());
        assert_eq!(waits, [20_000, 120_000, 500]);
        assert!(parse_wait("0").is_err() && parse_wait("soon").is_err());
    }

    #[test]
    fn a_date_that_is_written_is_read_as_the_same() {
        assert_eq!(utc(951_827_696_999), "2000-02-29T12:34:56Z");
        for day in (0..200_000).step_by(61) {
            let ms = day * DAY_MS + day * SECOND_MS % DAY_MS;
            assert_eq!(parse_utc_ms(&utc(ms)), Some(ms), "{}", utc(ms));
        }
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(parse_utc_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            parse_utc_ms("2000-02-29T12:34:56Z"),
            Some(951_827_696 * 1000)
        );
        assert_eq!(
            parse_utc_ms("2026-11-21T09:47:16.25Z"),
            Some(1_795_254_436_250)
        );
        assert_eq!(
            parse_utc_ms("2100-03-01t00:00:00.9999999z"),
            Some(4_107_542_400_999)
        );
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T09:47:16",
            "2026-11-21T09:47:16+01:00",
            "2026-11-21T09:47:60Z",
            "2026-11-21T24:00:00Z",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-1-01T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1é4Z",
            "2026-01-01T+1:00:00Z",
        ] {
            assert_eq!(parse_utc_ms(bad), None, "{bad}");
        }
    }
}
