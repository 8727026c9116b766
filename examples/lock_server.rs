//! Locks in the log: who holds one is what the log says, read from the beginning.
//!
//! To acquire a lock is to read the whole log strongly, see that the lock is free, and append on the condition
//! that the log still ends there. Of two that try at once one succeeds. The lock's token is the offset of that
//! record: it grows with every holder.
//!
//! There is no time limit. A holder that dies keeps its lock until somebody releases it with its token, since
//! nobody can tell a dead holder from a slow one. What the lock guards should take the token along and refuse a
//! lower one than it has seen; that holds even if a lock was released too early.
//!
//! ```text
//! ferrolog dev --dir /tmp/try --base-port 7401      # then, in another terminal:
//! export FERROLOG_SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cd /tmp/try/certs; export FERROLOG_TLS_CA=$PWD/ca.pem FERROLOG_TLS_CERT=$PWD/client.pem \
//!     FERROLOG_TLS_KEY=$PWD/client-key.pem; cd -
//! cargo run --example lock_server -- acquire printer --owner ann    # prints the token
//! cargo run --example lock_server -- acquire printer --owner bob --wait
//! cargo run --example lock_server -- release printer --token 0
//! cargo run --example lock_server -- with printer --owner ann -- sh -c 'echo token $LOCK_TOKEN'
//! cargo run --example lock_server -- status
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use ferrolog::client::{
    AppenderOptions, Client, ClientError, Consistency, ConsumeOptions, Consumer, Header,
    LogSettings, Record, Start,
};
use tokio::process::Command;

/// The locks' log.
const LOG: &str = "locks";
/// The header that says what a record is: `acquire` or `release`. The key is the lock's name.
const ACT: &str = "lock.act";
const OWNER: &str = "lock.owner";
const TOKEN: &str = "lock.token";
/// Somebody else holds the lock, or did not hold it.
const EXIT_HELD: u8 = 1;
const EXIT_FAILURE: u8 = 2;

#[derive(Parser)]
#[command(
    about = "Locks in the log",
    after_help = "Exits with 1 if the lock is not had, and with 2 on a failure."
)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Acquire a lock and print its token
    Acquire {
        lock: String,
        #[arg(long)]
        owner: String,
        /// Wait until it is free
        #[arg(long)]
        wait: bool,
    },
    /// Release a lock that was acquired with this token
    Release {
        lock: String,
        #[arg(long)]
        token: u64,
    },
    /// Run a command with the lock held, as soon as it is free; LOCK_TOKEN is set for it
    With {
        lock: String,
        #[arg(long)]
        owner: String,
        /// So many times, each with the lock acquired anew
        #[arg(long, default_value_t = 1)]
        times: u64,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show who holds what
    Status,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    owner: String,
    token: u64,
}

/// Who holds what, as of `next`: the first offset that is not in here.
struct Locks {
    client: Client,
    held: BTreeMap<Bytes, Holder>,
    next: u64,
}

impl Locks {
    /// Reads on up to everything that was acknowledged before the call.
    async fn open(client: &Client) -> anyhow::Result<Self> {
        let mut locks = Self {
            client: client.clone(),
            held: BTreeMap::new(),
            next: 0,
        };
        locks.catch_up().await?;
        Ok(locks)
    }

    fn read(&self, follow: bool) -> Result<Consumer, ClientError> {
        self.client.consume(ConsumeOptions {
            from: Start::Offset(self.next),
            consistency: Consistency::Strong,
            follow,
            ..ConsumeOptions::default()
        })
    }

    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let mut consumer = self.read(false)?;
        while let Some(consumed) = consumer.next().await {
            let consumed = consumed?;
            self.apply(consumed.offset, &consumed.record);
        }
        Ok(())
    }

    /// What holds for one reader of the log holds for all: the same records in the same order.
    fn apply(&mut self, offset: u64, record: &Record) {
        self.next = offset + 1;
        let Some(lock) = record.key.clone() else {
            return;
        };
        let holder = self.held.get(&lock);
        match text(record, ACT) {
            // An `acquire` of a lock that is held means nothing, whoever wrote it.
            Some("acquire") if holder.is_none() => {
                let owner = text(record, OWNER).unwrap_or_default().to_owned();
                let token = offset;
                self.held.insert(lock, Holder { owner, token });
            }
            Some("release") => {
                let token = text(record, TOKEN).and_then(|text| text.parse().ok());
                if holder.is_some_and(|holder| Some(holder.token) == token) {
                    self.held.remove(&lock);
                }
            }
            _ => {}
        }
    }

    fn holder(&self, lock: &str) -> Option<&Holder> {
        self.held.get(lock.as_bytes())
    }

    /// Acquires the lock: returns its token, or who holds it.
    async fn acquire(&mut self, lock: &str, owner: &str) -> anyhow::Result<Result<u64, Holder>> {
        let mut appender = self.client.appender(AppenderOptions::default())?;
        let outcome = loop {
            if let Some(holder) = self.holder(lock) {
                break Err(holder.clone());
            }
            let acquire = record(lock, &[(ACT, "acquire"), (OWNER, owner)]);
            match appender.append_at(self.next, vec![acquire]).await {
                Ok(appended) => break Ok(appended.first_offset),
                // Something came in between: perhaps another one has the lock now.
                Err(ClientError::OffsetDiffers { .. }) => self.catch_up().await?,
                Err(error) => return Err(error.into()),
            }
        };
        appender.close().await;
        Ok(outcome)
    }

    /// Follows the log until nobody holds the lock.
    async fn wait_free(&mut self, lock: &str) -> anyhow::Result<()> {
        let mut consumer = self.read(true)?;
        while self.holder(lock).is_some() {
            let consumed = consumer.next().await;
            let consumed = consumed.context("the log is read no more")??;
            self.apply(consumed.offset, &consumed.record);
        }
        Ok(())
    }

    async fn acquire_when_free(&mut self, lock: &str, owner: &str) -> anyhow::Result<u64> {
        loop {
            match self.acquire(lock, owner).await? {
                Ok(token) => return Ok(token),
                Err(_) => self.wait_free(lock).await?,
            }
        }
    }

    /// False if the lock was not held with this token.
    async fn release(&mut self, lock: &str, token: u64) -> anyhow::Result<bool> {
        self.catch_up().await?;
        if self.holder(lock).is_none_or(|holder| holder.token != token) {
            return Ok(false);
        }
        // Needs no condition: of a lock that has another token by then it means nothing.
        let release = record(lock, &[(ACT, "release"), (TOKEN, &token.to_string())]);
        let mut appender = self.client.appender(AppenderOptions::default())?;
        appender.append(vec![release]).await?;
        appender.close().await;
        Ok(true)
    }
}

fn text<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| header.name == name)?;
    std::str::from_utf8(&header.value).ok()
}

fn record(lock: &str, headers: &[(&str, &str)]) -> Record {
    let headers = headers.iter().map(|(name, value)| Header {
        name: (*name).to_owned(),
        value: Bytes::from((*value).to_owned()),
    });
    Record {
        key: Some(Bytes::from(lock.to_owned())),
        headers: headers.collect(),
        ..Record::default()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_HELD),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// A client of the example's own log, so that a trim of another one takes nothing from it. The first run makes
/// the log.
async fn open_log() -> anyhow::Result<Client> {
    let client = Client::from_env()?;
    let admin = client.admin();
    match admin.get_log(LOG).await {
        Err(ClientError::NoSuchLog { .. }) => admin.create_log(LOG, LogSettings::default()).await,
        known => known,
    }?;
    Ok(client.log(LOG))
}

/// Whether the lock was held.
async fn run(args: Args) -> anyhow::Result<bool> {
    let client = open_log().await?;
    let mut locks = Locks::open(&client).await?;
    match args.action {
        Action::Acquire { lock, owner, wait } => {
            let acquired = match wait {
                true => tokio::select! {
                    token = locks.acquire_when_free(&lock, &owner) => Ok(token?),
                    // A signal within the append itself: status tells whether the lock was had.
                    _ = tokio::signal::ctrl_c() => return Ok(false),
                },
                false => locks.acquire(&lock, &owner).await?,
            };
            match &acquired {
                Ok(token) => println!("{token}"),
                Err(holder) => eprintln!("{} holds it with token {}", holder.owner, holder.token),
            }
            Ok(acquired.is_ok())
        }
        Action::Release { lock, token } => {
            let released = locks.release(&lock, token).await?;
            if !released {
                eprintln!("nobody holds {lock} with token {token}");
            }
            Ok(released)
        }
        Action::With {
            lock,
            owner,
            times,
            command,
        } => with(&mut locks, &lock, &owner, times, &command).await,
        Action::Status => {
            for (lock, Holder { owner, token }) in &locks.held {
                println!("{}\t{owner}\t{token}", String::from_utf8_lossy(lock));
            }
            Ok(true)
        }
    }
}

/// Runs the command with the lock held. Ctrl-C reaches the command too: it ends, and the lock is released.
async fn with(
    locks: &mut Locks,
    lock: &str,
    owner: &str,
    times: u64,
    command: &[String],
) -> anyhow::Result<bool> {
    for _ in 0..times {
        let token = tokio::select! {
            token = locks.acquire_when_free(lock, owner) => token?,
            _ = tokio::signal::ctrl_c() => return Ok(false),
        };
        let child = Command::new(&command[0])
            .args(&command[1..])
            .env("LOCK_TOKEN", token.to_string())
            .status();
        let status = child.await;
        // However the command ended, release the lock for the next one.
        let released = locks.release(lock, token).await?;
        let status = status.with_context(|| format!("run {}", command[0]))?;
        anyhow::ensure!(status.success(), "{} ended with {status}", command[0]);
        anyhow::ensure!(released, "somebody else released {lock}, token {token}");
    }
    Ok(true)
}
