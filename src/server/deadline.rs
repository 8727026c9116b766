//! Until when a caller waits for its answer, as its request says.

use std::time::Duration;

use http::{Extensions, HeaderValue};
use tokio::time::Instant;
use tonic::Request;

use crate::retry::WAY_BACK;

/// The header in which gRPC tells it.
pub const HEADER: &str = "grpc-timeout";
const DIGITS_MAX: usize = 8;

/// Stands with a request from its way in on.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

/// Notes with a request that its caller waits for so long.
pub fn note(extensions: &mut Extensions, timeout: Duration) {
    if let Some(deadline) = Instant::now().checked_add(timeout) {
        extensions.insert(Deadline(deadline));
    }
}

/// Until when a call may wait here, so that its answer still finds the caller; `None` if the caller does not
/// say.
pub fn of<T>(request: &Request<T>) -> Option<Instant> {
    let Deadline(deadline) = request.extensions().get()?;
    Some(deadline.checked_sub(WAY_BACK).unwrap_or(*deadline))
}

/// `10S` and the like: at most eight digits and a unit.
pub fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_clients_of_grpc_write_it() {
        let mut request = Request::new(());
        for time in [1, 1_500, 99_999_999, 7_200_000].map(Duration::from_millis) {
            request.set_timeout(time);
            let told = request.metadata().get(HEADER).unwrap().to_str().unwrap();
            let told = HeaderValue::from_str(told).unwrap();
            assert_eq!(parse(&told), Some(time), "{told:?}");
        }
        let read = |text| parse(&HeaderValue::from_static(text));
        let most = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(read("99999999H"), Some(most));
        for odd in ["", "S", "1", "-1S", "+1S", "1.5S", "123456789S", "1s"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}
