//! Accounts as logs: what is in an account is the sum of its log, and a transfer is one step in two logs.
//!
//! A record is an amount, as text: `30` came in, `-30` went out. A transfer reads the payer's log strongly, sees that
//! there is enough, and appends to both logs at once, on the condition that the payer's log still ends there. Both
//! get their record, or neither does: no crash, retry or lost leader leaves money on one side alone. Of two
//! transfers that would spend the same money one is refused, reads again, and finds too little.
//!
//! ```text
//! ferrolog dev --dir /tmp/try --base-port 7401      # then, in another terminal:
//! export FERROLOG_SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cd /tmp/try/certs; export FERROLOG_TLS_CA=$PWD/ca.pem FERROLOG_TLS_CERT=$PWD/client.pem \
//!     FERROLOG_TLS_KEY=$PWD/client-key.pem; cd -
//! cargo run --example transfer -- open ann 100
//! cargo run --example transfer -- open bob 0
//! cargo run --example transfer -- move ann bob 30
//! cargo run --example transfer -- show ann          # 70
//! ```

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use ferrolog::client::{
    AppenderOptions, BatchFor, Client, ClientError, Consistency, ConsumeOptions, LogSettings,
    Record,
};
use ferrolog::reason::Reason;

#[derive(Parser)]
#[command(about = "Accounts as logs, and transfers between them in one step")]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Open an account with so much in it
    Open { account: String, amount: u32 },
    /// Move an amount from one account to another
    Move {
        from: String,
        to: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        amount: u32,
    },
    /// Print what is in an account
    Show { account: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<String> {
    let client = Client::from_env()?;
    match args.action {
        Action::Open { account, amount } => {
            open(&client, &account, amount).await?;
            Ok(format!("{account} is open with {amount}"))
        }
        Action::Move { from, to, amount } => {
            transfer(&client, &from, &to, amount).await?;
            Ok(format!("moved {amount} from {from} to {to}"))
        }
        Action::Show { account } => Ok(balance(&client, &account).await?.0.to_string()),
    }
}

/// The log of an account.
fn log_of(account: &str) -> String {
    format!("accounts/{account}")
}

/// Makes the account's log, and puts the first amount into it, unless it has records.
async fn open(client: &Client, account: &str, amount: u32) -> anyhow::Result<()> {
    let log = log_of(account);
    let admin = client.admin();
    let made = admin.create_log(&log, LogSettings::default()).await;
    made.context("make the account's log")?;
    let mut appender = client.log(&log).appender(AppenderOptions::default())?;
    let first = appender.append_at(0, vec![record(amount.into())]).await;
    appender.close().await;
    match first {
        Ok(_) => Ok(()),
        Err(ClientError::OffsetDiffers { .. }) => bail!("{account} was opened before"),
        Err(error) => Err(error).context("put the first amount into the account"),
    }
}

async fn transfer(client: &Client, from: &str, to: &str, amount: u32) -> anyhow::Result<()> {
    let mut appender = client.appender(AppenderOptions::default())?;
    let amount = i64::from(amount);
    loop {
        let (has, next) = balance(client, from).await?;
        if has < amount {
            bail!("{from} has {has}, which is less than {amount}");
        }
        let step = [
            BatchFor::new(log_of(from), vec![record(-amount)]).only_at(next),
            BatchFor::new(log_of(to), vec![record(amount)]),
        ];
        match appender.append_all(&step).await {
            Ok(_) => break,
            // Somebody moved money in between: is there still enough?
            Err(error) if error.reason() == Some(Reason::OffsetDiffers) => {}
            Err(error) => return Err(error).context("append to both accounts"),
        }
    }
    appender.close().await;
    Ok(())
}

fn record(amount: i64) -> Record {
    Record::new(amount.to_string())
}

/// What is in an account, and where its log ends.
async fn balance(client: &Client, account: &str) -> anyhow::Result<(i64, u64)> {
    let options = ConsumeOptions {
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.log(log_of(account)).consume(options)?;
    let (mut sum, mut next) = (0, 0);
    while let Some(read) = consumer.next().await {
        let read = read.with_context(|| format!("read the account of {account}"))?;
        let amount = str::from_utf8(&read.record.value)?;
        sum += amount.parse::<i64>().context("read an amount")?;
        next = read.offset + 1;
    }
    Ok((sum, next))
}
