//! What a node tells a collector of calls, by OTLP: spans of those whose callers trace them (W3C Trace Context).
//!
//! A caller that traces says so in the header `traceparent`, and the spans of its call hang off the one that it names.
//! They are handed on beside what the call asks for: in a header from node to node, in memory within one, and never in an
//! entry of the log, so apply knows nothing of them. Nobody waits for a span: what the collector does not take in time is
//! lost, and counted. Only a build with the feature `otlp` has any of it; the types are empty without.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod recorded;

#[cfg(not(feature = "otlp"))]
pub use absent::{Span, Trace, Tracer};
#[cfg(feature = "otlp")]
pub use recorded::{Span, Trace, Tracer};

use crate::metrics::Page;
use crate::metrics::families::{SPANS, SPANS_LOST};

/// From where to where a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What another program asked this one for.
    Served,
    /// What this one asked another for.
    Asked,
    /// A part of this one's work.
    Within,
}

impl Tracer {
    /// How many spans the collector took, and how many were lost.
    pub fn tell(&self, page: &mut Page<'_>) {
        let (taken, lost) = self.counts();
        page.one(&SPANS, taken);
        page.one(&SPANS_LOST, lost);
    }
}
