//! The same without the feature `otlp`: nobody traces, and nothing is told.

use tokio::runtime::Handle;

use crate::env::{Clock, Instant};

use super::Side;

/// Makes no spans.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

/// Nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace(());

/// No span.
#[derive(Debug, Default)]
pub struct Span(());

#[allow(
    clippy::unused_self,
    reason = "what another build does has these arguments"
)]
impl Tracer {
    pub fn start(_: Option<&str>, _: &str, _: &Clock, _: &Handle) -> Self {
        Self::default()
    }

    pub fn trace(&self, _: Option<&str>) -> Trace {
        Trace(())
    }

    pub fn counts(&self) -> (u64, u64) {
        (0, 0)
    }
}

#[allow(
    clippy::unused_self,
    reason = "what another build does has these arguments"
)]
impl Trace {
    pub fn is_on(&self) -> bool {
        false
    }

    pub fn span(&self, _: &'static str, _: Side) -> Span {
        Span(())
    }

    pub fn past(&self, _: &'static str, _: Option<Instant>, _: Option<Instant>) {}
}

#[allow(
    clippy::unused_self,
    reason = "what another build does has these arguments"
)]
impl Span {
    pub fn is_on(&self) -> bool {
        false
    }

    pub fn began(&self) -> Option<Instant> {
        None
    }

    pub fn trace(&self) -> Trace {
        Trace(())
    }

    pub fn traceparent(&self) -> Option<String> {
        None
    }

    pub fn set(&mut self, _: &'static str, _: u64) {}

    pub fn failed(&mut self, _: &'static str) {}
}
