//! The command line, run to its end, and nodes started by hand with flags that a cluster would not give.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ferrolog::cli::local_cluster::LocalCluster;
use ferrolog::net::tls::TlsFiles;
use futures::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::{BINARY, PATIENCE};

/// A refusal that takes longer is none: an operator would wait for a node that never comes.
const END_MAX: Duration = Duration::from_secs(25);
const LISTEN_MAX: Duration = Duration::from_secs(20);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// It failed by itself, and what it says on standard error holds each of these.
    pub fn expect_refusal(&self, hints: &[&str]) {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        for hint in hints {
            assert!(self.err.contains(hint), "no {hint:?} in {}", self.err);
        }
    }
}

/// What a command printed for programs.
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends a signal to a process that runs.
pub fn signal(pid: impl TryInto<i32>, signal: Signal) {
    let pid = pid.try_into().ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("it runs");
}

/// Whether a process runs; one that ended and that nobody waited for does not.
pub fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A command without settings from around it; its outputs are piped unless the caller says otherwise.
pub fn command(args: &[String]) -> Command {
    prepared(Command::new(BINARY), args)
}

/// The same, as from a terminal: SIGHUP is not ignored, though these tests may run under `nohup`.
pub fn command_of_terminal(args: &[String]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", BINARY]);
    prepared(command, args)
}

fn prepared(mut command: Command, args: &[String]) -> Command {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("FERROLOG_") {
            command.env_remove(key);
        }
    }
    command.args(args).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for the end of a command, and gives what it said.
pub async fn ended(child: Child) -> Ended {
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.expect("it ends").expect("its output");
    Ended {
        code: ended.status.code(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

/// Runs a command to its end.
pub async fn run(args: &[String]) -> Ended {
    let child = command(args).spawn().expect("the binary");
    let ended = tokio::time::timeout(END_MAX, child.wait_with_output()).await;
    let ended = ended.unwrap_or_else(|_| panic!("no end within {END_MAX:?}: {args:?}"));
    let ended = ended.expect("its output");
    Ended {
        code: ended.status.code(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

/// Runs `ferrolog cluster` with the client's certificate.
pub async fn cluster(cluster: &LocalCluster, words: &[&str]) -> Ended {
    client(cluster, &[&["cluster"], words].concat()).await
}

/// Runs a command of a client with its certificate.
pub async fn client(cluster: &LocalCluster, words: &[&str]) -> Ended {
    client_of(cluster, &cluster.addrs().join(","), words).await
}

/// The same for a client that knows these servers alone.
pub async fn client_of(cluster: &LocalCluster, servers: &str, words: &[&str]) -> Ended {
    run(&args_for(cluster, servers, words)).await
}

/// The arguments of a command of a client with its certificate.
pub fn args_of(cluster: &LocalCluster, words: &[&str]) -> Vec<String> {
    args_for(cluster, &cluster.addrs().join(","), words)
}

fn args_for(cluster: &LocalCluster, servers: &str, words: &[&str]) -> Vec<String> {
    let mut args: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
    args.extend(["--servers", servers].map(str::to_owned));
    args.extend(tls_args(&cluster.client_tls_files().expect("TLS")));
    args
}

/// The same, for a program: what it prints, parsed.
pub async fn cluster_json(of: &LocalCluster, words: &[&str]) -> serde_json::Value {
    let words = [words, &["--output", "json"]].concat();
    let out = cluster(of, &words).await.expect_success();
    serde_json::from_str(&out).expect("JSON")
}

/// The kinds of faults that `doctor` finds, each with its node, and its exit code.
pub async fn findings(of: &LocalCluster) -> (Vec<(String, String)>, Option<i32>) {
    let ended = client(of, &["doctor", "--output", "json"]).await;
    let told = json(&ended.out);
    let findings = told["findings"].as_array().expect("findings");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kinds = findings
        .iter()
        .map(|one| (text(&one["kind"]), text(&one["node"])));
    (kinds.collect(), ended.code)
}

fn tls_args(files: &TlsFiles) -> Vec<String> {
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let (ca, cert, key) = (text(&files.ca), text(&files.cert), text(&files.key));
    ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key]
        .map(str::to_owned)
        .to_vec()
}

/// The flags of a node on a free port.
pub fn serve_args(name: &str, dir: &Path, files: &TlsFiles, rest: &[&str]) -> Vec<String> {
    let dir = dir.to_str().expect("a path in UTF-8");
    let fixed = ["serve", "--name", name, "--data-dir", dir];
    let mut args: Vec<_> = fixed.map(str::to_owned).to_vec();
    args.extend(tls_args(files));
    args.extend(rest.iter().map(|&word| word.to_owned()));
    if !rest.contains(&"--listen") {
        args.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    }
    args
}

/// Starts a node that must not come up, and waits for its end.
pub async fn serve_refused(args: &[String], hints: &[&str]) {
    run(args).await.expect_refusal(hints);
}

/// The flags of a node alone, on a free port, without TLS.
pub fn alone_args(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("a path in UTF-8");
    let fixed = ["serve", "--name", "n1", "--data-dir", dir, "--bootstrap"];
    let rest = ["--insecure", "--listen", "127.0.0.1:0"];
    [&fixed[..], &rest]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// A node that was started by hand. Dropping it kills it.
pub struct Lone {
    child: Child,
    pub addr: String,
    out: BufReader<ChildStdout>,
    err: ChildStderr,
    /// What was read of `err` so far.
    read: Vec<u8>,
}

impl Lone {
    /// Starts a node and waits until it listens.
    pub async fn start(args: &[String]) -> Self {
        Self::begin(command(args)).await
    }

    /// The same by a command of the caller's.
    pub async fn begin(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let err = child.stderr.take().expect("a pipe");
        let mut line = String::new();
        let read = tokio::time::timeout(LISTEN_MAX, out.read_line(&mut line)).await;
        read.expect("a line in time").expect("a line");
        let addr = line.trim().strip_prefix("listening ");
        let addr = addr.unwrap_or_else(|| panic!("it does not listen: {line:?}"));
        Self {
            addr: addr.to_owned(),
            child,
            out,
            err,
            read: Vec::new(),
        }
    }

    /// What it has logged so far.
    pub fn logged(&mut self) -> String {
        let mut more = [0; 64 << 10];
        let mut take = std::pin::pin!(self.err.read(&mut more));
        if let Some(Ok(count)) = (&mut take).now_or_never() {
            self.read.extend_from_slice(&more[..count]);
        }
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// The arguments of a client of this node, if it speaks no TLS.
    pub fn plain(&self, words: &[&str]) -> Vec<String> {
        let rest = ["--servers", &self.addr, "--insecure", "--timeout", "20"];
        let words = words.iter().copied().chain(rest);
        words.map(str::to_owned).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// SIGKILL, if it runs; gives what it logged.
    pub async fn kill(mut self) -> String {
        // It fails only for a process that has ended already.
        let _ = self.child.start_kill();
        self.end().await.err
    }

    /// Waits for it to end by itself.
    pub async fn end(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), self.logged());
        let all = async {
            let pipes = (
                self.out.read_to_string(&mut out),
                self.err.read_to_string(&mut err),
            );
            let (a, b) = tokio::join!(pipes.0, pipes.1);
            a.and(b).expect("its output");
            self.child.wait().await.expect("its end")
        };
        let status = tokio::time::timeout(END_MAX, all).await;
        let status = status.unwrap_or_else(|_| panic!("no end within {END_MAX:?}"));
        Ended {
            code: status.code(),
            out,
            err,
        }
    }
}
