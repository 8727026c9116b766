//! Where a node tells of itself: metrics and spans.

use super::resolve::{check_addr, check_range};
use super::{ConfigError, LOOPBACK, METRICS_LOGS, METRICS_LOGS_MOST};

/// The collector of spans, if one is named.
pub fn collector(endpoint: Option<&str>) -> Result<Option<String>, ConfigError> {
    // An empty one is what a template leaves of an unset variable.
    let Some(endpoint) = endpoint.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if cfg!(not(feature = "otlp")) {
        let what = "--otlp-endpoint: this build tells no spans; build one that does with `cargo build --release --features \
                    otlp`, or leave the setting out";
        return Err(ConfigError::Invalid(what.to_owned()));
    }
    let Some(addr) = endpoint.strip_prefix("http://") else {
        let what = format!(
            "--otlp-endpoint {endpoint:?} does not begin with http://: spans go in plain text, to a collector on this \
             machine (such as http://127.0.0.1:4317), which passes them on"
        );
        return Err(ConfigError::Invalid(what));
    };
    let addr = check_addr("--otlp-endpoint", addr.trim_end_matches('/'), 1)?;
    Ok(Some(format!("http://{addr}")))
}

/// The address for metrics, and how many logs they tell of by name.
pub fn metrics(
    listen: Option<&str>,
    logs_max: Option<usize>,
) -> Result<(Option<String>, usize), ConfigError> {
    let logs_max = logs_max.unwrap_or(METRICS_LOGS);
    check_range("--metrics-logs-max", logs_max, 0..=METRICS_LOGS_MOST)?;
    Ok((metrics_addr(listen)?, logs_max))
}

/// The address for metrics: on loopback if none is said but a port.
fn metrics_addr(given: Option<&str>) -> Result<Option<String>, ConfigError> {
    let given = given.unwrap_or_default().trim();
    let port = given.strip_prefix(':').unwrap_or(given);
    let addr = match port {
        // An empty address is what a template leaves of an unset variable.
        "" => return Ok(None),
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("{LOOPBACK}:{port}"),
        _ => given.to_owned(),
    };
    check_addr("--metrics-listen", &addr, 0).map(Some)
}
