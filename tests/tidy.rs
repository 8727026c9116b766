//! The house rules that a machine can judge, over the text of the tree.
//!
//! Each check is a function from files to findings. It runs over the real tree, where it must find nothing,
//! and over a small bad sample, where it must find something: a check that never fires is no check. The
//! tables below are the rules; to bend one, add a row with its reason.
#![allow(clippy::disallowed_methods, reason = "it reads the tree itself")]

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the crate each one may name. A new arrow needs a page in `docs/decisions/`.
///
/// `main > cli > agent > server > raft > log > disk`; `client` stands beside `server`; `net`, `config`, `env`,
/// `name`, `access` and `proto` are leaves. `lib` maps the crate, so it names every module.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli", "tasks", "stderr"]),
    (
        "cli",
        &[
            "agent", "batch", "certs", "client", "config", "raft", "log", "disk", "net", "env",
            "name", "proto", "tasks", "stderr", "reason",
        ],
    ),
    (
        "agent",
        &[
            "server", "raft", "log", "disk", "config", "net", "env", "proto", "tasks",
        ],
    ),
    (
        "server",
        &[
            "raft", "log", "batch", "net", "env", "name", "proto", "tasks", "reason",
        ],
    ),
    (
        "client",
        &["batch", "net", "env", "proto", "tasks", "reason"],
    ),
    (
        "raft",
        &[
            "log", "disk", "net", "env", "name", "proto", "tasks", "reason",
        ],
    ),
    ("log", &["disk", "batch", "env", "tasks"]),
    ("disk", &["access"]),
    ("config", &["server", "raft", "log", "net"]),
    ("certs", &["net"]),
    ("net", &["access", "env", "name", "tasks"]),
    ("batch", &[]),
    ("access", &[]),
    ("env", &[]),
    ("name", &[]),
    ("proto", &[]),
    // A task that panics names `Agent::failed` in its documentation only.
    ("reason", &[]),
    ("tasks", &["stderr", "env"]),
    ("stderr", &[]),
];

/// What has one home in `src/`: the path as code names it, and where it may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("openraft", &["src/raft/"]),
    ("redb", &["src/raft/home/stable_store.rs"]),
    ("rustls", &["src/net/tls/", "src/certs.rs"]),
    ("tokio_rustls", &["src/net/tls/"]),
    ("rcgen", &["src/certs.rs"]),
    ("memmap2", &["src/log/segment/index.rs"]),
    ("ring", &["src/raft/entry/owner.rs"]),
    ("twox_hash", &["src/raft/state/digests.rs"]),
    ("lz4_flex", &["src/batch/compression.rs"]),
    ("ruzstd", &["src/batch/compression.rs"]),
    ("tokio::net", &["src/net/tcp.rs"]),
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
        &["eprintln", "eprint", "println", "print", "io::stderr"],
        &["src/stderr.rs"],
        "it panics or waits when nobody reads; results go through `output::print`",
    ),
];

/// Where `unsafe` may stand: maps in the product, and the two functions of libc that simulated worlds define.
const UNSAFE_HOMES: &[&str] = &["src/log/segment/index.rs", "tests/sim/system.rs"];

const FILE_LINES_WANTED: usize = 400;
const FILE_LINES_MAX: usize = 600;
const FN_LINES_MAX: usize = 70;

/// Files between the two limits, each with its reason. Nothing may pass `FILE_LINES_MAX`.
const LONG_FILES: &[(&str, &str)] = &[];
/// Functions over the limit: file, function, the lines it may have, reason. Only ever lower a number.
const LONG_FNS: &[(&str, &str, usize, &str)] = &[];

/// The top level. Hidden entries may be added freely: tools choose those names.
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

const INVARIANTS: &str = "docs/architecture.md";
/// What a comment says beside a sleep in a test that cannot wait for a condition.
const TIME_IS_THE_SUBJECT: &str = "time itself is the subject";

/// Where time is simulated.
const SIMULATED_WORLD: &str = "tests/sim/";

// ---- the tree --------------------------------------------------------------------------------------

struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A file of Rust, with its code and its comments apart. Both keep the length and the lines of `text`:
/// what belongs to the other is blank, and strings are blank in both.
struct Source {
    path: String,
    text: String,
    code: String,
    comments: String,
    /// As `comments`, for the insides of string literals.
    strings: String,
    /// Where the tests at the end of the file begin, in bytes; the file's length if there are none.
    tests_at: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let [code, comments, strings] = split(text);
        let tests_at = if is_test_file(path) {
            0
        } else {
            tests_at(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            comments,
            strings,
            tests_at,
        }
    }

    fn product_code(&self) -> &str {
        &self.code[..self.tests_at]
    }

    fn is_product(&self) -> bool {
        self.path.starts_with("src/")
    }

    fn finding(&self, at: usize, what: impl Into<String>) -> Finding {
        let line = self.text[..at].matches('\n').count() + 1;
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }
}

/// A file, or a folder of files, that holds the tests of a long module.
fn is_test_file(path: &str) -> bool {
    let is_tests = |part: &str| part == "tests" || part.ends_with("_tests");
    path.starts_with("src/") && path.trim_end_matches(".rs").split('/').any(is_tests)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `dir` with this extension, by its path from the root, sorted.
fn files_under(dir: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
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

fn sources() -> Vec<Source> {
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
    assert!(
        sources.iter().any(|s| s.path == "src/lib.rs"),
        "src/lib.rs is not where it was"
    );
    sources
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

// ---- reading Rust without a parser -----------------------------------------------------------------

/// Parts `text` into code, comments and the insides of strings. The delimiters count as code.
fn split(text: &str) -> [String; 3] {
    let bytes = text.as_bytes();
    let blank: Vec<u8> = bytes
        .iter()
        .map(|&b| if b == b'\n' { b } else { b' ' })
        .collect();
    let mut parts = [blank.clone(), blank.clone(), blank];
    let mut at = 0;
    while at < bytes.len() {
        let (part, end) = token(bytes, at);
        // A literal's quotes stay in the code, so that an empty gap is not mistaken for nothing.
        let inside = if part == 2 { at + 1..end - 1 } else { at..end };
        if part == 2 {
            parts[0][at] = bytes[at];
            parts[0][end - 1] = bytes[end - 1];
        }
        parts[part][inside.clone()].copy_from_slice(&bytes[inside]);
        at = end;
    }
    parts.map(|part| String::from_utf8(part).expect("cut at ASCII, so still UTF-8"))
}

/// What starts at `at` (0 code, 1 comment, 2 string) and where it ends.
fn token(bytes: &[u8], at: usize) -> (usize, usize) {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        return (
            1,
            at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
        );
    }
    if rest.starts_with(b"/*") {
        return (1, at + block_comment_len(rest));
    }
    if rest[0] == b'"' {
        return (2, at + quoted_len(rest));
    }
    let hashes = rest.iter().skip(1).take_while(|&&b| b == b'#').count();
    if rest[0] == b'r'
        && (!after_word || bytes[at - 1] == b'b')
        && rest.get(1 + hashes) == Some(&b'"')
    {
        return (2, at + raw_len(rest, hashes));
    }
    if rest[0] == b'\'' {
        let len = char_len(rest);
        return (if len > 1 { 2 } else { 0 }, at + len);
    }
    (0, at + 1)
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

fn quoted_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_len(rest: &[u8], hashes: usize) -> usize {
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let open = hashes + 2;
    let end = rest[open..].windows(close.len()).position(|w| w == close);
    end.map_or(rest.len(), |end| open + end + close.len())
}

/// A character literal, or one byte of a lifetime.
fn char_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|&b| b == b'\'');
        return close.map_or(1, |close| close + 4);
    }
    // The longest character has four bytes.
    let close = rest
        .iter()
        .take(6)
        .skip(2)
        .position(|&b| b == b'\'')
        .map(|at| at + 2);
    let one = |end: usize| str::from_utf8(&rest[1..end]).is_ok_and(|s| s.chars().count() == 1);
    close.filter(|&end| one(end)).map_or(1, |end| end + 1)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where `word` stands in `text` with no other word character at either side.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + word.len()).copied();
            let inner = |end: u8, outside: Option<u8>| is_word(end) && outside.is_some_and(is_word);
            let ends = word.as_bytes();
            !inner(ends[0], before) && !inner(ends[ends.len() - 1], after)
        })
}

/// Where the first inline test module at column 0 begins. `#[cfg(test)] mod x;` is no end of the product.
fn tests_at(code: &str) -> usize {
    let mut start = None;
    let mut at = 0;
    for line in code.split_inclusive('\n') {
        let mut item = line.trim();
        if line.starts_with("#[cfg(test)]") {
            start = Some(at);
            item = item["#[cfg(test)]".len()..].trim();
        }
        if let Some(found) = start {
            let is_module = words(item, "mod").next().is_some();
            if is_module && item.ends_with('{') {
                return found;
            }
            if !item.is_empty() && !item.starts_with("#[") {
                start = None;
            }
        }
        at += line.len();
    }
    code.len()
}

/// Every path that `code` names, and where: `use a::{b::c, d}` gives `a::b::c` and `a::d`.
fn paths(code: &str) -> Vec<(usize, String)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if is_word(bytes[at]) {
            at = path_tree(code, at, "", &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, or tree of paths, and returns where it ends.
fn path_tree(code: &str, start: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let bytes = code.as_bytes();
    let skip = |mut at: usize| {
        while at < bytes.len() && bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        at
    };
    let mut at = start;
    while at < bytes.len() && is_word(bytes[at]) {
        at += 1;
    }
    let path = format!("{prefix}{}", &code[start..at]);
    let next = skip(at);
    if !code[next..].starts_with("::") {
        found.push((start, path));
        return at;
    }
    let prefix = format!("{path}::");
    at = skip(next + 2);
    match bytes.get(at) {
        Some(&byte) if is_word(byte) => path_tree(code, at, &prefix, found),
        Some(b'{') => {
            at += 1;
            while at < bytes.len() && bytes[at] != b'}' {
                at = match code[at..].strip_prefix("as ") {
                    // The alias is a name of the importer's own.
                    Some(alias) => at + 3 + alias.bytes().take_while(|&b| is_word(b)).count(),
                    None if is_word(bytes[at]) => path_tree(code, at, &prefix, found),
                    None => at + 1,
                };
            }
            (at + 1).min(bytes.len())
        }
        _ => {
            found.push((start, path));
            at
        }
    }
}

// ---- the checks ------------------------------------------------------------------------------------

/// The module of `src/` that a file belongs to, and how deep the file stands in it.
fn module_of(path: &str) -> (String, usize) {
    let inner = path
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    let parts: Vec<_> = inner.split('/').collect();
    (
        parts[0].to_owned(),
        if parts == ["lib"] || parts == ["main"] {
            0
        } else {
            parts.len()
        },
    )
}

/// The module at the top of the crate that `path` leads to, seen from a file `depth` deep.
fn target_of(path: &str, depth: usize) -> Option<&str> {
    let segments: Vec<_> = path.split("::").collect();
    match segments[0] {
        "crate" | "ferrolog" => segments.get(1).copied(),
        "super" => {
            let ups = segments.iter().take_while(|s| **s == "super").count();
            if ups >= depth {
                segments.get(ups).copied()
            } else {
                None
            }
        }
        _ => None,
    }
}

fn check_layers(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|s| s.is_product() && s.path != "src/lib.rs")
    {
        let (module, depth) = module_of(&source.path);
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            findings.push(source.finding(
                0,
                format!("`{module}` is in no layer: add it to LAYERS in tests/tidy.rs"),
            ));
            continue;
        };
        for (at, path) in paths(source.product_code()) {
            let Some(target) = target_of(&path, depth) else {
                continue;
            };
            if target != module && !allowed.contains(&target) {
                let what = format!(
                    "`{module}` may not name `{target}` ({path}): imports point down only; \
                     move the code down, or let the caller own a trait"
                );
                findings.push(source.finding(at, what));
            }
        }
    }
    findings
}

fn check_homes(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.is_product()) {
        for (at, path) in paths(&source.code) {
            for (name, homes) in HOMES {
                let named = path == *name
                    || path
                        .strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with("::"));
                // A lone word can be a variable or a module of ours; only a path or an import names a crate.
                let imported = path.contains("::") || source.code[..at].trim_end().ends_with("use");
                if named && imported && !homes.iter().any(|home| source.path.starts_with(home)) {
                    let what = format!(
                        "`{name}` has its home in {}: move this there",
                        homes.join(", ")
                    );
                    findings.push(source.finding(at, what));
                }
            }
        }
    }
    findings
}

fn check_twins(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.is_product()) {
        let code = source.product_code();
        for (calls, homes, why) in BETTER_TWINS {
            if homes.contains(&source.path.as_str()) {
                continue;
            }
            for call in *calls {
                let found = words(code, call).filter(|&at| {
                    let after = &code[at + call.len()..];
                    let before = code[..at].trim_end();
                    match *call {
                        // Macros, and calls that ask standard error without writing to it.
                        "io::stderr" => !after.starts_with("().is_terminal()"),
                        "eprintln" | "eprint" | "println" | "print" => after.starts_with('!'),
                        // Ours, by its own path.
                        _ => !before.ends_with("tasks::"),
                    }
                });
                let what = format!("`{call}` has a better twin in {}: {why}", homes[0]);
                findings.extend(found.map(|at| source.finding(at, what.clone())));
            }
        }
    }
    findings
}

fn check_unsafe(sources: &[Source]) -> Vec<Finding> {
    let strangers = sources
        .iter()
        .filter(|s| !UNSAFE_HOMES.contains(&s.path.as_str()));
    strangers
        .flat_map(|source| {
            let what = format!(
                "`unsafe` stands in {} only: find a safe way",
                UNSAFE_HOMES.join(", ")
            );
            words(&source.code, "unsafe").map(move |at| source.finding(at, what.clone()))
        })
        .collect()
}

fn check_files(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        if !source.text.starts_with("//!") {
            findings.push(source.finding(
                0,
                "line one is `//!`: what this file owns, promises and leaves to others",
            ));
        }
        if !source.is_product() {
            continue;
        }
        let all_tests = is_test_file(&source.path);
        let excused = all_tests || LONG_FILES.iter().any(|(path, _)| *path == source.path);
        let max = if excused {
            FILE_LINES_MAX
        } else {
            FILE_LINES_WANTED
        };
        let measured = if all_tests {
            &source.text
        } else {
            &source.text[..source.tests_at]
        };
        let lines = measured.lines().count();
        if lines > max {
            let what =
                format!("{lines} lines before the tests, {max} at most: split it by what it owns");
            findings.push(source.finding(0, what));
        }
    }
    findings
}

/// The functions of `code`: where each begins, its name, its lines.
fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let name_at = at + 2 + code[at + 2..].len() - code[at + 2..].trim_start().len();
        let name_len = bytes[name_at..].iter().take_while(|&&b| is_word(b)).count();
        if name_len == 0 {
            continue; // A pointer's type.
        }
        let (mut braces, mut brackets, mut end) = (0, 0, name_at);
        for (i, byte) in bytes.iter().enumerate().skip(name_at) {
            end = i;
            match byte {
                b'(' | b'[' => brackets += 1,
                b')' | b']' => brackets -= 1,
                b'{' => braces += 1,
                b'}' => braces -= 1,
                _ => continue,
            }
            if *byte == b'}' && braces == 0 && brackets == 0 {
                break;
            }
        }
        let semicolon = signature_end(&bytes[name_at..]).map(|len| name_at + len);
        let end = semicolon.unwrap_or(end);
        found.push((
            at,
            &code[name_at..name_at + name_len],
            code[at..=end].matches('\n').count() + 1,
        ));
    }
    found
}

/// Where a declaration without a body ends; `None` if a body follows.
fn signature_end(rest: &[u8]) -> Option<usize> {
    let mut brackets = 0;
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if brackets == 0 => return Some(at),
            b'{' if brackets == 0 => return None,
            _ => {}
        }
    }
    Some(rest.len() - 1)
}

fn check_functions(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.is_product()) {
        for (at, name, lines) in functions(source.product_code()) {
            let row = LONG_FNS
                .iter()
                .find(|(path, fn_name, ..)| *path == source.path && *fn_name == name);
            let max = row.map_or(FN_LINES_MAX, |(_, _, max, _)| *max);
            if lines > max {
                let what = format!(
                    "`{name}` has {lines} lines, {max} at most: branch here, compute in a helper"
                );
                findings.push(source.finding(at, what));
            }
        }
    }
    findings
}

fn check_leftovers(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for word in ["todo!", "unimplemented!", "dbg!"] {
            let found = words(&source.code, word);
            findings.extend(
                found.map(|at| {
                    source.finding(at, format!("`{word}` is unfinished work: finish it"))
                }),
            );
        }
        for (at, _) in source.code.match_indices("#[ignore") {
            findings.push(source.finding(
                at,
                "a test that is not run proves nothing: mend it or delete it",
            ));
        }
        for word in [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("X", "XX"),
        ] {
            let found = words(&source.comments, word);
            findings.extend(
                found.map(|at| {
                    source.finding(at, format!("`{word}`: do it, or say what holds today"))
                }),
            );
        }
    }
    findings
}

fn check_sleeps(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.path.starts_with("tests/")) {
        // Its sleeps are the world's clock going on: nobody waits.
        if source.path.starts_with(SIMULATED_WORLD) {
            continue;
        }
        for at in words(&source.code, "sleep(") {
            let line_start = source.text[..at].rfind('\n').map_or(0, |i| i + 1);
            let line_above = source.text[..line_start.saturating_sub(1)]
                .rfind('\n')
                .map_or(0, |i| i + 1);
            let line_end = source.text[at..]
                .find('\n')
                .map_or(source.text.len(), |i| at + i);
            let excused = source.comments[line_above..line_end].contains(TIME_IS_THE_SUBJECT);
            let declared = source.code[line_start..at].trim_end().ends_with("fn");
            if !excused && !declared {
                let what = format!(
                    "wait for a condition instead; or say in a comment why {TIME_IS_THE_SUBJECT}"
                );
                findings.push(source.finding(at, what));
            }
        }
    }
    findings
}

fn check_top_level<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let strangers = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    let what =
        "is not on the list of the top level in tests/tidy.rs: put it under a folder of the list";
    strangers
        .map(|name| Finding {
            path: name.to_owned(),
            line: 1,
            what: what.to_owned(),
        })
        .collect()
}

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
    numbered
        .filter(|(at, word)| word.len() > 1 && words(text, word).any(|found| found == *at))
        .collect()
}

fn check_invariants(sources: &[Source], page: &str) -> Vec<Finding> {
    let known: BTreeSet<_> = invariants(page).into_iter().map(|(_, word)| word).collect();
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.path != "tests/tidy.rs") {
        for (at, word) in invariants(&source.comments)
            .into_iter()
            .chain(invariants(&source.strings))
        {
            if !known.contains(word) {
                let what = format!(
                    "{word} is not in {INVARIANTS}: number it there, or cite the right one"
                );
                findings.push(source.finding(at, what));
            }
        }
    }
    findings
}

/// The relative links of a page of Markdown, each with its line. Fenced code has no links.
fn links(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, target));
            }
        }
    }
    found
}

fn check_links(path: &str, page: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(path).parent().expect("a page has a folder");
    let broken = links(page)
        .into_iter()
        .filter(|(_, target)| !exists(&folder.join(target)));
    let finding = |(line, target)| Finding {
        path: path.to_owned(),
        line,
        what: format!("the link to {target} leads nowhere: mend or drop it"),
    };
    broken.map(finding).collect()
}

// ---- over the tree ---------------------------------------------------------------------------------

#[test]
fn imports_point_down() {
    expect_none(&check_layers(&sources()));
}

#[test]
fn outside_things_have_one_home() {
    expect_none(&check_homes(&sources()));
}

#[test]
fn tasks_are_watched_and_nothing_waits_for_standard_error() {
    expect_none(&check_twins(&sources()));
}

#[test]
fn unsafe_has_one_home() {
    expect_none(&check_unsafe(&sources()));
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    expect_none(&check_files(&sources()));
}

#[test]
fn functions_stay_short() {
    expect_none(&check_functions(&sources()));
}

#[test]
fn nothing_is_left_over() {
    expect_none(&check_leftovers(&sources()));
}

#[test]
fn tests_wait_for_conditions() {
    expect_none(&check_sleeps(&sources()));
}

#[test]
fn the_top_level_is_fixed() {
    let entries = fs::read_dir(root()).expect("the root");
    let names: Vec<_> = entries
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    expect_none(&check_top_level(names.iter().map(String::as_str)));
}

#[test]
fn cited_invariants_exist() {
    expect_none(&check_invariants(&sources(), &read(INVARIANTS)));
}

#[test]
fn links_lead_somewhere() {
    let pages = ["README.md".to_owned()]
        .into_iter()
        .chain(files_under("docs", "md"));
    let findings: Vec<_> = pages
        .flat_map(|page| check_links(&page, &read(&page), |path| root().join(path).exists()))
        .collect();
    expect_none(&findings);
}

#[test]
fn excuses_are_still_needed() {
    let sources = sources();
    for (path, reason) in LONG_FILES {
        let lines = sources
            .iter()
            .find(|s| s.path == *path)
            .map(|s| s.product_code().lines().count());
        assert!(
            lines > Some(FILE_LINES_WANTED),
            "{path} ({reason}) is short by now: drop its row in LONG_FILES"
        );
    }
    for (path, name, max, reason) in LONG_FNS {
        let source = sources.iter().find(|s| s.path == *path);
        let rows = source
            .map(|s| functions(s.product_code()))
            .unwrap_or_default();
        let lines = rows
            .iter()
            .filter(|row| row.1 == *name)
            .map(|row| row.2)
            .max();
        assert_eq!(
            lines,
            Some(*max),
            "{path} {name} ({reason}): set its row in LONG_FNS to what it has now"
        );
    }
}

// ---- over samples: each check fires ----------------------------------------------------------------

/// `path:line` of what a check finds in one file.
fn found(check: impl Fn(&[Source]) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
    let findings = check(&[Source::new(path, text)]);
    findings
        .iter()
        .map(|f| format!("{}:{}", f.path, f.line))
        .collect()
}

#[test]
fn the_reader_tells_code_from_comments_and_strings() {
    let text = "a /* b /* c */ d */ \"e // \\\" f\" r#\"g \" h\"# br\"i\" 'j' '\\'' '\"' 'k: &'l m // n\n\"é\" o";
    let [code, comments, strings] = split(text);
    let letters = |part: &str| {
        part.chars()
            .filter(|c| c.is_alphabetic())
            .collect::<String>()
    };
    assert_eq!(letters(&code), "arbrklmo");
    assert_eq!(letters(&comments), "bcdn");
    assert_eq!(letters(&strings), "efghijé");
    assert!(
        [&code, &comments, &strings]
            .iter()
            .all(|part| part.len() == text.len())
    );
}

#[test]
fn the_reader_finds_paths() {
    let names = |code: &str| {
        paths(code)
            .into_iter()
            .map(|(_, path)| path)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("use a::{b::{c, d}, e as f, g::*,};"),
        ["use", "a::b::c", "a::b::d", "a::e", "a::g"]
    );
    assert_eq!(names("x(a::b :: c::<D>(1))"), ["x", "a::b::c", "D", "1"]);
}

#[test]
fn an_upward_import_is_found() {
    let layers = |path, text| found(check_layers, path, text);
    assert_eq!(
        layers("src/log/store.rs", "//!\nuse crate::raft::types::Term;"),
        ["src/log/store.rs:2"]
    );
    assert_eq!(
        layers(
            "src/log/store.rs",
            "use crate::{\n log::Offset,\n server::status,\n};"
        ),
        ["src/log/store.rs:3"]
    );
    assert_eq!(
        layers("src/raft/mod.rs", "fn f() { crate::agent::start() }"),
        ["src/raft/mod.rs:1"]
    );
    assert_eq!(
        layers("src/log/mod.rs", "use super::raft::X;"),
        ["src/log/mod.rs:1"]
    );
    assert_eq!(
        layers("src/log/store.rs", "use super::super::net::X;"),
        ["src/log/store.rs:1"]
    );
    assert_eq!(
        layers("src/main.rs", "use ferrolog::log::Log;"),
        ["src/main.rs:1"]
    );
    assert_eq!(
        layers("src/util/mod.rs", "//! Odds and ends."),
        ["src/util/mod.rs:1"]
    );
    assert_eq!(
        layers(
            "src/net/mod.rs",
            "#[cfg(test)]\nmod twin;\nuse crate::log::X;"
        ),
        ["src/net/mod.rs:3"]
    );
}

#[test]
fn a_downward_import_is_fine() {
    let layers = |path, text| found(check_layers, path, text);
    let fine = [
        (
            "src/raft/engine/log_store.rs",
            "use crate::log::{Log, Offset};\nuse super::types::X;",
        ),
        (
            "src/log/mod.rs",
            "// as crate::raft::X wants\npub(crate) fn f() -> &str { \"crate::raft::X\" }",
        ),
        (
            "src/log/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::raft::X;\n}",
        ),
        ("src/log/tests/crash.rs", "use crate::raft::X;"),
        ("src/main.rs", "fn main() { ferrolog::cli::run() }"),
        ("src/agent.rs", "use crate::server::Server;"),
    ];
    for (path, text) in fine {
        assert_eq!(layers(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn a_thing_away_from_home_is_found() {
    let homes = |path, text| found(check_homes, path, text);
    assert_eq!(
        homes("src/server/mod.rs", "use openraft::Raft;"),
        ["src/server/mod.rs:1"]
    );
    assert_eq!(
        homes("src/raft/mod.rs", "//!\nlet db: redb::Database;"),
        ["src/raft/mod.rs:2"]
    );
    assert_eq!(
        homes("src/agent.rs", "use tokio::{net::TcpStream, sync};"),
        ["src/agent.rs:1"]
    );
    assert_eq!(homes("src/agent.rs", "use rustls;"), ["src/agent.rs:1"]);
    assert_eq!(
        homes("src/log/mod.rs", "memmap2::MmapMut::map_anon(1)"),
        ["src/log/mod.rs:1"]
    );
    let fine = [
        ("src/raft/entry/types.rs", "use openraft::Raft;"),
        ("src/net/tcp.rs", "use tokio::net::TcpStream;"),
        (
            "src/agent.rs",
            "use crate::net::tls; // not rustls::X\nlet openraft = 1;",
        ),
        ("tests/cluster.rs", "use tokio::net::TcpStream;"),
    ];
    for (path, text) in fine {
        assert_eq!(homes(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn a_task_that_nobody_watches_is_found() {
    let text = "//! x\n\
        fn f() { tokio::spawn(g()); eprintln!(); std::io::stderr().write(x); }\n\
        fn h() { tasks::spawn_blocking(x); std::io::stderr().is_terminal(); }\n\
        #[cfg(test)]\nmod tests {\n    fn t() { tokio::spawn(f()); println!(); }\n}\n";
    let findings = found(check_twins, "src/log/x.rs", text);
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(found(check_twins, "tests/x.rs", text).is_empty());
}

#[test]
fn unsafe_away_from_home_is_found() {
    let text = "//! unsafe\n#![deny(unsafe_code)]\nfn f() { unsafe { g(\"unsafe\") } }";
    assert_eq!(
        found(check_unsafe, "src/log/store.rs", text),
        ["src/log/store.rs:3"]
    );
    assert_eq!(found(check_unsafe, UNSAFE_HOMES[0], text), [""; 0]);
}

#[test]
fn a_long_or_silent_file_is_found() {
    let lines = |count: usize| format!("//! Owns nothing.\n{}", "use a::b;\n".repeat(count - 1));
    assert_eq!(found(check_files, "src/a.rs", "use a::b;"), ["src/a.rs:1"]);
    assert_eq!(found(check_files, "src/a.rs", &lines(400)), [""; 0]);
    assert_eq!(found(check_files, "src/a.rs", &lines(401)), ["src/a.rs:1"]);
    assert_eq!(
        found(check_files, "src/a_tests.rs", &lines(601)),
        ["src/a_tests.rs:1"]
    );
    assert_eq!(found(check_files, "src/a_tests.rs", &lines(600)), [""; 0]);
    let tested = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        lines(400),
        "use a::b;\n".repeat(300)
    );
    assert_eq!(found(check_files, "src/a.rs", &tested), [""; 0]);
}

#[test]
fn a_long_function_is_found() {
    let body = |lines: usize| {
        format!(
            "fn f(a: [u8; 4]) -> X {{\n{}}}\n",
            "    g({ '{' });\n".repeat(lines - 2)
        )
    };
    assert_eq!(found(check_functions, "src/a.rs", &body(70)), [""; 0]);
    assert_eq!(
        found(check_functions, "src/a.rs", &format!("\n{}", body(71))),
        ["src/a.rs:2"]
    );
    let declared = format!(
        "trait T {{\n    fn f(g: fn(u8) -> u8) -> [u8; 4];\n{}}}\n",
        "    // x\n".repeat(80)
    );
    assert_eq!(found(check_functions, "src/a.rs", &declared), [""; 0]);
}

#[test]
fn leftovers_are_found() {
    let word = concat!("TO", "DO");
    let text = format!(
        "fn f() {{ todo!() }}\nfn g() {{ dbg!(1); }}\n#[test]\n#[ignore]\nfn h() {{}} // {word}: x"
    );
    let lines = ["src/a.rs:1", "src/a.rs:2", "src/a.rs:4", "src/a.rs:5"];
    assert_eq!(found(check_leftovers, "src/a.rs", &text), lines);
    assert_eq!(
        found(
            check_leftovers,
            "src/a.rs",
            "fn f() { g(\"todo!\") } // all done"
        ),
        [""; 0]
    );
}

#[test]
fn a_sleep_in_a_test_is_found() {
    assert_eq!(
        found(
            check_sleeps,
            "tests/a.rs",
            "fn f() {\n    thread::sleep(d);\n}"
        ),
        ["tests/a.rs:2"]
    );
    let excused =
        format!("// Idle on purpose: {TIME_IS_THE_SUBJECT}.\ntokio::time::sleep(d).await;");
    assert_eq!(found(check_sleeps, "tests/a.rs", &excused), [""; 0]);
    assert_eq!(
        found(check_sleeps, "tests/a.rs", "// sleep(1)\nfn sleep() {}"),
        [""; 0]
    );
}

#[test]
fn a_stranger_at_the_top_is_found() {
    let findings = check_top_level(["src", ".ci", "notes.txt"].into_iter());
    assert_eq!(
        findings.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
        ["notes.txt"]
    );
}

#[test]
fn an_unknown_invariant_is_found() {
    let check = |sources: &[Source]| check_invariants(sources, "- **I1** Synced.\n- **I2** Pure.");
    let text =
        "// I1 and I3 hold\nassert!(a, \"I2: x\");\nassert!(a, \"I12: x\");\nlet x: I9 = IO1;";
    assert_eq!(found(check, "src/a.rs", text), ["src/a.rs:1", "src/a.rs:3"]);
}

#[test]
fn a_broken_link_is_found() {
    let page = "[a](b.md) and [c](../d.md#e)\n[f](https://g) [h](#i)\n```\n[j](k.md)\n```\n";
    let findings = check_links("docs/a.md", page, |path| path == Path::new("docs/b.md"));
    assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [1]);
    assert_eq!(findings[0].what.split(' ').nth(3), Some("../d.md"));
}
