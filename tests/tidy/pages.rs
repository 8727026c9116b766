//! What pages and comments refer to must be there: invariants, links, files, tests.

use std::collections::BTreeSet;
use std::path::Path;

use crate::rules::words;
use crate::source::{Finding, Source};

/// The page that numbers the invariants.
pub const INVARIANTS: &str = "docs/architecture.md";

/// The numbers `I1`, `I2` and so on in `text`, and where they stand.
fn invariants(text: &str) -> Vec<(usize, &str)> {
    let starts = text.match_indices('I').map(|(at, _)| at);
    let numbered = starts.map(|at| {
        let digits = text[at + 1..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        (at, &text[at..at + 1 + digits])
    });
    let alone =
        |(at, word): &(usize, &str)| word.len() > 1 && words(text, word).any(|found| found == *at);
    numbered.filter(alone).collect()
}

/// Each invariant that is cited is numbered on the page, and each that is numbered is cited on both sides:
/// where the product holds it, and in a test.
pub fn cited(sources: &[Source], page: &str) -> Vec<Finding> {
    let known: BTreeSet<_> = invariants(page).into_iter().map(|(_, word)| word).collect();
    let (mut unheld, mut untested) = (known.clone(), known.clone());
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|source| !source.path.starts_with("tests/tidy/"))
    {
        let cited = [invariants(&source.comments), invariants(&source.quoted)].concat();
        for (at, word) in cited {
            match source.is_product() && at < source.tests_at {
                true => unheld.remove(word),
                false => untested.remove(word),
            };
            if !known.contains(word) {
                let what = format!(
                    "{word} is not in {INVARIANTS}: number it there, or cite the right one"
                );
                findings.push(source.finding(at, what));
            }
        }
    }
    let sides = [
        (unheld, "the product: cite it where it is held"),
        (untested, "a test: cite it where it is tested"),
    ];
    for (uncited, side) in sides {
        let what = |word| format!("{word} is cited nowhere in {side}, or drop it");
        findings.extend(
            uncited
                .into_iter()
                .map(|word| Finding::new(INVARIANTS, 1, what(word))),
        );
    }
    findings
}

/// The lines of a page of Markdown that are no fenced code, with their numbers.
fn prose(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    page.lines().enumerate().filter_map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((number + 1, line))
    })
}

/// Links within the repository that lead nowhere.
pub fn links(path: &str, page: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(path).parent().expect("a page has a folder");
    let mut findings = Vec::new();
    for (line, text) in prose(page) {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..]
                .split([')', ' ', '#'])
                .next()
                .unwrap_or_default();
            let is_ours =
                !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_ours && !exists(&folder.join(target)) {
                let what = format!("the link to {target} leads nowhere: mend or drop it");
                findings.push(Finding::new(path, line, what));
            }
        }
    }
    findings
}

/// Files of Rust that a page names by their folders and that are not there. Those of `src/` go by shorter
/// names, too.
pub fn files(path: &str, page: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in prose(page) {
        let quoted = text.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| {
            name.ends_with(".rs") && name.contains('/') && !name.contains([' ', '*'])
        }) {
            if !exists(Path::new(name)) && !exists(&Path::new("src").join(name)) {
                let what = format!("there is no {name}: say where it is now");
                findings.push(Finding::new(path, line, what));
            }
        }
    }
    findings
}

/// Files that a comment names and that are not there, by their whole path or by its end.
pub fn named_files(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut at = 0;
    for line in source.comments.split_inclusive('\n') {
        let quoted = line.split('`').skip(1).step_by(2);
        let is_file = |word: &&str| {
            let is_part = |c: char| c.is_alphanumeric() || "_-./".contains(c);
            let stem = [".rs", ".py", ".md", ".proto"]
                .iter()
                .find_map(|end| word.strip_suffix(end));
            stem.is_some_and(|stem| !stem.is_empty() && stem.chars().all(is_part))
        };
        for name in quoted.filter(is_file).filter(|name| !exists(name)) {
            findings.push(source.finding(at, format!("there is no {name}: say where it is now")));
        }
        at += line.len();
    }
    findings
}

/// How many words the name of a test has at least, so that it is told from the names of settings and fields.
const TEST_WORDS_MIN: usize = 5;

/// What the names of metrics begin with; the tests of the command line hold those against the table of families.
const FAMILY: &str = "ferrolog_";

/// Tests that a page names and that are not there. `a_stream_at...` stands for each that begins so.
pub fn tests(path: &str, page: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let is_name = |name: &str| {
        let mut parts = name.split('_');
        let is_word = |part: &str| {
            part.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        let is_long = parts.clone().count() >= TEST_WORDS_MIN;
        is_long && parts.all(is_word) && !name.starts_with(FAMILY)
    };
    let mut findings = Vec::new();
    for (line, text) in prose(page) {
        let quoted = text.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| is_name(name.trim_end_matches("..."))) {
            if !exists(name) {
                let what = format!("there is no function {name}: say what shows this now");
                findings.push(Finding::new(path, line, what));
            }
        }
    }
    findings
}

/// What has its place at the top of the repository. Hidden entries may be added freely: tools choose those
/// names.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "proto",
    "src",
    "testdata",
    "deploy",
    "Makefile",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "tests",
    "benches",
    "fuzz",
    "docs",
    "examples",
    "rust-toolchain.toml",
    "target",
];

pub fn top_level<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let strangers = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    let what =
        "is not on the list of the top level in tests/tidy: put it under a folder of the list";
    strangers.map(|name| Finding::new(name, 1, what)).collect()
}

// ---- over samples: each rule fires -----------------------------------------------------------------

fn places(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| format!("{}:{}", finding.path, finding.line))
        .collect()
}

#[test]
fn an_unknown_invariant_is_found() {
    let text = "// I1 and I3 hold\nfn f() { assert!(a, \"I2: x\");\nassert!(a, \"I12: x\");\nlet x: I9 = IO1; }";
    let tests = Source::new("tests/a.rs", "// I1\n// I2\n// I3\n// I12");
    let sources = [Source::new("src/a.rs", text), tests];
    assert_eq!(
        places(&cited(&sources, "- **I1** Synced.\n- **I2** Pure.")),
        ["src/a.rs:1", "src/a.rs:3", "tests/a.rs:3", "tests/a.rs:4"]
    );
    let both_sides = places(&cited(&sources, "I1 I2 I3 I12 I4"));
    assert_eq!(
        both_sides,
        [format!("{INVARIANTS}:1"), format!("{INVARIANTS}:1")]
    );
}

#[test]
fn an_invariant_that_one_side_does_not_cite_is_found() {
    let text = "// I1\nfn f() {}\n#[cfg(test)]\nmod tests {\n    // I2\n}\n";
    let found = cited(&[Source::new("src/a.rs", text)], "I1 I2");
    let whats: Vec<_> = found.iter().map(|finding| &finding.what[..2]).collect();
    assert_eq!(whats, ["I2", "I1"], "not held, and not tested");
}

#[test]
fn a_test_that_is_not_there_is_found() {
    let page = "`a_b_c_d_e`, `a_b_c_d_f`, `a_b_c_d_g...`\n`A_b_c_d_e`, `a_setting`, a_b_c_d_h, `x_b_c_d_e...`\n";
    let exists = |name: &str| name == "a_b_c_d_e" || name == "a_b_c_d_g...";
    assert_eq!(places(&tests("a.md", page, exists)), ["a.md:1", "a.md:2"]);
}

#[test]
fn a_broken_link_is_found() {
    let page = "[a](b.md) and [c](../d.md#e)\n[f](https://g) [h](#i)\n```\n[j](k.md)\n```\n";
    let findings = links("docs/a.md", page, |path| path == Path::new("docs/b.md"));
    assert_eq!(places(&findings), ["docs/a.md:1"]);
    assert_eq!(findings[0].what.split(' ').nth(3), Some("../d.md"));
}

#[test]
fn a_file_that_is_not_there_is_found() {
    let page = "`a/b.rs`, `src/a/b.rs`, c.rs, `Cargo.toml`\n`a/c.rs`\n";
    let findings = files("docs/a.md", page, |path| path == Path::new("src/a/b.rs"));
    assert_eq!(places(&findings), ["docs/a.md:2"]);
}

#[test]
fn a_file_that_a_comment_names_and_that_is_not_there_is_found() {
    let text = "//! `a.rs`, `b/a.rs`, `c.rs`\n//! `.rs`, `see a.rs`\nconst C: &str = \"`c.rs`\"; // `d.py`\n";
    let source = Source::new("src/a.rs", text);
    let found = named_files(&source, |name| name == "a.rs" || name == "b/a.rs");
    assert_eq!(places(&found), ["src/a.rs:1", "src/a.rs:3"]);
}

#[test]
fn a_stranger_at_the_top_is_found() {
    let findings = top_level(["src", ".ci", "notes.txt"].into_iter());
    assert_eq!(places(&findings), ["notes.txt:1"]);
}
