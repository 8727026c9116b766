//! What `deploy/` says is what the command line takes: every flag, variable and key, and the time to stop.
#![allow(
    clippy::disallowed_methods,
    reason = "it reads files and starts the binary"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The longest that a graceful stop may take, in seconds.
const DRAIN_SECS: u64 = 10;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path);
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    // Comments speak of other programs' flags too.
    let code = text
        .split_inclusive('\n')
        .filter(|line| !line.trim_start().starts_with('#'));
    code.collect()
}

fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ferrolog"))
        .args(command.split(' '))
        .arg("--help")
        .output()
        .expect("run ferrolog");
    assert!(
        output.status.success(),
        "ferrolog {command} --help: {output:?}"
    );
    String::from_utf8(output.stdout).expect("help in UTF-8")
}

/// The words of `text` that begin with `prefix`; a word is made of letters, digits, `-` and `_`.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    words
        .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .map(str::to_owned)
        .collect()
}

fn expect_known(place: &str, used: &BTreeSet<String>, command: &str, prefix: &str) {
    assert!(
        !used.is_empty(),
        "{place} names nothing that starts with {prefix}: this test reads it wrongly"
    );
    let known = words(&help(command), prefix);
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "{place}: `ferrolog {command}` does not know {unknown:?}, only {known:?}"
    );
}

/// The lines from the one that is `start` to the next that is indented no deeper.
fn block(text: &str, start: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text
        .split_inclusive('\n')
        .skip_while(|line| line.trim_end() != start);
    let first = lines.next().unwrap_or_else(|| panic!("no line {start:?}"));
    let inside = lines.take_while(|line| line.trim().is_empty() || indent(line) > indent(first));
    inside.collect()
}

/// The number that follows `key`, in seconds.
fn seconds(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key))
        .unwrap_or_else(|| panic!("no {key}"));
    let number = line.trim().trim_end_matches('s');
    number
        .parse()
        .unwrap_or_else(|_| panic!("{key}{line}: write whole seconds"))
}

#[test]
fn the_compose_file_matches_the_command_line() {
    let compose = read("compose.yaml");
    for node in ["node-1", "node-2", "node-3"] {
        let node = block(&compose, &format!("  {node}:"));
        expect_known("compose.yaml", &words(&node, "--"), "serve", "--");
    }
    expect_known(
        "compose.yaml",
        &words(&block(&compose, "  certs:"), "--"),
        "certs",
        "--",
    );
    expect_known(
        "compose.yaml",
        &words(&block(&compose, "  status:"), "--"),
        "cluster status",
        "--",
    );
    assert!(seconds(&compose, "stop_grace_period:") > DRAIN_SECS);
}

#[test]
fn the_unit_matches_the_command_line() {
    let unit = read("ferrolog.service");
    let start = unit
        .lines()
        .find(|line| line.starts_with("ExecStart="))
        .expect("an ExecStart");
    assert!(start.contains("ferrolog serve "), "{start}");
    expect_known("ferrolog.service", &words(start, "--"), "serve", "--");
    expect_known(
        "ferrolog.service",
        &words(&unit, "FERROLOG_"),
        "serve",
        "FERROLOG_",
    );
    assert!(seconds(&unit, "TimeoutStopSec=") > DRAIN_SECS);
}

#[test]
fn the_image_matches_the_command_line() {
    let image = read("Dockerfile");
    let last_stage = &image[image
        .rfind("FROM scratch")
        .expect("a last stage from scratch")..];
    expect_known(
        "Dockerfile",
        &words(last_stage, "FERROLOG_"),
        "serve",
        "FERROLOG_",
    );
    let user = last_stage
        .lines()
        .find_map(|line| line.strip_prefix("USER "))
        .expect("a USER");
    assert!(
        !user.starts_with('0') && !user.starts_with("root"),
        "USER {user}"
    );
}

#[test]
fn the_settings_file_is_taken_and_an_unknown_key_is_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Nothing outside the folder is touched, and no certificate is found there, so the node cannot start.
    let inside = dir.path().to_str().expect("a path in UTF-8");
    let settings = read("ferrolog.toml")
        .replace("/var/lib/ferrolog", &format!("{inside}/data"))
        .replace("/etc/ferrolog", inside)
        .replace("0.0.0.0:7400", "127.0.0.1:0");
    let complaint = |text: &str| {
        let path = dir.path().join("ferrolog.toml");
        fs::write(&path, text).expect("write the settings");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_ferrolog"));
        let vars = std::env::vars_os().map(|(name, _)| name);
        for name in vars.filter(|name| name.to_string_lossy().starts_with("FERROLOG_")) {
            serve.env_remove(name);
        }
        let output = serve
            .args(["serve", "--config"])
            .arg(&path)
            .output()
            .expect("run ferrolog");
        assert!(!output.status.success(), "it started without certificates");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };

    let missing = complaint(&settings);
    assert!(
        missing.contains("ca.pem"),
        "of all keys only the missing file may be in the way: {missing}"
    );
    let unknown = complaint(&format!("{settings}\ncolour = \"red\"\n"));
    assert!(
        unknown.contains("colour"),
        "an unknown key has to be named: {unknown}"
    );
}

/// `name version` of all packages in a lock file.
fn locked(path: &str) -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&path).expect("a lock file");
    let lock: toml::Table = toml::from_str(&text).expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    let word = |package: &toml::Value, key: &str| package[key].as_str().expect("a text").to_owned();
    packages
        .iter()
        .map(|package| (word(package, "name"), word(package, "version")))
        .collect()
}

/// The fuzz targets lock their packages apart; those of the product must be the product's.
#[test]
fn the_fuzz_targets_are_built_of_what_the_product_is() {
    let (product, fuzz) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let names: BTreeSet<_> = product.iter().map(|(name, _)| name).collect();
    let shared: Vec<_> = fuzz
        .iter()
        .filter(|(name, _)| names.contains(name))
        .collect();
    assert!(shared.len() > 100, "{shared:?}");
    let other: Vec<_> = shared
        .iter()
        .filter(|package| !product.contains(**package))
        .collect();
    assert!(
        other.is_empty(),
        "fuzz/Cargo.lock has other versions: {other:?}"
    );
}

/// What a client has no use for. That it compiles without, `make test` shows.
#[test]
fn a_client_brings_nothing_of_a_node() {
    const OF_A_NODE: [&str; 10] = [
        "openraft",
        "redb",
        "memmap2",
        "clap",
        "indicatif",
        "rcgen",
        "x509-parser",
        "tonic-reflection",
        "axum",
        "mimalloc",
    ];
    let tree = |features: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--offline",
                "--edges",
                "normal",
                "--prefix",
                "none",
            ])
            .args(features)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("run cargo");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let names = text.lines().filter_map(|line| line.split(' ').next());
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let of_client = tree(&["--no-default-features", "--features", "client"]);
    let of_all = tree(&[]);
    for name in OF_A_NODE {
        assert!(
            of_all.contains(name),
            "{name} is no package of ours: drop it here"
        );
        assert!(!of_client.contains(name), "a client brings {name}");
    }
    assert!(of_client.contains("tonic"));
}
