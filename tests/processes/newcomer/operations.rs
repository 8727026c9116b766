//! Every command of docs/operations.md that stands on a line of its own, in the order of the page, against a cluster.
#![allow(
    clippy::disallowed_methods,
    reason = "it reads the page and makes files"
)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::{BINARY, PATIENCE, Stage};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");

/// A command of the page, and what it needs to be run.
struct Line {
    /// As it begins on the page, far enough to be told from the others.
    begins: &'static str,
    /// Shell commands that come before it: what the page takes to be there.
    before: &'static str,
    /// What the page can only give as an example, and what stands for it here.
    example: Option<(&'static str, &'static str)>,
    /// It goes on until it is ended: its first line is enough.
    follows: bool,
}

const fn line(begins: &'static str) -> Line {
    Line {
        begins,
        before: "",
        example: None,
        follows: false,
    }
}

impl Line {
    const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }

    const fn with(self, example: &'static str, real: &'static str) -> Self {
        Self {
            example: Some((example, real)),
            ..self
        }
    }

    const fn follows(self) -> Self {
        Self {
            follows: true,
            ..self
        }
    }
}

/// A look at the settings of a node, without those of a client beside them.
const BY_ITS_FILE: &str =
    "env -u FERROLOG_TLS_CA -u FERROLOG_TLS_CERT -u FERROLOG_TLS_KEY ferrolog config";

const LINES: &[Line] = &[
    line("ferrolog version"),
    line("ferrolog certs --out certs"),
    // The environment of a client would be taken before the file.
    line("ferrolog serve --config ferrolog.toml")
        .with(
            "ferrolog serve",
            "env -u FERROLOG_TLS_CA -u FERROLOG_TLS_CERT -u FERROLOG_TLS_KEY ferrolog serve",
        )
        .after(
            "printf '%s\n' 'name = \"node-1\"' 'data_dir = \"lone\"' 'listen = \"127.0.0.1:0\"' \
             'bootstrap = true' 'tls_ca = \"certs/ca.pem\"' 'tls_cert = \"certs/node-1.pem\"' \
             'tls_key = \"certs/node-1-key.pem\"' > ferrolog.toml",
        )
        .follows(),
    line("ferrolog policy check acl.csv").after("echo 'p, reader, orders/*, consume' > acl.csv"),
    line("ferrolog cluster status"),
    line("ferrolog cluster status --watch").follows(),
    line("ferrolog doctor"),
    line("ferrolog health --server").with("127.0.0.1:7400", "$N1"),
    line("ferrolog certs show certs"),
    line("ferrolog certs renew certs node-1"),
    line("ferrolog consume --log _audit").after("ferrolog log create told"),
    line("ferrolog consume --log _audit --follow").follows(),
    line("ferrolog log list --prefix _"),
    line("ferrolog log set _audit"),
    line("ferrolog consume --log _audit --follow --cursor").follows(),
    line("ferrolog config check").with("ferrolog config", BY_ITS_FILE),
    line("ferrolog config show").with("ferrolog config", BY_ITS_FILE),
    line("ferrolog cluster remove n2"),
    line("ferrolog cluster allow n2"),
    line("ferrolog cluster drain n3"),
    line("ferrolog cluster undrain n3"),
    line("ferrolog log create orders"),
    line("ferrolog log list"),
    line("ferrolog log show orders"),
    line("ferrolog log watch --prefix").follows().after("ferrolog log create orders/eu"),
    line("ferrolog log watch --since").follows().with("1200", "0"),
    line("ferrolog log delete orders"),
    line("sed 's/ /")
        .after("for log in orders payments; do ferrolog log create $log; done; printf 'orders 3\norders/eu 4\npayments 7\n' > events.txt"),
    line("ferrolog consume --prefix orders/ --follow").follows(),
    line("ferrolog consume --prefix orders/ --from position").with("120000", "0"),
    line("ferrolog consume --log orders --output json |").after("ferrolog log create orders-copy"),
    line("ferrolog consume --prefix orders/ --cursor").follows(),
    line("ferrolog cursor list"),
    line("ferrolog log delete orders --id").with(
        "7",
        "$(ferrolog log show orders --output json | sed -n 's/.*\"id\": *\"*\\([0-9]*\\).*/\\1/p' | head -1)",
    ),
    line("ferrolog log set orders --retention-bytes").after("ferrolog log create orders"),
    line("ferrolog log set orders --retention-wait-for")
        .after("ferrolog cursor set billing 0 --create --log orders"),
    line("ferrolog log set orders --record-bytes-max"),
    line("ferrolog log trim 100000").after("seq 100001 | ferrolog produce --timestamps --log orders"),
    line("ferrolog fence claim nightly"),
    line("ferrolog produce --fence").after("date > today.txt"),
    line("ferrolog fence show nightly"),
    line("ferrolog log create prices --compact"),
    line("ferrolog log set prices --min-compaction-age"),
    line("ferrolog log compact prices"),
    line("curl --cacert").with("https://node-1:7400", "https://$N1"),
];

/// The lines of the page that are commands.
fn commands() -> Vec<String> {
    let page = fs::read_to_string(PAGE).expect("the page");
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(str::to_owned).collect()
}

struct Shell {
    stage: Stage,
}

impl Shell {
    /// A shell in the directory of the cluster, whose variables lead to it.
    fn command(&self, script: &str) -> Command {
        let binaries = Path::new(BINARY).parent().expect("its folder");
        let path = std::env::var("PATH").expect("a path");
        let files = self.stage.cluster.client_tls_files().expect("TLS");
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .current_dir(self.stage.path())
            .env("PATH", format!("{}:{path}", binaries.display()))
            .env("FERROLOG_SERVERS", self.stage.cluster.addrs().join(","))
            .env("FERROLOG_TLS_CA", &files.ca)
            .env("FERROLOG_TLS_CERT", &files.cert)
            .env("FERROLOG_TLS_KEY", &files.key)
            .env("N1", self.stage.cluster.addr(0))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a script to its end. Each of its commands must succeed, also those before a pipe.
    async fn runs(&self, script: &str) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.command(script).output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("no end: {script}"));
        let ended = ended.expect("a shell");
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        let err = String::from_utf8_lossy(&ended.stderr);
        let failed = err.lines().any(|line| line.starts_with("error"));
        assert!(ended.status.success() && !failed, "{script}\n{out}{err}");
        out
    }

    /// Runs a program that goes on, until it has said something.
    async fn says(&self, script: &str) -> String {
        let mut child = self
            .command(&format!("exec {script}"))
            .spawn()
            .expect("a shell");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut said = String::new();
        let line = tokio::time::timeout(PATIENCE, out.read_line(&mut said)).await;
        line.unwrap_or_else(|_| panic!("nothing is said: {script}"))
            .expect("a line");
        child.kill().await.expect("ended");
        assert!(!said.trim().is_empty(), "{script} ended");
        said
    }

    async fn run(&self, line: &Line, typed: &str) -> String {
        if !line.before.is_empty() {
            self.runs(line.before).await;
        }
        let typed = match line.example {
            None => typed.to_owned(),
            Some((example, real)) => {
                assert!(typed.contains(example), "{example} in {typed}");
                typed.replace(example, real)
            }
        };
        match line.follows {
            true => self.says(&typed).await,
            false => self.runs(&typed).await,
        }
    }
}

/// In CI it must be there: `.ci/run` installs it.
async fn lacks_curl() -> bool {
    let asked = Command::new("curl").arg("--version").output().await;
    asked.is_err() && std::env::var("CI").as_deref() != Ok("true")
}

#[tokio::test]
async fn every_command_of_the_operators_page_does_what_it_says() {
    let shell = Shell {
        stage: Stage::start().await,
    };
    let typed = commands();
    for (number, typed) in typed.iter().enumerate() {
        let line = LINES
            .get(number)
            .filter(|line| typed.starts_with(line.begins));
        let line = line.unwrap_or_else(|| panic!("no row of LINES for line {number}: {typed}"));
        if typed.starts_with("curl ") && lacks_curl().await {
            println!("SKIPPED: no curl here for: {typed}");
            continue;
        }
        let said = shell.run(line, typed).await;
        println!("$ {typed}\n{}", said.lines().next().unwrap_or_default());
    }
    assert_eq!(typed.len(), LINES.len(), "a row of LINES is of no command");
}
