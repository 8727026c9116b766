//! What may stand where, and how long it may be: rules over one file at a time.

use crate::source::{Finding, Path, Source, is_test_file, is_word};

/// What has one home in `src/`: the path as code names it, and where it may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("openraft", &["src/raft/"]),
    ("redb", &["src/raft/home/stable_store/"]),
    ("rustls", &["src/net/tls/", "src/certs.rs", "src/certs/"]),
    ("tokio_rustls", &["src/net/tls/"]),
    ("rcgen", &["src/certs.rs", "src/certs/"]),
    ("memmap2", &["src/log/segment/index.rs"]),
    ("ring", &["src/log/compaction/", "src/raft/entry/owner.rs"]),
    ("twox_hash", &["src/raft/state/sessions/digests.rs"]),
    ("lz4_flex", &["src/batch/compression.rs"]),
    ("ruzstd", &["src/batch/compression.rs"]),
    (
        "tokio::net",
        &["src/net/tcp.rs", "src/cli/tools/dev/control.rs"],
    ),
    ("prometheus_client", &["src/metrics/page.rs"]),
    ("hyper", &["src/server/surface/"]),
];

/// Calls that have a better twin in one file, and why: in what is no test, and outside that file.
const BETTER_TWINS: &[(&[&str], &[&str], &str)] = &[
    (
        &[
            "tokio::spawn",
            "task::spawn",
            "spawn_blocking",
            "thread::spawn",
            "thread::scope",
            "thread::Builder",
        ],
        &["src/tasks.rs", "src/stderr.rs"],
        "nobody sees how such a task ends",
    ),
    (
        &["eprintln!", "eprint!", "println!", "print!", "io::stderr"],
        &["src/stderr.rs"],
        "it panics or waits when nobody reads; results go through `output::print`",
    ),
];

/// Where `unsafe` may stand: maps in the product, and the two functions of libc that simulated worlds define.
const UNSAFE_HOMES: &[&str] = &["src/log/segment/index.rs", "tests/sim/system.rs"];

/// Of a file before its tests, and of a file of tests.
const FILE_LINES_MAX: usize = 400;
const TEST_FILE_LINES_MAX: usize = 600;
const FN_LINES_MAX: usize = 70;

/// What a comment says beside a sleep in a test that cannot wait for a condition.
const TIME_IS_THE_SUBJECT: &str = "time itself is the subject";
/// Where time is simulated: a sleep there is the world's clock going on, and nobody waits.
const SIMULATED_WORLD: &str = "tests/sim/";

/// Whether a path leads through these names, side by side.
fn leads_through(path: &Path, names: &str) -> bool {
    let names: Vec<_> = names.split("::").collect();
    path.names.windows(names.len()).any(|part| part == names)
}

pub fn homes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in source.paths().iter().filter(|_| source.is_product()) {
        for (name, homes) in HOMES {
            let names: Vec<_> = name.split("::").collect();
            // A lone word can be a variable or a module of ours; only a path or an import names a crate.
            let named = path.names.len() > 1 || path.imported;
            let named =
                named && path.names.len() >= names.len() && path.names[..names.len()] == names;
            if named && !homes.iter().any(|home| source.path.starts_with(home)) {
                let what = format!(
                    "`{name}` has its home in {}: move this there",
                    homes.join(", ")
                );
                findings.push(source.finding(path.at, what));
            }
        }
    }
    findings
}

pub fn twins(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let paths = source.paths();
    let of_product = |path: &&Path| source.is_product() && path.at < source.tests_at;
    for path in paths.iter().filter(of_product) {
        let behind = &source.text[path.end..];
        let calls = |call: &&&str| match call.strip_suffix('!') {
            Some(name) => behind.starts_with('!') && leads_through(path, name),
            // Whoever asks it what it is writes nothing.
            None if **call == "io::stderr" && behind.starts_with("().is_terminal()") => false,
            None => leads_through(path, call) && !leads_through(path, &format!("tasks::{call}")),
        };
        for (twins, homes, why) in BETTER_TWINS {
            let Some(call) = twins.iter().find(calls) else {
                continue;
            };
            if !homes.contains(&source.path.as_str()) {
                let what = format!("`{call}` has a better twin in {}: {why}", homes[0]);
                findings.push(source.finding(path.at, what));
            }
        }
    }
    findings
}

pub fn no_unsafe(source: &Source) -> Vec<Finding> {
    let tokens = source.tokens.iter();
    let unsafe_here = tokens.filter(|token| token.text == "unsafe");
    let away = unsafe_here.filter(|_| !UNSAFE_HOMES.contains(&source.path.as_str()));
    let what = format!(
        "`unsafe` stands in {} only: find a safe way",
        UNSAFE_HOMES.join(", ")
    );
    away.map(|token| source.finding(token.at, what.clone()))
        .collect()
}

pub fn files(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.text.starts_with("//!") {
        let what = "line one is `//!`: what this file owns, promises and leaves to others";
        findings.push(source.finding(0, what));
    }
    let (measured, max) = match is_test_file(&source.path) {
        true => (source.text.as_str(), TEST_FILE_LINES_MAX),
        false => (&source.text[..source.tests_at], FILE_LINES_MAX),
    };
    let lines = measured.lines().count();
    if source.is_product() && lines > max {
        let what =
            format!("{lines} lines before the tests, {max} at most: split it by what it owns");
        findings.push(source.finding(0, what));
    }
    findings
}

pub fn functions(source: &Source) -> Vec<Finding> {
    let all = source.functions.iter().filter(|_| source.is_product());
    let long = all.filter(|f| f.at < source.tests_at && f.lines > FN_LINES_MAX);
    let finding = |f: &crate::source::Function| {
        let (name, lines) = (&f.name, f.lines);
        let what = format!(
            "`{name}` has {lines} lines, {FN_LINES_MAX} at most: branch here, compute in a helper"
        );
        source.finding(f.at, what)
    };
    long.map(finding).collect()
}

pub fn leftovers(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for [first, second] in source.tokens.array_windows() {
        let unfinished = ["todo", "unimplemented", "dbg"].contains(&first.text.as_str());
        if unfinished && second.text == "!" {
            let what = format!("`{}!` is unfinished work: finish it", first.text);
            findings.push(source.finding(first.at, what));
        }
        if first.text == "[" && second.text == "ignore" {
            let what = "a test that is not run proves nothing: mend it or delete it";
            findings.push(source.finding(first.at, what));
        }
    }
    for word in [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ] {
        for at in words(&source.comments, word) {
            findings.push(source.finding(at, format!("`{word}`: do it, or say what holds today")));
        }
    }
    findings
}

/// Where a word stands in a text with no other letter at either side.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let inner = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || is_word(&c.to_string()));
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let (before, behind) = (&text[..at], &text[at + word.len()..]);
            !inner(before.chars().next_back()) && !inner(behind.chars().next())
        })
}

pub fn sleeps(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, token) in source.tokens.iter().enumerate() {
        let is = |number: Option<usize>, text: &str| {
            number
                .and_then(|number| source.tokens.get(number))
                .is_some_and(|t| t.text == text)
        };
        let declared = is(number.checked_sub(1), "fn");
        if token.text != "sleep" || !is(Some(number + 1), "(") || declared {
            continue;
        }
        let line = source.text[..token.at].rfind('\n').unwrap_or(0);
        let line_above = source.text[..line].rfind('\n').unwrap_or(0);
        let line_end = source.text[token.at..]
            .find('\n')
            .map_or(source.text.len(), |i| token.at + i);
        let excused = source.comments[line_above..line_end].contains(TIME_IS_THE_SUBJECT);
        let waits = source.path.starts_with("tests/") && !source.path.starts_with(SIMULATED_WORLD);
        if waits && !excused {
            let what = format!(
                "wait for a condition instead; or say in a comment why {TIME_IS_THE_SUBJECT}"
            );
            findings.push(source.finding(token.at, what));
        }
    }
    findings
}

// ---- over samples: each rule fires -----------------------------------------------------------------

type Rule = fn(&Source) -> Vec<Finding>;

/// The lines of what a rule finds in one file.
fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    let findings = rule(&Source::new(path, text));
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn a_thing_away_from_home_is_found() {
    for (path, text, line) in [
        ("src/server/mod.rs", "use openraft::Raft;", 1),
        ("src/raft/mod.rs", "//!\nfn f(db: redb::Database) {}", 2),
        ("src/agent.rs", "use tokio::{net::TcpStream, sync};", 1),
        ("src/agent.rs", "use rustls;", 1),
        (
            "src/log/mod.rs",
            "fn f() { g!(memmap2::MmapMut::map_anon(1)) }",
            1,
        ),
    ] {
        assert_eq!(lines(homes, path, text), [line], "{path}: {text}");
    }
    for (path, text) in [
        ("src/raft/types.rs", "use openraft::Raft;"),
        ("src/net/tcp.rs", "use tokio::net::TcpStream;"),
        (
            "src/agent.rs",
            "use crate::net::tls; // not rustls::X\nfn f() { let openraft = \"rustls::X\"; }",
        ),
        ("tests/cluster.rs", "use tokio::net::TcpStream;"),
    ] {
        assert_eq!(lines(homes, path, text), [0; 0], "{path}: {text}");
    }
}

#[test]
fn a_task_that_nobody_watches_is_found() {
    let text = "//! x\n\
        fn f() { tokio::spawn(g());\n eprintln!();\n std::io::stderr().write(x);\n runtime.spawn_blocking(x); }\n\
        fn h() { tasks::spawn_blocking(x); std::io::stderr().is_terminal(); }\n\
        #[cfg(test)]\nmod tests {\n    fn t() { tokio::spawn(f()); println!(); }\n}\n";
    assert_eq!(lines(twins, "src/log/x.rs", text), [2, 3, 4, 5]);
    assert_eq!(lines(twins, "tests/x.rs", text), [0; 0]);
}

#[test]
fn unsafe_away_from_home_is_found() {
    let text = "//! unsafe\n#![deny(unsafe_code)]\nfn f() { unsafe { g(\"unsafe\") } }";
    assert_eq!(lines(no_unsafe, "src/log/store.rs", text), [3]);
    assert_eq!(lines(no_unsafe, UNSAFE_HOMES[0], text), [0; 0]);
}

#[test]
fn a_long_or_silent_file_is_found() {
    let long = |count: usize| format!("//! Owns nothing.\n{}", "use a::b;\n".repeat(count - 1));
    assert_eq!(lines(files, "src/a.rs", "use a::b;"), [1]);
    assert_eq!(lines(files, "src/a.rs", &long(400)), [0; 0]);
    assert_eq!(lines(files, "src/a.rs", &long(401)), [1]);
    assert_eq!(lines(files, "src/a_tests.rs", &long(600)), [0; 0]);
    assert_eq!(lines(files, "src/tests/a.rs", &long(601)), [1]);
    let tests = "use a::b;\n".repeat(300);
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{tests}}}\n", long(400));
    assert_eq!(lines(files, "src/a.rs", &tested), [0; 0]);
}

#[test]
fn a_long_function_is_found() {
    let body = |lines: usize| {
        format!(
            "fn f(a: [u8; 4]) -> X {{\n{}}}\n",
            "    g({ '{' });\n".repeat(lines - 2)
        )
    };
    assert_eq!(lines(functions, "src/a.rs", &body(70)), [0; 0]);
    assert_eq!(
        lines(functions, "src/a.rs", &format!("\n{}", body(71))),
        [2]
    );
    assert_eq!(
        lines(functions, "src/a.rs", &format!("impl A {{\n{}}}", body(71))),
        [2]
    );
    let declared = format!(
        "trait T {{\n    fn f(g: fn(u8) -> u8) -> [u8; 4];\n{}}}\n",
        "    // x\n".repeat(80)
    );
    assert_eq!(lines(functions, "src/a.rs", &declared), [0; 0]);
}

#[test]
fn leftovers_are_found() {
    let word = concat!("TO", "DO");
    let text = format!(
        "fn f() {{ todo!() }}\nfn g() {{ dbg!(1); }}\n#[test]\n#[ignore = \"x\"]\nfn h() {{}} // {word}: x\n/// {word}\nfn i() {{}}"
    );
    assert_eq!(lines(leftovers, "src/a.rs", &text), [1, 2, 4, 5, 6]);
    assert_eq!(
        lines(leftovers, "src/a.rs", "fn f() { g(\"todo!\") } // all done"),
        [0; 0]
    );
}

#[test]
fn a_sleep_in_a_test_is_found() {
    assert_eq!(
        lines(sleeps, "tests/a.rs", "fn f() {\n    thread::sleep(d);\n}"),
        [2]
    );
    let excused =
        format!("fn f() {{\n// Idle on purpose: {TIME_IS_THE_SUBJECT}.\ntime::sleep(d); }}");
    assert_eq!(lines(sleeps, "tests/a.rs", &excused), [0; 0]);
    assert_eq!(
        lines(sleeps, "tests/a.rs", "// sleep(1)\nfn sleep() {}"),
        [0; 0]
    );
}

#[test]
fn tokens_comments_and_quotes_are_told_apart() {
    let text = "//! a\nfn b<'c>() { /* d /* e */ */ f(\"g // \\\" h\", r#\"i \" j\"#, b\"k\", 'l', '\"'); } // m\n/// é\nfn n() {}";
    let source = Source::new("src/a.rs", text);
    let letters = |part: &str| {
        part.chars()
            .filter(|c| c.is_alphabetic())
            .collect::<String>()
    };
    assert_eq!(letters(&source.comments), "ademé");
    assert_eq!(letters(&source.quoted), "ghrijbkl");
    assert_eq!(
        (source.comments.len(), source.quoted.len()),
        (text.len(), text.len())
    );
    let code = source.tokens.iter().filter(|token| !token.quoted);
    let code: String = code.map(|token| token.text.as_str()).collect();
    assert_eq!(letters(&code), "fnbcffnn");
}

#[test]
fn paths_are_found() {
    let text = "use a::{b::{c, self}, e as f, g::*,};\nfn h() { i(j :: k::<L>(1)) }";
    let paths = Source::new("src/a.rs", text).paths();
    let paths: Vec<_> = paths.iter().map(|path| path.names.join("::")).collect();
    assert_eq!(
        paths,
        [
            "a::b::c", "a::b", "a::e", "a::g", "fn", "h", "i", "j::k", "L"
        ]
    );
}
