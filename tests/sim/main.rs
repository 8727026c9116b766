//! A world that replays: whole nodes, their network, disks and clocks, clients and faults, all from one seed.

#[path = "../harness"]
#[allow(dead_code, reason = "the checker serves other tests, too")]
mod harness {
    pub mod checker;
}

mod clients;
mod disk;
mod events;
mod judge;
mod judge_order;
mod mutants;
mod nemesis;
mod network;
mod nodes;
mod pipe;
mod plan;
mod run;
mod sweep;
mod system;
mod verdict;

use std::process::ExitCode;

use plan::draw;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    if let Some(seed) = value("--run") {
        let seed = seed.parse().expect("a seed is a number");
        let without = value("--without").unwrap_or_default();
        return run::alone(
            seed,
            &run::Options {
                events_to: value("--events"),
                log: value("--log"),
                leak: value("--leak").map(|name| run::Leak::named(&name).expect("a leak")),
                without: without
                    .split(',')
                    .filter_map(|at| at.parse().ok())
                    .collect(),
            },
        );
    }
    sweep::main(&args)
}
