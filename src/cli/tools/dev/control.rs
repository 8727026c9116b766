//! How `ferrolog dev restart` reaches the `ferrolog dev` that runs: a line each way, over a socket in its directory.
#![allow(
    clippy::disallowed_methods,
    reason = "a socket in a directory of the user's, which no cluster runs over"
)]

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::cli::{UsageError, files};

const SOCKET: &str = "dev.sock";
/// Whoever connects has its line ready.
const LINE_WAIT: Duration = Duration::from_secs(1);
/// A node drains for 15 s at most and listens within 30 s.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// The running end.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// The name of a node that is to be restarted, and whom to answer.
pub(super) struct Request {
    pub name: String,
    asker: UnixStream,
}

impl Control {
    /// Listens in the directory of a cluster.
    ///
    /// # Errors
    ///
    /// A [`UsageError`] if another `ferrolog dev` runs there.
    pub fn listen(dir: &Path) -> anyhow::Result<Self> {
        let at = Place::of(dir)?;
        let path = dir.join(SOCKET);
        let listener = match UnixListener::bind(at.path()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if is_listened_to(&at) {
                    let dir = dir.display();
                    let text = format!(
                        "another `ferrolog dev` runs the cluster in {dir}; stop it, or give another --dir"
                    );
                    return Err(UsageError(text).into());
                }
                // Left by one that was killed.
                files::remove(&path)?;
                UnixListener::bind(at.path())
            }
            bound => bound,
        };
        let listener = listener.with_context(|| format!("listen on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// The next request that is one.
    pub async fn next(&self) -> Request {
        loop {
            let Ok((asker, _)) = self.listener.accept().await else {
                // Too few descriptors, say: a later look may find some.
                tokio::time::sleep(LINE_WAIT).await;
                continue;
            };
            let mut asker = BufReader::new(asker);
            let mut line = String::new();
            let read = tokio::time::timeout(LINE_WAIT, asker.read_line(&mut line)).await;
            if matches!(read, Ok(Ok(1..))) {
                let (name, asker) = (line.trim().to_owned(), asker.into_inner());
                return Request { name, asker };
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A socket that stays is removed by the next one.
        let _ = files::remove(&self.path);
    }
}

impl Request {
    /// Answers with where the node listens, or why it does not.
    pub async fn answer(mut self, outcome: &anyhow::Result<String>) {
        let text = match outcome {
            Ok(addr) => format!("ok {addr}"),
            Err(error) => format!("error {error:#}"),
        };
        // Whoever asked may be gone.
        let _ = self.asker.write_all(text.as_bytes()).await;
    }
}

/// Has the `ferrolog dev` of this directory restart a node; gives where it listens.
pub(super) async fn restart(dir: &Path, name: &str) -> anyhow::Result<String> {
    let at = Place::of(dir)?;
    let mut asked = match UnixStream::connect(at.path()).await {
        Ok(asked) => asked,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            let text = format!(
                "no `ferrolog dev` runs in {}; give the --dir that it printed as FERROLOG_DEV_DIR",
                dir.display()
            );
            return Err(UsageError(text).into());
        }
        Err(error) => return Err(error).context("reach the `ferrolog dev` that runs"),
    };
    let answer = async {
        asked.write_all(format!("{name}\n").as_bytes()).await?;
        let mut answer = String::new();
        asked.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER_WAIT, answer).await;
    let answer = answer.context("`ferrolog dev` does not answer")??;
    match answer.split_once(' ') {
        Some(("ok", addr)) => Ok(addr.to_owned()),
        Some(("error", why)) => bail!("{why}"),
        _ => bail!("`ferrolog dev` ended before it answered"),
    }
}

fn is_listened_to(at: &Place) -> bool {
    std::os::unix::net::UnixStream::connect(at.path()).is_ok()
}

/// A socket's place, named through the descriptor of its directory: the system takes 107 bytes of a path and no more.
struct Place(File);

impl Place {
    fn of(dir: &Path) -> anyhow::Result<Self> {
        let opened =
            File::open(dir).with_context(|| format!("open {}; check the path", dir.display()))?;
        Ok(Self(opened))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()))
    }
}
