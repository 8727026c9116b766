//! A strict reader of pages of numbers: what it does not know is an error, as it is to a scraper.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a series, in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// A page in the text form, version 0.0.4.
#[derive(Debug, Default)]
pub struct Exposition {
    /// What each family is.
    pub kinds: BTreeMap<String, String>,
    pub samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    /// Reads a page, or panics with the line that is wrong.
    pub fn parse(page: &str) -> Self {
        assert!(page.ends_with('\n'), "the last line has no end");
        let (mut read, mut seen) = (Self::default(), BTreeSet::new());
        let (mut helped, mut family) = (None, String::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(is_name(name) && !help.is_empty(), "{line}");
                helped = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(helped.take().as_deref(), Some(name), "help comes before");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let before = read.kinds.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "told twice: {line}");
                family = name.to_owned();
            } else {
                let (name, labels, value) = sample(line);
                let end = name.strip_prefix(family.as_str()).expect(line);
                let ends: &[&str] = match read.kinds[&family].as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(ends.contains(&end), "not of {family}: {line}");
                let is_new = seen.insert((name.clone(), labels.clone()));
                assert!(is_new, "told twice: {line}");
                read.samples.push((name, labels, value));
            }
        }
        read.check_histograms();
        read
    }

    /// The value of one series; labels that are not named may be any.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is_it = |of: &Labels| {
            let mut named = labels.iter();
            named.all(|(key, value)| of.get(*key).is_some_and(|found| found == value))
        };
        let mut found = self.samples.iter();
        let found = found.find(|(of, its, _)| of == name && is_it(its));
        found.map(|(_, _, value)| *value)
    }

    /// Buckets only grow, and the last one holds all.
    fn check_histograms(&self) {
        let of = |kind: &str, name: &str| self.kinds.get(name).is_some_and(|known| known == kind);
        let mut buckets: BTreeMap<(String, Labels), Vec<(String, f64)>> = BTreeMap::new();
        for (name, labels, value) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else {
                continue;
            };
            assert!(of("histogram", family), "{name}");
            let mut labels = labels.clone();
            let end = labels.remove("le").expect("a bucket ends somewhere");
            let all = buckets.entry((family.to_owned(), labels)).or_default();
            all.push((end, *value));
        }
        for ((family, labels), all) in buckets {
            assert!(
                all.is_sorted_by(|a, b| a.1 <= b.1),
                "{family} {labels:?}: {all:?}"
            );
            let (end, held) = all.last().expect("it has buckets");
            assert_eq!(end, "+Inf", "{family}");
            let labels: Vec<_> = labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            let count = self.value(&format!("{family}_count"), &labels);
            assert_eq!(count, Some(*held), "{family} {labels:?}");
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn sample(line: &str) -> (String, Labels, f64) {
    let at = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(at);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, behind) = rest.split_once("=\"").expect(line);
            assert!(is_name(key), "{line}");
            let (value, behind) = quoted(behind, line);
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            match behind.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = behind.strip_prefix('}').expect(line);
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    let value = value
        .parse()
        .unwrap_or_else(|_| panic!("no number: {line}"));
    (name.to_owned(), labels, value)
}

/// What stands before the next quotation mark, and what behind it.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => panic!("an unknown escape: {line}"),
            },
            char => value.push(char),
        }
    }
    panic!("no end of a label: {line}")
}
