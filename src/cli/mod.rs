//! The command line: the commands, the tools that run a cluster on this machine, and what both share.
//!
//! Results go to standard output, as text or as JSON; progress, logs and errors to standard error. A failure
//! says what failed, why, and what to do next, and its kind is the exit code.

mod advice;
mod commands;
pub mod connection;
mod exit;
mod feeder;
mod files;
pub mod logging;
pub mod output;
mod record_format;
mod records;
mod signals;
mod tools;

pub use tools::local_cluster;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use crate::client::ClientError;
use crate::config::ConfigError;
use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::json;

use commands::{
    about, certs, cluster, config, consume, cursor, doctor, fence, health, log, policy, produce,
    serve, session,
};
use connection::ConnectionArgs;
use exit::{EXIT_DOUBT, EXIT_FAILURE, EXIT_SHORT, EXIT_TIMEOUT, EXIT_USAGE, UsageError};
use output::{Format, help};
use signals::{Interrupted, Signals};
use tools::{bench, dev, trial};

const HELP: &str = "\
Exit codes:
  0  done
  1  it failed; standard error says why
  2  the command line is wrong
  3  no server answered, or nothing moved, for as long as --timeout says
  4  consume: the node holds more than it can tell to be committed; standard error says how far
  5  it may have been done or not, and nobody could tell: look before it is done again
  6  cluster status, doctor: there is no quorum, so nothing can be committed
  129, 130, 143
     SIGHUP, SIGINT, SIGTERM ended it; produce says how far it came
  101  a fault of ferrolog itself: report what standard error says

Environment:
  FERROLOG_SERVERS, FERROLOG_TLS_CA, FERROLOG_TLS_CERT, FERROLOG_TLS_KEY, FERROLOG_INSECURE
                stand for the options of the same names; one that is set to nothing is not set
  FERROLOG_LOG_NAME
                stands for --log: which log is appended to, read or trimmed
  FERROLOG_LOG_LEVEL, FERROLOG_LOG_FORMAT
                what is logged to standard error, such as `debug` or `info,ferrolog::raft=trace`; and how, `text` or `json`
  NO_COLOR      if set, no colours

Start here:
  ferrolog dev          three nodes on this machine, and what to try with them";

/// A distributed commit log: an acknowledged record is synced on a majority of nodes
#[derive(Debug, Parser)]
#[command(name = "ferrolog", version, after_help = HELP, max_term_width = 100)]
pub struct Cli {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    logging: logging::LoggingArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(Box<serve::ServeArgs>),
    /// Append records from a file or standard input
    Produce(produce::ProduceArgs),
    /// Read records
    Consume(consume::ConsumeArgs),
    /// Show and move consumers' named positions
    Cursor(cursor::CursorArgs),
    /// Show the names that are claimed, and delete some
    Fence(fence::FenceArgs),
    /// Show the sessions of producers, and close some
    Session(session::SessionArgs),
    /// Show and change the cluster
    Cluster(cluster::ClusterArgs),
    /// Name what is wrong with the cluster, and the command to type next
    Doctor(doctor::DoctorArgs),
    /// Tell whether one node serves: for probes
    Health(health::HealthArgs),
    /// Make, list and delete logs, trim one, say how much is kept, check and print a node's files
    Log(log::LogArgs),
    /// Check a policy of rights, and tell which line decides
    Policy(policy::PolicyArgs),
    /// Make a certificate authority, and certificates of nodes and clients
    Certs(certs::CertsArgs),
    /// Check a node's settings without starting it, and show where each comes from
    Config(config::ConfigArgs),
    /// Run a cluster on this machine until Ctrl-C
    Dev(dev::DevArgs),
    /// Prove on this machine that nothing is lost when the leader dies
    Trial(trial::TrialArgs),
    /// Measure a cluster
    Bench(bench::BenchArgs),
    /// Say which version this is, and with which others it works
    #[command(after_help = about::VERSION_HELP)]
    Version,
    /// Print a script by which a shell completes commands and options
    Completions(about::CompletionsArgs),
    /// Print the manual, or write its pages
    Man(about::ManArgs),
}

impl Cli {
    /// Reads the command line. Otherwise what is wrong with it is told, or what was asked of it, and the program is to end
    /// with this code.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        let matches = without_blank_variables(Self::whole()).try_get_matches();
        let read = matches.and_then(|matches| Self::from_arg_matches(&matches));
        read.map_err(|error| {
            // Help and the version are errors, too, and are what was asked for.
            if !error.use_stderr() {
                // Nobody may be there to read it.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            if asks_for_json(std::env::args_os()) {
                let text = error.to_string();
                let text = text.trim().trim_start_matches("error: ");
                output::say(&json!({ "error": text, "exit_code": EXIT_USAGE }).to_string());
                crate::stderr::flush();
            } else {
                let _ = error.print();
            }
            ExitCode::from(EXIT_USAGE)
        })
    }

    /// The command line with its whole help.
    fn whole() -> clap::Command {
        help::with_examples(Self::command())
    }

    /// Starts the log of this process. A node tells more than a command.
    pub fn start_log(&self) {
        logging::start(&self.logging, matches!(self.command, Command::Serve(_)));
    }

    /// Runs the command and prints its outcome. Needs a tokio runtime.
    pub async fn run(self) -> ExitCode {
        let format = self.output;
        let connection = self.command.connection().cloned();
        let outcome = match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Produce(args) => done(produce::run(args, format).await),
            Command::Consume(args) => done(consume::run(args, format).await),
            Command::Cursor(args) => done(cursor::run(args, format).await),
            Command::Fence(args) => done(fence::run(args, format).await),
            Command::Session(args) => done(session::run(args, format).await),
            Command::Cluster(args) => cluster::run(args, format).await,
            Command::Doctor(args) => doctor::run(args, format).await,
            Command::Health(args) => health::run(args, format).await,
            Command::Log(args) => log::run(args, format).await,
            Command::Policy(args) => policy::run(args, format),
            Command::Certs(args) => done(certs::run(&args, format)),
            Command::Config(args) => config::run(args, format).await,
            Command::Dev(args) => dev::run(args, format).await,
            Command::Trial(args) => done(interruptible(trial::run(args, format)).await),
            Command::Bench(args) => done(interruptible(bench::run(args, format)).await),
            Command::Version => done(about::version(format)),
            Command::Completions(args) => done(about::completions(&args, Self::whole())),
            Command::Man(args) => done(about::man(&args, Self::whole(), format)),
        };
        let error = match outcome {
            Ok(code) => return code,
            Err(error) => error,
        };
        let looks = matches!(exit_code(&error), EXIT_TIMEOUT | EXIT_DOUBT);
        let seen = match connection.filter(|_| looks) {
            Some(connection) => advice::who_answers(&connection).await,
            None => None,
        };
        report(&error, seen, format)
    }
}

impl Command {
    /// How the command reaches a cluster, if it calls one that it did not start.
    fn connection(&self) -> Option<&ConnectionArgs> {
        match self {
            Self::Produce(args) => Some(args.connection()),
            Self::Consume(args) => Some(args.connection()),
            Self::Cursor(args) => Some(args.connection()),
            Self::Fence(args) => Some(args.connection()),
            Self::Session(args) => Some(args.connection()),
            Self::Cluster(args) => Some(args.connection()),
            Self::Log(args) => args.connection(),
            // These look for themselves.
            Self::Doctor(_) | Self::Health(_) => None,
            Self::Serve(_)
            | Self::Policy(_)
            | Self::Certs(_)
            | Self::Config(_)
            | Self::Dev(_)
            | Self::Trial(_)
            | Self::Bench(_)
            | Self::Version
            | Self::Completions(_)
            | Self::Man(_) => None,
        }
    }
}

/// Whether results are wanted as JSON, of a command line that cannot be read.
fn asks_for_json(words: impl Iterator<Item = OsString>) -> bool {
    let mut before = OsString::new();
    words.into_iter().any(|word| {
        let is_it = word == "--output=json" || (before == "--output" && word == "json");
        before = word;
        is_it
    })
}

/// A variable of the environment that is set to nothing is not set: a template leaves it so.
fn without_blank_variables(command: clap::Command) -> clap::Command {
    let is_blank = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.to_str().is_some_and(|text| text.trim().is_empty()))
    };
    let command = command.mut_args(|arg| match is_blank(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(without_blank_variables)
}

fn done(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Ends a command that has child processes when it is interrupted, so that they end with it.
async fn interruptible(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        outcome = command => outcome,
        told = signals.next() => Err(told.into()),
    }
}

/// Prints the error and what is `seen` of the nodes, and picks the exit code.
fn report(error: &anyhow::Error, seen: Option<String>, format: Format) -> ExitCode {
    if is_broken_pipe(error) {
        // The reader of our output has closed it: it has read what it wanted, so this is no failure.
        return ExitCode::SUCCESS;
    }
    let code = exit_code(error);
    // The causes, without those that a message already quotes.
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text = match (seen, advice::of(error)) {
        (Some(seen), _) => format!("{text}. {seen}"),
        (None, Some(advice)) => format!("{text}; {advice}"),
        (None, None) => text,
    };
    let unfinished = error.downcast_ref::<feeder::Unfinished>();
    output::say(&match (format, unfinished) {
        (Format::Text, _) => format!("error: {text}"),
        (Format::Json, None) => json!({ "error": text, "exit_code": code }).to_string(),
        (Format::Json, Some(unfinished)) => {
            let mut told = unfinished.to_json();
            told["error"] = text.into();
            told["exit_code"] = code.into();
            told.to_string()
        }
    });
    ExitCode::from(code)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    type Cause<'a> = &'a (dyn std::error::Error + 'static);
    let client = |cause: Cause<'_>, is: fn(&ClientError) -> bool| {
        cause.downcast_ref::<ClientError>().is_some_and(is)
    };
    let is_timeout = |cause: Cause<'_>| client(cause, ClientError::is_timeout);
    let is_doubt = |cause: Cause<'_>| client(cause, ClientError::is_doubt);
    let is_setting = |cause: Cause<'_>| cause.is::<ConfigError>();
    if error.downcast_ref::<UsageError>().is_some() || error.chain().any(is_setting) {
        EXIT_USAGE
    } else if error.downcast_ref::<consume::StoppedShort>().is_some() {
        EXIT_SHORT
    } else if let Some(told) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Interrupted>())
    {
        told.exit_code()
    } else if error.chain().any(is_doubt) {
        EXIT_DOUBT
    } else if error.chain().any(is_timeout) {
        EXIT_TIMEOUT
    } else {
        EXIT_FAILURE
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io_error)
}

#[cfg(test)]
mod pages_tests;
#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn whoever_wants_json_gets_it_for_a_command_line_that_cannot_be_read() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        assert!(asks("ferrolog --output json consume --form 3"));
        assert!(asks("ferrolog consume --form 3 --output=json"));
        assert!(!asks("ferrolog consume json --output text"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Two of one id are one to the parser: the global one would be given the other's value.
    #[test]
    fn no_argument_has_the_id_of_a_global_one_above_it() {
        fn check(command: &clap::Command, above: &[String]) {
            let id = |arg: &Arg| arg.get_id().to_string();
            let mut global = above.to_vec();
            for arg in command.get_arguments() {
                let (name, id) = (command.get_name(), id(arg));
                assert!(!above.contains(&id), "{name} has a second {id}");
                global.extend(arg.is_global_set().then_some(id));
            }
            command
                .get_subcommands()
                .for_each(|sub| check(sub, &global));
        }
        check(&Cli::command(), &[]);
    }

    #[test]
    fn the_kind_of_an_error_is_the_exit_code() {
        let stalled = ClientError::Stalled {
            servers: "a:1".into(),
            seconds: 1,
            cause: "x".into(),
        };
        assert_eq!(
            exit_code(&anyhow::Error::new(stalled).context("produce")),
            EXIT_TIMEOUT
        );
        assert_eq!(exit_code(&ClientError::OutcomeUnknown.into()), EXIT_DOUBT);
        assert_eq!(exit_code(&UsageError("x".into()).into()), EXIT_USAGE);
        assert_eq!(exit_code(&ClientError::Closed.into()), EXIT_FAILURE);
        let short = consume::StoppedShort { end: 3, held: 5 };
        assert_eq!(exit_code(&short.into()), EXIT_SHORT);
        let closed: Result<(), _> = Err(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&closed.context("write").unwrap_err()));
    }
}
