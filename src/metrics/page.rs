//! A page of numbers as it is read by Prometheus, and the registry of those who tell what stands on it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry;

use super::Counter;
use super::counts::Times;
use super::families::{Family, Sort};
use super::labels::{ByLabel, Label};

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The text that every scraper reads.
    Text,
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
}

impl Form {
    /// The form for who accepts these.
    pub fn of(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

type Tell = dyn Fn(&mut Page<'_>) + Send + Sync;

/// All parts of a node that tell something.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<Tell>>);

impl Registry {
    /// From now on pages hold what this one tells, too.
    pub fn add(&mut self, tell: impl Fn(&mut Page<'_>) + Send + Sync + 'static) {
        self.0.push(Arc::new(tell));
    }

    /// The page as it is now.
    pub fn page(&self, form: Form) -> String {
        let mut registry = registry::Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut page = String::new();
        let written = match form {
            Form::Text => prometheus_text::encode(&mut page, &registry),
            Form::OpenMetrics => text::encode(&mut page, &registry),
        };
        written.expect("a string takes all that is written to it");
        page
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry of {}", self.0.len())
    }
}

impl Collector for Registry {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let written = Ok(());
        let mut page = Page { encoder, written };
        for tell in &self.0 {
            tell(&mut page);
        }
        page.written
    }
}

/// What is told now. A family is told at once, with all of its series.
pub struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    written: fmt::Result,
}

/// A number, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Page<'_> {
    /// A family of one series.
    pub fn one(&mut self, family: &Family, value: impl Into<Value>) {
        let value = value.into();
        self.family(family, |series| series.value(&[], value));
    }

    /// A family that is counted by a label.
    pub fn by_label<L: Label>(&mut self, family: &Family, counts: &ByLabel<L, Counter>) {
        self.family(family, |series| {
            for (value, count) in counts.iter() {
                series.value(&[(L::KEY, value.name())], count.get());
            }
        });
    }

    /// A family and its series.
    pub fn family(&mut self, family: &Family, tell: impl FnOnce(&mut Series<'_>)) {
        let (name, sort) = match family.sort {
            // The library adds the end that a counter's name has.
            Sort::Counter => (family.name.trim_end_matches("_total"), MetricType::Counter),
            Sort::Gauge => (family.name, MetricType::Gauge),
            Sort::Times => (family.name, MetricType::Histogram),
        };
        let described = self
            .encoder
            .encode_descriptor(name, family.help, None, sort);
        match described {
            Ok(encoder) => {
                let (written, is_counter) = (Ok(()), family.sort == Sort::Counter);
                let mut series = Series {
                    encoder,
                    is_counter,
                    written,
                };
                tell(&mut series);
                self.written = self.written.and(series.written);
            }
            Err(error) => self.written = Err(error),
        }
    }
}

/// The series of one family.
pub struct Series<'a> {
    encoder: MetricEncoder<'a>,
    is_counter: bool,
    written: fmt::Result,
}

impl Series<'_> {
    /// One of them, by its labels.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let (value, is_counter) = (value.into(), self.is_counter);
        self.encode(labels, |encoder| match (is_counter, value) {
            (true, Value::Whole(value)) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
            }
            (true, Value::Real(value)) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
            }
            (false, Value::Whole(value)) => encoder.encode_gauge(&value),
            (false, Value::Real(value)) => encoder.encode_gauge(&value),
        });
    }

    /// A histogram.
    pub fn times(&mut self, labels: &[(&str, &str)], times: &Times) {
        let seen = times.seen();
        self.encode(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(seen.sum_s, seen.count, &seen.buckets, None)
        });
    }

    fn encode(
        &mut self,
        labels: &[(&str, &str)],
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) {
        let written = match labels {
            [] => encode(&mut self.encoder),
            labels => {
                let family = self.encoder.encode_family(&labels);
                family.and_then(|mut encoder| encode(&mut encoder))
            }
        };
        self.written = self.written.and(written);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::families::{Family, Sort};
    use super::*;

    const COUNTED: Family = Family {
        name: "ferrolog_calls_total",
        sort: Sort::Counter,
        help: "Calls.",
    };
    const TIMED: Family = Family {
        name: "ferrolog_call_seconds",
        sort: Sort::Times,
        help: "How long they took.",
    };

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.add(|page| {
            page.family(&COUNTED, |series| {
                series.value(&[("verb", "a\"b\\c\nd")], 3_u64);
            });
            let times = Times::default();
            times.note(Duration::from_millis(3));
            page.family(&TIMED, |series| series.times(&[], &times));
        });
        registry
    }

    #[test]
    fn a_page_is_written_as_its_readers_ask() {
        let page = registry().page(Form::of("*/*"));
        for line in [
            "# TYPE ferrolog_calls_total counter\n",
            "ferrolog_calls_total{verb=\"a\\\"b\\\\c\\nd\"} 3\n",
            "# HELP ferrolog_call_seconds How long they took.\n",
            "ferrolog_call_seconds_sum 0.003\n",
            "ferrolog_call_seconds_bucket{le=\"0.0025\"} 0\n",
            "ferrolog_call_seconds_bucket{le=\"0.005\"} 1\n",
            "ferrolog_call_seconds_bucket{le=\"+Inf\"} 1\n",
        ] {
            assert!(page.contains(line), "{line:?} is missing:\n{page}");
        }
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let page = registry().page(Form::of(accept));
        assert!(page.contains("# TYPE ferrolog_calls counter\n"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
