//! One node of a local cluster: a child process, from its spawn to its end.
//!
//! Signals go to the process id. The cluster decides which flags the node gets and where its files are.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cli::files;

const LISTENING_MAX: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 5;
/// After how long mimalloc gives back what was freed, in milliseconds, as in the units of `deploy/`; unless it is set.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";
const PURGE_DELAY_MS: &str = "250";

pub(super) struct Node {
    pub(super) name: String,
    /// The port is 0 until the node has listened.
    pub(super) addr: String,
    process: Option<Process>,
}

struct Process {
    child: Child,
    pid: u32,
    /// Kept open, since the node stops once it is closed. The system closes it if this process is killed.
    _stdin: ChildStdin,
    /// Kept open, since a node could fail in a print once it is closed.
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    pub(super) fn new(name: String, addr: String) -> Self {
        Self {
            name,
            addr,
            process: None,
        }
    }

    /// Starts the process and waits until it says where it listens. Its log goes to the end of `log`.
    pub(super) async fn spawn(
        &mut self,
        binary: &Path,
        args: &[String],
        log: &Path,
    ) -> anyhow::Result<()> {
        let mut command = Command::new(binary);
        command.args(args);
        // The caller's settings are for its clients, not for this node.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("FERROLOG_") && key != "FERROLOG_LOG_LEVEL" {
                command.env_remove(key);
            }
        }
        if std::env::var_os(PURGE_DELAY).is_none() {
            command.env(PURGE_DELAY, PURGE_DELAY_MS);
        }
        // In a group of its own, so that Ctrl-C reaches the caller alone, who then stops the nodes in order.
        command.process_group(0).kill_on_drop(true);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(files::append(log)?));
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;

        let pid = child.id().context("the node has no process id")?;
        // Taken, because the child would close it as soon as its end is waited for.
        let stdin = child
            .stdin
            .take()
            .context("the node has no standard input")?;
        let mut stdout = BufReader::new(
            child
                .stdout
                .take()
                .context("the node has no standard output")?,
        );
        let mut line = String::new();
        // A node that fails closes its output, which reads as an empty line.
        let read = tokio::time::timeout(LISTENING_MAX, stdout.read_line(&mut line)).await;
        if let Ok(read) = read {
            read.with_context(|| format!("read the output of {}", self.name))?;
        }
        let Some(addr) = line.trim().strip_prefix("listening ") else {
            bail!(
                "{} did not begin to listen; the end of its log:\n{}",
                self.name,
                log_tail(log)?
            );
        };
        addr.clone_into(&mut self.addr);
        self.process = Some(Process {
            child,
            pid,
            _stdin: stdin,
            _stdout: stdout,
        });
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        let target = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("the process id is 0")?;
        kill_process(target, signal)
            .with_context(|| format!("signal {} (process {pid})", self.name))
    }

    /// Waits for the process to end.
    pub(super) async fn wait_exit(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        if self.process.is_none() {
            bail!("{} does not run", self.name);
        }
        let waited = tokio::time::timeout(timeout, self.exit()).await;
        waited.with_context(|| format!("{} did not end within {timeout:?}", self.name))
    }

    /// The end of the process; pending while there is none.
    pub(super) async fn exit(&mut self) -> ExitStatus {
        let Some(process) = &mut self.process else {
            return std::future::pending().await;
        };
        // It fails only for a process that is not ours to wait for, and this one is.
        let status = process.child.wait().await.unwrap_or_default();
        self.process = None;
        status
    }
}

/// The end of a log, for an error message.
pub(super) fn log_tail(path: &Path) -> anyhow::Result<String> {
    let text = files::read_if_present(path)?.unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    Ok(format!("{}:\n{}", path.display(), shown.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_give_memory_back_as_soon_as_those_that_deploy_starts() {
        let setting = format!("{PURGE_DELAY}={PURGE_DELAY_MS}");
        for unit in [
            include_str!("../../../../deploy/ferrolog.service"),
            include_str!("../../../../deploy/Dockerfile"),
        ] {
            assert!(unit.contains(&setting), "{setting}");
        }
    }
}
