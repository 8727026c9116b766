//! A replicated key-value store: its state is what the log says, read from the beginning.
//!
//! A write is a record. `cas` and `add` read the whole log strongly, decide, and append on the condition that
//! the log still ends where they read it. If another client wrote in between, they read on and decide again. So no
//! update is lost, with no lock and no server beside the log's own.
//!
//! The log is compacted by key: of each key the last record stays, so that the log is about as long as the store is
//! large, however often keys were set. A deleted key is a record without a value, which goes after a day.
//!
//! ```text
//! ferrolog dev --dir /tmp/try --base-port 7401      # then, in another terminal:
//! export FERROLOG_SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cd /tmp/try/certs; export FERROLOG_TLS_CA=$PWD/ca.pem FERROLOG_TLS_CERT=$PWD/client.pem \
//!     FERROLOG_TLS_KEY=$PWD/client-key.pem; cd -
//! cargo run --example kv -- set colour red
//! cargo run --example kv -- get colour
//! cargo run --example kv -- cas colour red blue
//! cargo run --example kv -- cas --absent shape round
//! cargo run --example kv -- add visits 1 --times 100   # in two terminals at once
//! cargo run --example kv -- watch
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use ferrolog::client::{
    Appender, AppenderOptions, Client, ClientError, Compaction, Consistency, ConsumeOptions,
    LogSettings, Record, Start,
};

/// The store's log.
const LOG: &str = "kv";
/// How long it is told that a key was deleted: a reader that watches is not further behind.
const TOMBSTONE_MS: u64 = 24 * 60 * 60 * 1000;
/// The condition did not hold, or there is no such key.
const EXIT_NO: u8 = 1;
const EXIT_FAILURE: u8 = 2;

#[derive(Parser)]
#[command(
    about = "A key-value store in the log",
    after_help = "Exits with 1 if the key is absent or the condition does not hold, and with 2 on a failure."
)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Set a key, whatever it was
    Set { key: String, value: String },
    /// Print a key's value: at least as new as all that was acknowledged before
    Get { key: String },
    /// Delete a key
    Delete { key: String },
    /// Set a key if it has this value, or none
    Cas {
        key: String,
        /// What it must be now; left out with --absent
        #[arg(required_unless_present = "absent", num_args = 1..=2, value_names = ["EXPECTED", "VALUE"])]
        values: Vec<String>,
        /// Only if there is no such key
        #[arg(long)]
        absent: bool,
    },
    /// Add to a number, which is 0 at first
    Add {
        key: String,
        #[arg(allow_negative_numbers = true)]
        by: i64,
        /// So many times, each an update of its own
        #[arg(long, default_value_t = 1)]
        times: u64,
    },
    /// Print changes as they come, until Ctrl-C
    Watch { key: Option<String> },
}

/// A change of one key: its new value, or `None` if it is deleted.
struct Change {
    key: Bytes,
    value: Option<Bytes>,
}

impl Change {
    /// What a record means to this store; `None` if it has no key, which a log that is compacted takes from nobody.
    fn read(record: &Record) -> Option<Self> {
        let value = (!record.tombstone).then(|| record.value.clone());
        let key = record.key.clone()?;
        Some(Self { key, value })
    }

    fn record(key: &str, value: Option<&str>) -> Record {
        let key = key.to_owned();
        match value {
            Some(value) => Record::new(value.to_owned()).with_key(key),
            None => Record::tombstone(key),
        }
    }
}

/// The store as of `next`: the first offset that it has not seen.
struct Store {
    client: Client,
    values: HashMap<Bytes, Bytes>,
    next: u64,
}

impl Store {
    /// Brings the store up to everything that was acknowledged before the call.
    async fn open(client: &Client) -> anyhow::Result<Self> {
        let mut store = Self {
            client: client.clone(),
            values: HashMap::new(),
            next: 0,
        };
        store.catch_up().await?;
        Ok(store)
    }

    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let mut consumer = self.client.consume(ConsumeOptions {
            from: Start::Offset(self.next),
            consistency: Consistency::Strong,
            ..ConsumeOptions::default()
        })?;
        while let Some(consumed) = consumer.next().await {
            let consumed = consumed.map_err(explain)?;
            self.next = consumed.offset + 1;
            match Change::read(&consumed.record) {
                None => {}
                Some(Change {
                    key,
                    value: Some(value),
                }) => drop(self.values.insert(key, value)),
                Some(Change { key, value: None }) => drop(self.values.remove(&key)),
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Bytes> {
        self.values.get(key.as_bytes())
    }

    /// Appends the change if nothing came since the store was read; false if something did.
    async fn try_append(&self, appender: &mut Appender, record: Record) -> anyhow::Result<bool> {
        match appender.append_at(self.next, vec![record]).await {
            Ok(_) => Ok(true),
            Err(ClientError::OffsetDiffers { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn explain(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Trimmed { .. } => anyhow::Error::new(error)
            .context("the store's beginning is no longer in the log, so its state is not known"),
        _ => error.into(),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(Args::parse()) => outcome,
        // A write that is under way is in the log or not, as a whole.
        _ = tokio::signal::ctrl_c() => Ok(true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NO),
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
        Err(ClientError::NoSuchLog { .. }) => {
            let settings = LogSettings {
                compaction: Some(Compaction {
                    min_age_ms: 0,
                    tombstone_ms: TOMBSTONE_MS,
                }),
                ..LogSettings::default()
            };
            admin.create_log(LOG, settings).await
        }
        known => known,
    }?;
    Ok(client.log(LOG))
}

/// Whether the answer is yes.
async fn run(args: Args) -> anyhow::Result<bool> {
    let client = open_log().await?;
    match args.action {
        Action::Get { key } => match Store::open(&client).await?.get(&key) {
            Some(value) => print(value, b"").map(|()| true),
            None => Ok(false),
        },
        Action::Set { key, value } => append(&client, Change::record(&key, Some(&value))).await,
        Action::Delete { key } => append(&client, Change::record(&key, None)).await,
        Action::Cas {
            key,
            values,
            absent,
        } => match (values.as_slice(), absent) {
            ([expected, value], false) => cas(&client, &key, Some(expected), value).await,
            ([value], true) => cas(&client, &key, None, value).await,
            _ => bail!("give EXPECTED and VALUE, or --absent and VALUE"),
        },
        Action::Add { key, by, times } => add(&client, &key, by, times).await,
        Action::Watch { key } => watch(&client, key.as_deref()).await,
    }
}

fn print(value: &[u8], before: &[u8]) -> anyhow::Result<()> {
    let line = [before, value, b"\n"].concat();
    let mut out = std::io::stdout().lock();
    let written = out.write_all(&line).and_then(|()| out.flush());
    written.context("write to standard output")
}

async fn append(client: &Client, record: Record) -> anyhow::Result<bool> {
    let mut appender = client.appender(AppenderOptions::default())?;
    appender.append(vec![record]).await?;
    appender.close().await;
    Ok(true)
}

async fn cas(
    client: &Client,
    key: &str,
    expected: Option<&String>,
    value: &str,
) -> anyhow::Result<bool> {
    let mut store = Store::open(client).await?;
    let mut appender = client.appender(AppenderOptions::default())?;
    let holds = loop {
        if store.get(key).map(|value| &value[..]) != expected.map(String::as_bytes) {
            break false;
        }
        let record = Change::record(key, Some(value));
        if store.try_append(&mut appender, record).await? {
            break true;
        }
        store.catch_up().await?;
    };
    appender.close().await;
    Ok(holds)
}

async fn add(client: &Client, key: &str, by: i64, times: u64) -> anyhow::Result<bool> {
    let mut store = Store::open(client).await?;
    let mut appender = client.appender(AppenderOptions::default())?;
    let mut done = 0;
    while done < times {
        let number: i64 = match store.get(key) {
            None => 0,
            Some(value) => {
                let number = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                number.with_context(|| format!("{key} is no number"))?
            }
        };
        let sum = number.checked_add(by).context("the sum is too large")?;
        let record = Change::record(key, Some(&sum.to_string()));
        done += u64::from(store.try_append(&mut appender, record).await?);
        store.catch_up().await?;
    }
    appender.close().await;
    Ok(true)
}

async fn watch(client: &Client, key: Option<&str>) -> anyhow::Result<bool> {
    let mut consumer = client.consume(ConsumeOptions {
        from: Start::Latest,
        follow: true,
        ..ConsumeOptions::default()
    })?;
    while let Some(consumed) = consumer.next().await {
        let Some(change) = Change::read(&consumed?.record) else {
            continue;
        };
        if key.is_some_and(|key| key.as_bytes() != change.key) {
            continue;
        }
        match &change.value {
            Some(value) => print(value, &[&change.key[..], b" = "].concat())?,
            None => print(b" deleted", &change.key)?,
        }
    }
    Ok(true)
}
