//! One run: a seed in a process of its own, from the first draw to the verdict.

use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use ferrolog::client::{BatchFor, Client, ClientError, LogSettings};
use ferrolog::env::{self, Random};
use tokio::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::clients::{Clients, Logs};
use super::events::{self, SOMETIMES};
use super::harness::checker::Outcome;
use super::nemesis::Nemesis;
use super::network::SimNetwork;
use super::nodes::Nodes;
use super::plan::Plan;
use super::sweep::Line;
use super::system;
use super::verdict;

/// Once faults are over, all is well again within this.
pub const WELL_AGAIN: Duration = Duration::from_secs(120);

/// A run takes less than a second, and some a few.
const REAL_MAX: Duration = Duration::from_secs(180);

/// How a seed is run.
#[derive(Debug, Default)]
pub struct Options {
    pub events_to: Option<String>,
    /// Which of the nodes' own log lines to print.
    pub log: Option<String>,
    /// Faults of the plan to leave out, by number.
    pub without: Vec<usize>,
    /// What of the machine is let into the world.
    pub leak: Option<Leak>,
}

/// What differs between two runs of a seed, and must be seen to: the comparison of histories is held to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// The order of hash maps, and the branch that is tried first, are the machine's.
    Chance,
    /// The time of day is the machine's.
    Clock,
}

impl Leak {
    pub const ALL: [(Self, &str); 2] = [(Self::Chance, "chance"), (Self::Clock, "clock")];

    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(leak, its)| (its == name).then_some(leak))
    }
}

/// Runs a seed and prints what came of it.
#[allow(clippy::disallowed_methods, reason = "events may be kept in a file")]
pub fn alone(seed: u64, options: &Options) -> ExitCode {
    if let Some(filter) = &options.log {
        show_lines(filter);
    }
    system::seed(seed);
    if let Some(leak) = options.leak {
        system::leak(leak);
    }
    env::simulate(seed);
    if let Some(path) = &options.events_to {
        events::write_to(File::create(path).expect("a file for the events"));
    }
    watch_the_machines_clock(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let random = Random::seeded(seed);
    let mut plan = Plan::drawn(&random);
    let mut number = 0;
    plan.faults.retain(|_| {
        number += 1;
        !options.without.contains(&(number - 1))
    });
    let (wrong, acked) = tokio::task::LocalSet::new().block_on(&runtime, async {
        system::begin();
        let logs = Logs::new(plan.work.logs);
        let mut wrong = history(&plan, &random, &logs).await;
        if let Some(broken) = futures::FutureExt::now_or_never(ferrolog::tasks::broken()) {
            wrong.insert(0, broken.to_string());
        }
        events::note(format_args!("verdict {wrong:?}"));
        (wrong, logs.acked())
    });
    let told = events::told();
    let place = |what: &&str| told.seen.contains(*what);
    let line = Line {
        digest: told.digest,
        events: told.count,
        simulated_ms: told.lasted.as_millis() as u64,
        acked,
        faults: told
            .faults
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        seen: (0..)
            .zip(&SOMETIMES)
            .filter(|(_, what)| place(what))
            .map(|(at, _)| at)
            .collect(),
    };
    if wrong.is_empty() {
        println!("{}", line.shown());
        // What is left of the nodes need not be taken apart.
        return ExitCode::SUCCESS;
    }
    println!(
        "{plan:#?}\nafter {} ms, digest {:016x}:",
        line.simulated_ms, line.digest
    );
    for wrong in wrong {
        println!("VIOLATION: {wrong}");
    }
    ExitCode::FAILURE
}

/// Ends a run that goes on for too long by the machine's own clock: time stands still in it, or nearly. It is a
/// thread, and touches nothing of the world.
#[allow(clippy::disallowed_methods, reason = "it stands outside of the world")]
fn watch_the_machines_clock(seed: u64) {
    std::thread::spawn(move || {
        // By the second: a time in which the process is stopped is no more than one of them.
        for _ in 0..REAL_MAX.as_secs() {
            std::thread::sleep(Duration::from_secs(1));
        }
        println!("VIOLATION: seed {seed} takes longer than {REAL_MAX:?} of the machine's time");
        std::process::exit(1);
    });
}

/// Shows the nodes' own lines. The filter's maps draw their keys, so it is made on a thread of its own, before the
/// seed's first draw: a run with lines has the history of the one without.
#[allow(clippy::disallowed_methods, reason = "it stands outside of the world")]
fn show_lines(filter: &str) {
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(Elapsed)
        .with_ansi(false);
    let filter = filter.to_owned();
    let begun = std::thread::spawn(move || {
        let filter: Targets = filter.parse().expect("levels, or PART=LEVEL");
        let lines = lines.with_filter(filter);
        tracing_subscriber::registry().with(lines).init();
    });
    begun.join().expect("a filter of lines");
}

/// The simulation's time before each line.
struct Elapsed;

impl FormatTime for Elapsed {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        write!(line, "{}", system::elapsed().as_micros())
    }
}

async fn history(plan: &Plan, random: &Random, logs: &Logs) -> Vec<String> {
    let draw = || Random::seeded(random.next_u64());
    let network = SimNetwork::new(draw());
    let mut nodes = Nodes::new(network.clone(), plan.settings.clone(), draw());
    for _ in 0..plan.settings.nodes {
        nodes.add();
    }
    let servers = nodes.addrs();
    let mut nemesis = Nemesis::new(nodes, draw(), plan.faults.clone());
    if let Err(error) = well(&mut nemesis, 0).await {
        return vec![format!("the cluster did not come up: {error}")];
    }
    let maker = network.client("c0", &servers, Duration::from_secs(60));
    for log in logs.lasting.iter().skip(1) {
        let admin = maker.admin();
        let made = admin.create_log(&log.name, LogSettings::default());
        if let Err(error) = made.await {
            return vec![format!("{} is not made: {error}", log.name)];
        }
    }
    let clients = Clients::start(&plan.work, &network, &servers, &draw(), logs);
    events::load(true);
    nemesis.run(plan.lasts).await;
    events::load(false);
    nemesis.heal();
    events::note("healed");
    let mut wrong = Vec::new();
    let mut ended = tokio::task::spawn_local(clients.end());
    if let Err(error) = well(&mut nemesis, 0).await {
        return vec![format!(
            "it is not well again after {WELL_AGAIN:?}: {error}"
        )];
    }
    let deadline = Instant::now() + WELL_AGAIN;
    let done = loop {
        nemesis.step().await;
        if let Some(done) = futures::FutureExt::now_or_never(&mut ended) {
            break done.unwrap_or_else(|error| Err(error.to_string()));
        }
        if Instant::now() > deadline {
            break Err(format!("a client waits after {WELL_AGAIN:?}"));
        }
    };
    wrong.extend(done.err());
    let client = network.client("c0", &nemesis.nodes.addrs(), Duration::from_secs(60));
    wrong.extend(last_records(&mut nemesis, &client, logs).await.err());
    let next = logs.default_log().record.lock().next;
    if let Err(error) = well(&mut nemesis, next).await {
        wrong.push(format!("not all is applied after {WELL_AGAIN:?}: {error}"));
        return wrong;
    }
    wrong.extend(rewritten(&mut nemesis).await.err());
    wrong.append(&mut nemesis.wrong);
    wrong.append(&mut verdict::of(logs, &nemesis.nodes, &network).await);
    wrong
}

/// Waits until all is well, for a bounded time.
async fn well(nemesis: &mut Nemesis, next: u64) -> Result<(), String> {
    let deadline = Instant::now() + WELL_AGAIN;
    loop {
        nemesis.step().await;
        let state = nemesis.nodes.are_settled(next);
        match state {
            Ok(()) if nemesis.is_at_rest() => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            _ if Instant::now() > deadline => return Err("a removal goes on".to_owned()),
            _ => {}
        }
    }
}

/// Waits until every node has done what was decided on.
async fn rewritten(nemesis: &mut Nemesis) -> Result<(), String> {
    let deadline = Instant::now() + WELL_AGAIN;
    loop {
        match nemesis.nodes.are_rewritten_alike() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => nemesis.step().await,
            Ok(()) => return Ok(()),
        }
    }
}

/// Whatever happened, records are taken now, of each log by itself and of all together.
async fn last_records(nemesis: &mut Nemesis, client: &Client, logs: &Logs) -> Result<(), String> {
    let (client, logs) = (client.clone(), logs.clone());
    let append = async move {
        append_last(&client, &logs)
            .await
            .map_err(|error| error.to_string())
    };
    let mut append = tokio::task::spawn_local(append);
    loop {
        nemesis.step().await;
        if let Some(done) = futures::FutureExt::now_or_never(&mut append) {
            let done = done.unwrap_or_else(|error| Err(error.to_string()));
            return done.map_err(|error: String| format!("no record is taken in the end: {error}"));
        }
    }
}

async fn append_last(client: &Client, logs: &Logs) -> Result<(), ClientError> {
    let random = Random::seeded(0);
    for log in logs.lasting.iter() {
        let mut appender = client.log(&*log.name).appender(Default::default())?;
        let producer = log.record.producer();
        for seq in 0..3 {
            let (batch, values) = log.record.begin(&random, (producer, seq), 1, 10, None);
            let records = values.into_iter().map(Into::into).collect();
            let appended = appender.append(records).await?;
            log.record.end(batch, Outcome::Acked(appended.first_offset));
        }
    }
    let (mut call, mut batches) = (Vec::new(), Vec::new());
    for (place, log) in logs.lasting.iter().enumerate() {
        let producer = log.record.producer();
        let (batch, values) = log.record.begin(&random, (producer, 0), 2, 10, None);
        call.push((place, batch));
        let records = values.into_iter().map(Into::into).collect();
        batches.push(BatchFor::new(&*log.name, records));
    }
    logs.several().calls.push(call.clone());
    let mut appender = client.appender(Default::default())?;
    for ((place, batch), appended) in call.iter().zip(appender.append_all(&batches).await?) {
        let outcome = Outcome::Acked(appended.first_offset);
        logs.lasting[*place].record.end(*batch, outcome);
    }
    Ok(())
}
