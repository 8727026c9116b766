//! The house rules that a machine can judge, over the text of the tree.
//!
//! Each rule is a function from files to findings. It runs over the real tree, where it must find nothing,
//! and over a small bad sample, where it must find something: a rule that never fires is no rule. The tables
//! in `rules`, `house` and `pages` are the rules; to bend one, add a row with its reason.
#![allow(clippy::disallowed_methods, reason = "it reads the tree itself")]

mod house;
mod limits;
mod pages;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use house::House;
use source::{Finding, Source};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `dir` with this extension, by its path from the root, sorted.
fn files_under(dir: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let path = path.strip_prefix(root()).expect("a path under the root");
                found.push(path.to_str().expect("a path in UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// Every file of Rust, read once for all rules.
fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let dirs = [
            "src",
            "tests",
            "benches",
            "examples",
            "proto",
            "fuzz/fuzz_targets",
        ];
        let paths = dirs.iter().flat_map(|dir| files_under(dir, "rs"));
        let sources: Vec<_> = paths.map(|path| Source::new(&path, &read(&path))).collect();
        let has_lib = sources.iter().any(|source| source.path == "src/lib.rs");
        assert!(has_lib, "src/lib.rs is not where it was");
        sources
    });
    &SOURCES
}

fn pages() -> Vec<(String, String)> {
    let paths = files_under("docs", "md")
        .into_iter()
        .chain(["README.md".to_owned()]);
    paths.map(|path| (path.clone(), read(&path))).collect()
}

fn expect_none(findings: &[Finding]) {
    let list: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert!(
        list.is_empty(),
        "{} finding(s)\n{}",
        list.len(),
        list.join("\n")
    );
}

fn expect_none_in_files(rule: fn(&Source) -> Vec<Finding>) {
    let findings: Vec<_> = sources().iter().flat_map(rule).collect();
    expect_none(&findings);
}

#[test]
fn imports_are_as_they_are_drawn() {
    expect_none(&House::new(sources()).drawing(&read(house::DRAWING)));
}

#[test]
fn no_circle_of_imports_crosses_a_folder() {
    expect_none(&House::new(sources()).circles());
}

#[test]
fn folders_are_taken_in_at_a_glance() {
    expect_none(&house::crowds(sources()));
}

#[test]
fn outside_things_have_one_home() {
    expect_none_in_files(rules::homes);
}

#[test]
fn tasks_are_watched_and_nothing_waits_for_standard_error() {
    expect_none_in_files(rules::twins);
}

#[test]
fn unsafe_has_one_home() {
    expect_none_in_files(rules::no_unsafe);
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    expect_none_in_files(rules::files);
}

#[test]
fn functions_stay_short() {
    expect_none_in_files(rules::functions);
}

#[test]
fn nothing_is_left_over() {
    expect_none_in_files(rules::leftovers);
}

#[test]
fn tests_wait_for_conditions() {
    expect_none_in_files(rules::sleeps);
}

#[test]
fn cited_invariants_exist() {
    expect_none(&pages::cited(sources(), &read(pages::INVARIANTS)));
}

#[test]
fn pages_refer_to_what_is_there() {
    let exists = |path: &Path| root().join(path).exists();
    let functions = sources().iter().flat_map(|source| &source.functions);
    let functions: BTreeSet<&str> = functions.map(|function| &*function.name).collect();
    let is_there = |name: &str| match name.strip_suffix("...") {
        None => functions.contains(name),
        Some(begin) => functions.iter().any(|name| name.starts_with(begin)),
    };
    for (path, page) in pages() {
        expect_none(&pages::links(&path, &page, exists));
        // A decision tells of what was there when it was taken.
        if !path.starts_with("docs/decisions/") {
            expect_none(&pages::files(&path, &page, exists));
            expect_none(&pages::tests(&path, &page, is_there));
        }
    }
}

#[test]
fn comments_name_files_that_are_there() {
    let dirs = [
        "src", "tests", "benches", "examples", "proto", "fuzz", "docs", "testdata",
    ];
    let under = |extension| dirs.iter().flat_map(move |dir| files_under(dir, extension));
    let extensions = ["rs", "py", "md", "proto"];
    let mut paths: Vec<_> = extensions.into_iter().flat_map(under).collect();
    paths.push("README.md".to_owned());
    let is_there = |name: &str| {
        let end = format!("/{name}");
        paths
            .iter()
            .any(|path| path == name || path.ends_with(&end))
    };
    let findings = sources()
        .iter()
        .filter(|source| !source.path.starts_with("tests/tidy/"));
    let findings: Vec<_> = findings
        .flat_map(|source| pages::named_files(source, is_there))
        .collect();
    expect_none(&findings);
}

#[test]
fn the_table_of_limits_says_what_the_constants_are() {
    let is_there = |path: &&String| root().join(path).exists();
    let text = |path: &str| {
        let paths = [format!("src/{path}"), path.to_owned()];
        paths.iter().find(is_there).map(|path| read(path))
    };
    expect_none(&limits::limits(&read(limits::PAGE), text));
}

#[test]
fn the_top_level_is_fixed() {
    let entries = fs::read_dir(root()).expect("the root");
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string();
    let names: Vec<_> = entries.map(|entry| name(entry).expect("UTF-8")).collect();
    expect_none(&pages::top_level(names.iter().map(String::as_str)));
}
