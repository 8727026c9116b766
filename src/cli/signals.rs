//! SIGINT, SIGTERM and SIGHUP, for the commands that print or finish something before they end.

use std::future::pending;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::files;

/// What a shell adds to the number of the signal that ended a command.
const EXIT_SIGNALLED: u8 = 128;

/// The signals that end a command. Once they are listened for, none of them kills the process.
pub(super) struct Signals {
    /// The end of the terminal; `None` where the command was started to outlive it, as by `nohup`.
    hangup: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
}

/// The command was told to end before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Interrupted {
    #[error("interrupted")]
    Interrupt,
    #[error("terminated")]
    Terminate,
    #[error("the terminal was closed")]
    Hangup,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let outlives = files::is_ignored(SignalKind::hangup().as_raw_value());
        let hangup = (!outlives).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            hangup: hangup.transpose().context("listen to SIGHUP")?,
            interrupt: signal(SignalKind::interrupt()).context("listen to SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen to SIGTERM")?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Interrupted {
        tokio::select! {
            _ = self.interrupt.recv() => Interrupted::Interrupt,
            _ = self.terminate.recv() => Interrupted::Terminate,
            () = told(&mut self.hangup) => Interrupted::Hangup,
        }
    }
}

async fn told(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

/// Waits for a signal. Pending for ever where signals are not listened for, since there they kill.
pub(super) async fn interrupted(signals: &mut Option<Signals>) -> Interrupted {
    match signals {
        None => pending().await,
        Some(signals) => signals.next().await,
    }
}

impl Interrupted {
    /// As a shell shows a command that the signal killed.
    pub(super) fn exit_code(self) -> u8 {
        let signal = match self {
            Self::Interrupt => SignalKind::interrupt(),
            Self::Terminate => SignalKind::terminate(),
            Self::Hangup => SignalKind::hangup(),
        };
        EXIT_SIGNALLED + u8::try_from(signal.as_raw_value()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_an_exit_code() {
        assert_eq!(Interrupted::Interrupt.exit_code(), 130);
        assert_eq!(Interrupted::Terminate.exit_code(), 143);
        assert_eq!(Interrupted::Hangup.exit_code(), 129);
    }
}
