//! The dashboard, the alert rules and the page for operators name the families that there are, and every alarm.
#![allow(clippy::disallowed_methods, reason = "it reads the tree itself")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ferrolog::metrics::families::{self, Sort};

const DASHBOARD: &str = "deploy/grafana/ferrolog.json";
const RULES: &str = "deploy/prometheus/ferrolog.rules.yml";
const RULE_TESTS: &str = "deploy/prometheus/ferrolog.rules.test.yml";
const PAGE: &str = "docs/operations.md";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The words of a text that begin so.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with(prefix) && word.len() > prefix.len());
    words.map(str::to_owned).collect()
}

/// The families that a text names, each by the name in the table.
fn named(text: &str) -> BTreeSet<String> {
    let found = words(text, "ferrolog_").into_iter();
    let family = |word: String| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let name = word.strip_suffix(end)?;
            let is_it =
                |family: &&families::Family| family.name == name && family.sort == Sort::Times;
            families::ALL.iter().find(is_it)
        });
        histogram.map_or(word, |family| family.name.to_owned())
    };
    found.map(family).collect()
}

fn table() -> BTreeSet<String> {
    families::ALL
        .iter()
        .map(|family| family.name.to_owned())
        .collect()
}

/// The names behind `- alert: ` or `alertname: `.
fn alarms(text: &str, key: &str) -> BTreeSet<String> {
    let found = text
        .match_indices(key)
        .map(|(at, _)| &text[at + key.len()..]);
    let name = |rest: &str| {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    found.map(name).collect()
}

#[test]
fn what_is_drawn_and_watched_is_told_by_nodes() {
    let table = table();
    for path in [DASHBOARD, RULES, RULE_TESTS] {
        let named = named(&read(path));
        assert!(
            named.len() > 10,
            "{path} names {named:?}: this test reads it wrongly"
        );
        let unknown: Vec<_> = named.difference(&table).collect();
        assert!(unknown.is_empty(), "{path}: no node tells {unknown:?}");
    }
    let drawn = &named(&read(DASHBOARD)) | &named(&read(RULES));
    let unused: Vec<_> = table.difference(&drawn).collect();
    assert!(unused.len() * 3 < table.len(), "nobody looks at {unused:?}");
}

#[test]
fn the_dashboard_is_one_that_grafana_reads() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let titles: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .collect();
    let titles: Vec<_> = titles
        .iter()
        .filter_map(|row| row["title"].as_str())
        .collect();
    for asked in [
        "Is it up?",
        "Is it behind?",
        "Who is slow?",
        "What fills the disk?",
    ] {
        assert!(titles.contains(&asked), "{titles:?}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels are given once");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().expect("targets");
        let asks = |target: &serde_json::Value| {
            target["expr"]
                .as_str()
                .is_some_and(|expr| expr.contains("$job"))
        };
        assert!(!targets.is_empty() && targets.iter().all(asks), "{panel}");
    }
}

#[test]
fn every_family_and_every_alarm_is_explained_to_operators() {
    let (page, rules) = (read(PAGE), read(RULES));
    let alarms_of_rules = alarms(&rules, "- alert: ");
    assert!(alarms_of_rules.len() > 15, "{alarms_of_rules:?}");
    let tried = alarms(&read(RULE_TESTS), "alertname: ");
    assert_eq!(
        tried, alarms_of_rules,
        "each rule is tried on recorded values"
    );
    let explained: BTreeSet<_> = words(&page, "Ferrolog").into_iter().collect();
    assert_eq!(explained, alarms_of_rules, "{PAGE}: alarms, and what to do");
    assert_eq!(named(&page), table(), "{PAGE}: the families");
}
