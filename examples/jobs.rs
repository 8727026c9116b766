//! A job system: jobs and their results are records; of all runners one at a time does the work.
//!
//! Runners follow the log. The one that leads says so every second by a record. When it is silent for too long,
//! another one claims the next epoch, and leads. From that claim on every node refuses what the old runner still
//! sends: it may have been paused in the middle of an append, and may not know of the claim. So a job may be
//! started twice, and has one result. Time decides when a runner claims, and never which one may write.
//!
//! ```text
//! ferrolog dev --dir /tmp/try --base-port 7401      # then, in another terminal:
//! export FERROLOG_SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cd /tmp/try/certs; export FERROLOG_TLS_CA=$PWD/ca.pem FERROLOG_TLS_CERT=$PWD/client.pem \
//!     FERROLOG_TLS_KEY=$PWD/client-key.pem; cd -
//! cargo run --example jobs -- run --name a      # in one terminal
//! cargo run --example jobs -- run --name b      # in another
//! cargo run --example jobs -- submit 'sleep 2; date' 'uname -a'
//! cargo run --example jobs -- list
//! kill -STOP the one that leads; see the other take over; kill -CONT it: it says that it is fenced, and ends
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use ferrolog::client::{
    Appender, AppenderOptions, Claim, Client, ClientError, Consistency, ConsumeOptions,
    ConsumedRecord, Fence, Header, Record, Start,
};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

const FENCE: &str = "jobs";
/// The header that says what a record is: `submit`, `alive` or `done`.
const ACT: &str = "jobs.act";
/// The header of `alive` and `done` that says under which epoch a runner wrote them.
const EPOCH: &str = "jobs.epoch";
/// The header of `done` that holds the offset of the job.
const JOB: &str = "jobs.job";
/// The header of `done` that holds the exit code.
const EXIT: &str = "jobs.exit";
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
const ALIVE_EVERY: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(
    about = "Jobs in the log",
    after_help = "Ctrl-C ends a runner; another one does its job again."
)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Append jobs: commands of a shell. Prints their numbers
    Submit { commands: Vec<String> },
    /// Do jobs, or stand by for the runner that does
    Run {
        #[arg(long)]
        name: String,
        /// Take over when the runner that leads is silent for so long
        #[arg(long, default_value_t = 5000, value_name = "MS")]
        patience: u64,
    },
    /// Show all jobs and their results
    List,
}

/// What the log says of the jobs.
#[derive(Default)]
struct Jobs {
    commands: BTreeMap<u64, String>,
    done: BTreeMap<u64, (String, Bytes)>,
    /// The highest epoch that wrote something.
    epoch: u64,
    /// The first offset that is not in here.
    next: u64,
}

impl Jobs {
    /// Takes in a record; true if it is a sign of life of the runner that leads.
    fn apply(&mut self, consumed: &ConsumedRecord) -> bool {
        self.next = consumed.offset + 1;
        let record = &consumed.record;
        let number = |name| text(record, name).and_then(|text| text.parse::<u64>().ok());
        match text(record, ACT) {
            Some("submit") => {
                let command = String::from_utf8_lossy(&record.value).into_owned();
                self.commands.insert(consumed.offset, command);
                return false;
            }
            Some("done") => {
                let exit = text(record, EXIT).unwrap_or_default().to_owned();
                if let Some(job) = number(JOB) {
                    let output = record.value.clone();
                    self.done.entry(job).or_insert((exit, output));
                }
            }
            Some("alive") => {}
            _ => return false,
        }
        let epoch = number(EPOCH).unwrap_or(0);
        self.epoch = self.epoch.max(epoch);
        epoch == self.epoch
    }

    /// The first job without a result, beside those that `begun` names.
    fn pending(&self, begun: &BTreeSet<u64>) -> Option<(u64, &String)> {
        let mut jobs = self.commands.iter();
        let job = jobs.find(|(job, _)| !self.done.contains_key(job) && !begun.contains(job));
        job.map(|(job, command)| (*job, command))
    }
}

fn text<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| header.name == name)?;
    std::str::from_utf8(&header.value).ok()
}

fn record(act: &str, more: &[(&str, &str)], value: impl Into<Bytes>) -> Record {
    let act = [(ACT, act)];
    let headers = act.iter().chain(more).map(|(name, value)| Header {
        name: (*name).to_owned(),
        value: Bytes::from((*value).to_owned()),
    });
    Record {
        value: value.into(),
        headers: headers.collect(),
        ..Record::default()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(Args::parse()) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::from_env()?;
    match args.action {
        Action::Submit { commands } => submit(&client, commands).await,
        Action::List => list(&client).await,
        Action::Run { name, patience } => {
            let patience = Duration::from_millis(patience);
            let mut runner = Runner::new(client, name)?;
            let claim = runner.stand_by(patience).await?;
            runner.lead(claim).await
        }
    }
}

async fn submit(client: &Client, commands: Vec<String>) -> anyhow::Result<()> {
    let mut appender = client.appender(AppenderOptions::default())?;
    for command in commands {
        let appended = appender.append(vec![record("submit", &[], command)]);
        println!("{}", appended.await?.first_offset);
    }
    appender.close().await;
    Ok(())
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let mut consumer = client.consume(ConsumeOptions {
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    })?;
    let mut jobs = Jobs::default();
    while let Some(consumed) = consumer.next().await {
        jobs.apply(&consumed?);
    }
    for (job, command) in &jobs.commands {
        let (state, output) = match jobs.done.get(job) {
            Some((exit, output)) => (format!("exit {exit}"), String::from_utf8_lossy(output)),
            None => ("waiting".to_owned(), "".into()),
        };
        println!("{job}\t{state}\t{command}\t{}", output.trim_end());
    }
    Ok(())
}

/// A process that does jobs when it leads.
struct Runner {
    client: Client,
    name: String,
    records: mpsc::Receiver<Result<ConsumedRecord, ClientError>>,
    jobs: Jobs,
}

impl Runner {
    fn new(client: Client, name: String) -> anyhow::Result<Self> {
        let mut consumer = client.consume(ConsumeOptions {
            from: Start::Earliest,
            follow: true,
            ..ConsumeOptions::default()
        })?;
        // A task of its own reads, so that a wait for a record can be given up without harm.
        let (sender, records) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Some(consumed) = consumer.next().await {
                if sender.send(consumed).await.is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            client,
            name,
            records,
            jobs: Jobs::default(),
        })
    }

    /// Takes in a record; true if it is a sign of life of the runner that leads.
    fn take(&mut self, read: Option<Result<ConsumedRecord, ClientError>>) -> anyhow::Result<bool> {
        let consumed = read.context("the log is read no more")??;
        Ok(self.jobs.apply(&consumed))
    }

    /// Follows the log until the runner that leads is silent, and this one has claimed the next epoch.
    async fn stand_by(&mut self, patience: Duration) -> anyhow::Result<Claim> {
        let admin = self.client.admin();
        let (mut epoch, holder) = admin.epoch(FENCE).await?;
        if epoch > 0 {
            eprintln!("{}: stands by; {holder} leads as epoch {epoch}", self.name);
        }
        let mut heard = Instant::now();
        loop {
            let silent = epoch == 0 || heard.elapsed() >= patience;
            if silent {
                let (present, _) = admin.epoch(FENCE).await?;
                if present == epoch {
                    match admin.claim_epoch(FENCE, &self.name, Some(epoch)).await {
                        Ok(claim) => return Ok(claim),
                        // Another one was faster: it leads, and is heard soon.
                        Err(ClientError::EpochDiffers { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                (epoch, _) = admin.epoch(FENCE).await?;
                heard = Instant::now();
            }
            tokio::select! {
                read = self.records.recv() => {
                    if self.take(read)? {
                        heard = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(heard + patience) => {}
            }
        }
    }

    /// Does jobs until another runner claims.
    async fn lead(&mut self, claim: Claim) -> anyhow::Result<()> {
        eprintln!(
            "{}: leads as epoch {} from offset {}",
            self.name, claim.epoch, claim.next_offset
        );
        // Results of earlier runners stand before the claim in the log. A job without one by then is to be done.
        while self.jobs.next < claim.next_offset {
            let read = self.records.recv().await;
            self.take(read)?;
        }
        let appender = self.client.appender(AppenderOptions {
            fence: Some(Fence {
                name: FENCE.to_owned(),
                epoch: claim.epoch,
            }),
            ..AppenderOptions::default()
        })?;
        match self.work(appender, claim.epoch).await {
            Err(error) if is_fenced(&error) => {
                let about = format!(
                    "{} is fenced: it led as epoch {}, and another runner took over. It writes no more",
                    self.name, claim.epoch
                );
                Err(error.context(about))
            }
            outcome => outcome,
        }
    }

    async fn work(&mut self, mut appender: Appender, epoch: u64) -> anyhow::Result<()> {
        let epoch = epoch.to_string();
        let mut beat = tokio::time::interval(ALIVE_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One job at a time; dropping the set kills what still runs.
        let mut running = JoinSet::new();
        let mut begun = BTreeSet::new();
        loop {
            if running.is_empty()
                && let Some((job, command)) = self.jobs.pending(&begun)
            {
                eprintln!("{}: job {job} begins", self.name);
                begun.insert(job);
                running.spawn(execute(job, command.clone()));
            }
            tokio::select! {
                read = self.records.recv() => drop(self.take(read)?),
                _ = beat.tick() => {
                    let alive = record("alive", &[(EPOCH, &epoch)], "");
                    appender.append(vec![alive]).await?;
                }
                Some(ended) = running.join_next() => {
                    let (job, exit, output) = ended.context("a job's task")??;
                    let headers = [(EPOCH, &*epoch), (JOB, &job.to_string()), (EXIT, &exit)];
                    appender.append(vec![record("done", &headers, output)]).await?;
                    eprintln!("{}: job {job} ended with {exit}", self.name);
                }
            }
        }
    }
}

fn is_fenced(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ClientError>();
    matches!(error, Some(ClientError::Fenced { .. }))
}

/// Runs a command of a shell; answers with the job, its exit code and what it printed.
async fn execute(job: u64, command: String) -> anyhow::Result<(u64, String, Bytes)> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &command])
        .env("JOB", job.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = shell.output().await;
    let output = output.with_context(|| format!("start a shell for job {job}"))?;
    let exit = match output.status.code() {
        Some(code) => code.to_string(),
        None => "a signal".to_owned(),
    };
    let mut printed = output.stdout;
    printed.truncate(OUTPUT_BYTES_MAX);
    Ok((job, exit, printed.into()))
}
