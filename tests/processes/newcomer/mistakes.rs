//! The mistakes of a newcomer, and the texts that they meet: `mistakes.txt` holds each of them, as it is.
//!
//! Whoever changes a text changes it there, and reads it: does it say what happened, why, and what to type next? With
//! `FERROLOG_WRITE_TEXTS=1` the tests write what they meet.
#![allow(
    clippy::disallowed_methods,
    reason = "it makes files that are wrong, and reads the texts"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use ferrolog::certs::Authority;
use ferrolog::cli::local_cluster::LocalCluster;
use ferrolog::net::tls::TlsFiles;
use tokio::net::TcpListener;

use crate::harness::Stage;
use crate::harness::command::{Ended, Lone, alone_args, run, serve_args};

const TEXTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/processes/newcomer/mistakes.txt"
);
/// Sections are written one after another.
static WRITING: Mutex<()> = Mutex::new(());

/// What differs from run to run, and what stands for it in the texts.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn of(cluster: &LocalCluster, dir: &Path) -> Self {
        let mut names = Self::default();
        for place in 0..cluster.node_count() {
            names.add(cluster.addr(place), &format!("127.0.0.1:740{}", place + 1));
        }
        names.add(text(dir), "/tmp/try");
        names
    }

    fn add(&mut self, seen: &str, shown: &str) {
        self.0.push((seen.to_owned(), shown.to_owned()));
    }

    fn shown(&self, text: &str) -> String {
        let replace = |text: String, (seen, shown): &(String, String)| text.replace(seen, shown);
        let text = self.0.iter().fold(text.to_owned(), replace);
        // The last of several tries may end later than the time for all of them, and a node's answer after its time.
        let text = (4..20).fold(text, |text, late| {
            text.replace(&format!(" for {late} s: "), " for 3 s: ")
        });
        (5001..6000).fold(text, |text, late| {
            text.replace(&format!(" within {late} ms"), " within 5000 ms")
        })
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Holds how a command ended against the text of this mistake. `typed` is the command as a person types it.
fn check(mistake: &str, typed: &str, ended: &Ended, names: &Names) {
    // A node tells more beside: its log.
    let lines = ended
        .err
        .lines()
        .filter(|line| !line.contains("  INFO ") && !line.contains("  WARN "));
    let err = lines.collect::<Vec<_>>().join("\n");
    let code = ended
        .code
        .map_or("none".to_owned(), |code| code.to_string());
    let met = format!(
        "$ ferrolog {typed}\n{}\nexit code {code}\n",
        names.shown(err.trim_end())
    );
    let _alone = WRITING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let all = fs::read_to_string(TEXTS).unwrap_or_default();
    let mut sections: Vec<(String, String)> = all
        .split("\n== ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .map(|(title, text)| (title.to_owned(), text.trim_matches('\n').to_owned() + "\n"))
        .collect();
    let known = sections.iter_mut().find(|(title, _)| title == mistake);
    if std::env::var_os("FERROLOG_WRITE_TEXTS").is_none() {
        let known =
            known.unwrap_or_else(|| panic!("mistakes.txt has no section {mistake:?}: {met}"));
        assert_eq!(known.1, met, "{mistake}: see mistakes.txt");
        return;
    }
    match known {
        Some(known) => known.1 = met,
        None => sections.push((mistake.to_owned(), met)),
    }
    sections.sort();
    let head = "The mistakes of a newcomer, and the texts that they meet: mistakes.rs holds them against the program.\n";
    let body = sections
        .iter()
        .map(|(title, text)| format!("\n== {title}\n\n{text}"));
    fs::write(TEXTS, head.to_owned() + &body.collect::<String>()).expect("written");
}

/// A section that no test meets is stale.
#[test]
fn there_are_texts_of_sixteen_mistakes() {
    let all = fs::read_to_string(TEXTS).expect("the texts");
    let titles = all.lines().filter_map(|line| line.strip_prefix("== "));
    let titles: std::collections::BTreeSet<_> = titles
        .map(|title| title.split(',').next().expect("a title"))
        .collect();
    let expected = [
        "TLS against plaintext",
        "a copied data directory",
        "a key that is open to others",
        "a node that is down",
        "a typo in a flag",
        "all nodes down",
        "an expired certificate",
        "an offset past the end",
        "an unknown cursor",
        "no certificate",
        "no port",
        "the quorum lost",
        "the wrong authority",
        "the wrong data directory",
        "the wrong port",
        "a trimmed offset",
    ];
    assert_eq!(titles, expected.into_iter().collect());
}

/// A port at which nothing listens.
async fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test]
async fn a_command_line_that_is_wrong_says_what_is() {
    let names = Names::default();
    for (mistake, typed) in [
        (
            "no port, of a server",
            "cluster status --servers localhost --insecure",
        ),
        (
            "no port, of a node",
            "serve --name n1 --data-dir data/n1 --listen 127.0.0.1 --bootstrap --insecure",
        ),
        (
            "a typo in a flag",
            "consume --server 127.0.0.1:7401 --insecure --folow",
        ),
        ("no certificate", "cluster status --servers 127.0.0.1:7401"),
        (
            "no certificate, but the authority's",
            "cluster status --servers 127.0.0.1:7401 --tls-ca certs/ca.pem",
        ),
    ] {
        let args: Vec<_> = typed.split(' ').collect();
        check(mistake, typed, &run(&words(&args)).await, &names);
    }
    let addr = free_port().await;
    let mut names = Names::default();
    names.add(&addr, "127.0.0.1:7411");
    let typed = "cluster status --servers 127.0.0.1:7411 --insecure --timeout 2s";
    let args = words(&[
        "cluster",
        "status",
        "--servers",
        &addr,
        "--insecure",
        "--timeout",
        "2s",
    ]);
    check("the wrong port", typed, &run(&args).await, &names);
}

/// Certificates of an authority that was made at this time.
fn certificates(dir: &Path, made: SystemTime) -> TlsFiles {
    let authority = Authority::new(made).expect("an authority");
    let client = authority.client("client").expect("a certificate");
    let write = |name: &str, pem: &str| {
        let path = dir.join(name);
        fs::write(&path, pem).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    };
    TlsFiles {
        ca: write("ca.pem", authority.ca_pem()),
        cert: write("client.pem", &client.cert),
        key: write("client-key.pem", &client.key),
        crl: None,
    }
}

/// Runs `typed`, to which the connection's flags are added.
async fn run_with(typed: &str, servers: &str, files: &TlsFiles) -> Ended {
    let mut args: Vec<_> = typed.split(' ').map(str::to_owned).collect();
    args.extend(words(&["--servers", servers]));
    if !typed.contains("--timeout") {
        args.extend(words(&["--timeout", "3s"]));
    }
    let paths = [
        ("--tls-ca", &files.ca),
        ("--tls-cert", &files.cert),
        ("--tls-key", &files.key),
    ];
    for (flag, path) in paths {
        args.extend(words(&[flag, text(path)]));
    }
    run(&args).await
}

#[tokio::test]
async fn certificates_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut names = Names::default();
    names.add(text(dir.path()), "certs");
    let typed = "cluster status";

    let years = Duration::from_hours(24 * 365 * 12);
    let old = certificates(dir.path(), SystemTime::now() - years);
    let ended = run_with(typed, "127.0.0.1:1", &old).await;
    check("an expired certificate", typed, &ended, &names);

    let files = certificates(dir.path(), SystemTime::now());
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).expect("its mode");
    let ended = run_with(typed, "127.0.0.1:1", &files).await;
    check("a key that is open to others", typed, &ended, &names);
}

#[tokio::test]
async fn a_node_that_speaks_plaintext_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Lone::start(&alone_args(&dir.path().join("n1"))).await;
    let files = certificates(dir.path(), SystemTime::now());
    let mut names = Names::default();
    names.add(&node.addr, "127.0.0.1:7401");
    let typed = "consume";
    let ended = run_with(typed, &node.addr, &files).await;
    check(
        "TLS against plaintext, from a client with certificates",
        typed,
        &ended,
        &names,
    );
}

/// A cluster, and a client of it with the right certificate.
struct Try {
    stage: Stage,
    names: Names,
    files: TlsFiles,
}

impl Try {
    async fn start() -> Self {
        let stage = Stage::start().await;
        let names = Names::of(&stage.cluster, stage.path());
        let files = stage.cluster.client_tls_files().expect("TLS");
        Self {
            stage,
            names,
            files,
        }
    }

    /// Types a command as somebody who reaches all nodes.
    async fn types(&self, typed: &str) -> Ended {
        run_with(typed, &self.stage.cluster.addrs().join(","), &self.files).await
    }

    /// Types a mistake, and holds what comes of it against its text.
    async fn errs(&self, mistake: &str, typed: &str) {
        let ended = self.types(typed).await;
        check(mistake, &self.names.shown(typed), &ended, &self.names);
    }

    fn node_files(&self, name: &str) -> TlsFiles {
        self.stage.cluster.tls_files(name).expect("TLS")
    }
}

#[tokio::test]
async fn a_read_that_cannot_be_says_where_to_begin() {
    let tried = Try::start().await;
    let input = tried.stage.path().join("input");
    fs::write(&input, "one\ntwo\nthree\n").expect("a file");
    let filled = format!("produce {}", text(&input));
    tried.types(&filled).await.expect_success();
    tried.types("log trim 2").await.expect_success();
    tried
        .errs("an unknown cursor", "consume --cursor biling")
        .await;
    let typed = "log retention --wait-for-cursor biling --wait-max-bytes 1GiB";
    tried
        .errs("an unknown cursor, that retention is to wait for", typed)
        .await;
    tried
        .errs("an offset past the end", "consume --from 100")
        .await;
    tried.errs("a trimmed offset", "consume --from 1").await;
}

#[tokio::test]
async fn a_cluster_that_does_not_trust_a_client_says_why() {
    let tried = Try::start().await;
    let addr = tried.stage.cluster.addr(0).to_owned();
    let plain = words(&[
        "consume",
        "--servers",
        &addr,
        "--insecure",
        "--timeout",
        "3s",
    ]);
    let typed = "consume --servers 127.0.0.1:7401 --insecure";
    let mistake = "TLS against plaintext, from a client without certificates";
    check(mistake, typed, &run(&plain).await, &tried.names);

    let dir = tempfile::tempdir().expect("a directory");
    let others = certificates(dir.path(), SystemTime::now());
    let ended = run_with("consume", &addr, &others).await;
    check("the wrong authority", "consume", &ended, &tried.names);
}

#[tokio::test]
async fn a_node_with_a_directory_that_is_not_its_own_says_so() {
    let mut tried = Try::start().await;
    let join = tried.stage.cluster.addr(0).to_owned();
    let copy = tried.stage.path().join("copy-of-n2");
    copy_dir(&tried.stage.cluster.data_dir(1), &copy);
    let rest = ["--join", &join, "--listen", "127.0.0.1:0"];
    let args = serve_args("n2", &copy, &tried.node_files("n2"), &rest);
    let typed = "serve --name n2 --data-dir /tmp/try/copy-of-n2 --listen 127.0.0.1:7412 --join 127.0.0.1:7401";
    check(
        "a copied data directory",
        typed,
        &run(&args).await,
        &tried.names,
    );

    tried.stage.cluster.kill(2).await.expect("killed");
    let empty: PathBuf = tried.stage.path().join("dta").join("n3");
    let args = serve_args("n3", &empty, &tried.node_files("n3"), &rest);
    let typed =
        "serve --name n3 --data-dir /tmp/try/dta/n3 --listen 127.0.0.1:7403 --join 127.0.0.1:7401";
    check(
        "the wrong data directory",
        typed,
        &run(&args).await,
        &tried.names,
    );
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("its mode");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("its type").is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

#[tokio::test]
async fn a_cluster_whose_nodes_are_down_says_which() {
    let mut tried = Try::start().await;
    let down = tried.stage.cluster.addr(2).to_owned();
    tried.stage.cluster.kill(2).await.expect("killed");
    tried
        .errs("a node that is down", &format!("consume --server {down}"))
        .await;
    // With one node down a change is made.
    tried.types("log create orders").await.expect_success();

    tried.stage.cluster.kill(1).await.expect("killed");
    // A read, since of a change it is chance whether the node that was killed had begun it.
    let typed = "consume --consistency strong --timeout 10s";
    tried.errs("the quorum lost", typed).await;

    tried.stage.cluster.kill(0).await.expect("killed");
    // Which of them was tried last is chance.
    for place in 0..3 {
        let addr = format!("reach {}", tried.stage.cluster.addr(place));
        tried
            .names
            .0
            .insert(0, (addr, "reach 127.0.0.1:7401".to_owned()));
    }
    tried.errs("all nodes down", "log create payments").await;
}
