//! The clients of a simulation: each does one kind of thing, through the real client or by raw calls, until it
//! is told to stop, and writes down what it was told.

mod logs;
mod names;
mod passing;
mod reading;
mod record;
mod selecting;
mod table;
mod together;
mod writing;

use std::time::Duration;

use ferrolog::client::Client;
use ferrolog::env::Random;
use ferrolog::net::stream_layer::StreamLayer;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::network::SimNetwork;
use super::plan::{Work, draw, pick};

pub use logs::{Found, Life, Logs, Stretch};
pub use passing::PASSING;
pub use record::{Record, SharedRecord};
pub use table::{TABLES, read_all as read_table};

/// How long a call of the real client tries.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a raw call is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// What every client has.
#[derive(Clone)]
pub struct Hand {
    pub name: String,
    pub random: Random,
    pub network: SimNetwork,
    /// In an order of its own.
    pub servers: Vec<String>,
    pub work: Work,
    /// The log that it works with.
    pub log: String,
    /// What was told of that log.
    pub record: SharedRecord,
    pub logs: Logs,
    pub stop: watch::Receiver<bool>,
}

impl Hand {
    fn layer(&self) -> StreamLayer {
        self.network.layer(&self.name)
    }

    /// One that speaks to its log.
    pub fn client(&self) -> Client {
        let client = self.network.client(&self.name, &self.servers, TIMEOUT);
        client.log(&*self.log)
    }

    fn is_told_to_stop(&self) -> bool {
        *self.stop.borrow()
    }

    async fn think(&self) {
        let (least, most) = self.work.think_ms;
        tokio::time::sleep(Duration::from_millis(draw(&self.random, least..=most))).await;
    }
}

/// Clients at work.
pub struct Clients {
    running: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Clients {
    pub fn start(
        work: &Work,
        network: &SimNetwork,
        servers: &[String],
        random: &Random,
        logs: &Logs,
    ) -> Self {
        let (stop, told) = watch::channel(false);
        let mut running = Vec::new();
        let mut number = 0;
        let mut hand_for = |is_free: bool| {
            number += 1;
            let random = Random::seeded(random.next_u64());
            let log = match is_free {
                true => pick(&random, &logs.lasting),
                false => logs.default_log().clone(),
            };
            let mut servers = servers.to_vec();
            let first = draw(&random, 0..=servers.len() as u64 - 1) as usize;
            servers.rotate_left(first);
            Hand {
                name: format!("c{number}"),
                random,
                network: network.clone(),
                servers,
                work: work.clone(),
                log: log.name,
                record: log.record,
                logs: logs.clone(),
                stop: told.clone(),
            }
        };
        // What a claim tells is where the default log ends.
        for _ in 0..work.fencers {
            running.push(spawn_local(names::contend(hand_for(false))));
        }
        let mut hand = || hand_for(true);
        for _ in 0..work.producers {
            running.push(spawn_local(writing::produce(hand())));
        }
        for _ in 0..work.appenders {
            running.push(spawn_local(writing::append(hand())));
        }
        for _ in 0..work.senders {
            running.push(spawn_local(writing::send(hand())));
        }
        for _ in 0..work.readers {
            running.push(spawn_local(reading::read(hand())));
        }
        for _ in 0..work.subscribers {
            running.push(spawn_local(reading::subscribe(hand())));
        }
        for _ in 0..work.cursors {
            running.push(spawn_local(names::move_cursor(hand())));
        }
        if work.closes_sessions {
            running.push(spawn_local(names::close_sessions(hand())));
        }
        if work.trims {
            running.push(spawn_local(names::trim(hand())));
        }
        for _ in 0..work.together {
            running.push(spawn_local(together::append(hand())));
        }
        for _ in 0..work.selections {
            running.push(spawn_local(selecting::select(hand())));
        }
        for _ in 0..work.passing {
            running.push(spawn_local(passing::make(hand())));
        }
        for _ in 0..work.tables {
            running.push(spawn_local(table::keep(hand())));
        }
        Self { running, stop }
    }

    /// Has them end; each does once its last call has.
    pub async fn end(self) -> Result<(), String> {
        self.stop.send_replace(true);
        for client in self.running {
            client.await.map_err(|error| format!("a client: {error}"))?;
        }
        Ok(())
    }
}
