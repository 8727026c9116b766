//! Of which trace a call is, as W3C Trace Context writes it in the header `traceparent`.

use std::fmt;
use std::str::FromStr;

/// The header, and the metadata of a call.
pub const TRACEPARENT: &str = "traceparent";

/// The only version that there is; a later one begins with the same fields.
const VERSION: u8 = 0;
/// A version that is none.
const NO_VERSION: u8 = 0xff;
/// The flag of a trace that somebody records.
const SAMPLED: u8 = 1;

/// A span of a trace, as one end of a call tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Not zero.
    pub trace: u128,
    /// The span that the call is made in; not zero.
    pub span: u64,
    /// Whether somebody records the trace.
    pub is_sampled: bool,
}

/// A text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a traceparent is 00-TRACE-SPAN-FLAGS, in 32, 16 and 2 digits of 0-9 and a-f, none of the first two all zero"
)]
pub struct NoTraceParent;

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let mut fields = text.split('-');
        let mut field = |length| {
            let field = fields.next().filter(|field| is_hex(field, length));
            let number = field.and_then(|field| u128::from_str_radix(field, 16).ok());
            number.ok_or(NoTraceParent)
        };
        let version = field(2)?;
        let (trace, span, flags) = (field(32)?, field(16)?, field(2)?);
        let is_longer = fields.next().is_some();
        if trace == 0 || span == 0 || version == NO_VERSION.into() {
            return Err(NoTraceParent);
        }
        if is_longer && version == VERSION.into() {
            return Err(NoTraceParent);
        }
        Ok(Self {
            trace,
            span: u64::try_from(span).map_err(|_| NoTraceParent)?,
            is_sampled: flags & u128::from(SAMPLED) != 0,
        })
    }
}

/// Capitals are no digits here.
fn is_hex(field: &str, length: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    field.len() == length && field.bytes().all(is_digit)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            span,
            is_sampled,
        } = self;
        let flags = u8::from(*is_sampled);
        write!(f, "{VERSION:02x}-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        let parent: TraceParent = GOOD.parse().unwrap();
        assert_eq!(parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(
            (parent.span, parent.is_sampled),
            (0x00f0_67aa_0ba9_02b7, true)
        );
        assert_eq!(parent.to_string(), GOOD);
        let unsampled: TraceParent = GOOD.replace("-01", "-02").parse().unwrap();
        assert!(!unsampled.is_sampled);
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(
            later.parse(),
            Ok(parent),
            "a later version, as far as it is known"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = format!("{}-{}-01", &GOOD[..35], "0".repeat(16));
        for bad in [
            "",
            "00",
            &GOOD[..GOOD.len() - 1],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace('-', " "),
            &GOOD.replace("-00f0", "-+0f0"),
            &format!("{GOOD}-more"),
            &zero_trace,
            &zero_span,
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(NoTraceParent), "{bad:?}");
        }
    }
}
