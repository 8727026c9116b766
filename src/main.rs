//! The program: parses the command line, runs the command, and turns its outcome into an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use ferrolog::cli::Cli;
use ferrolog::stderr::{self, LogLine};
use ferrolog::tasks;
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

/// Gives back to the system what was freed, whichever thread freed it: glibc's allocator would keep blocks of up
/// to 32 MiB with each thread, 100 to 150 MiB in all. It is faster, too.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A read of standard input cannot be interrupted, and must not hold the end of the program.
const BLOCKED_THREADS_MAX: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    tasks::end_process_on_panic();
    let cli = Cli::from_command_line();
    init_logging(cli.log_level());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli.run());
            runtime.shutdown_timeout(BLOCKED_THREADS_MAX);
            code
        }
        Err(error) => {
            stderr::say(&format!("error: start the async runtime: {error}"));
            ExitCode::FAILURE
        }
    };
    stderr::flush();
    code
}

/// Half the cores: a record passes through many short tasks, which lose more by moving between
/// threads than they gain, and the log's writer and its reads have threads of their own.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Logs go to standard error: standard output is for results.
fn init_logging(level: &str) {
    // The engine tells of every try to reach a peer that is down.
    let usual = format!("{level},openraft=error");
    let asked = std::env::var("FERROLOG_LOG_LEVEL").unwrap_or_default();
    // What is set to nothing is not set.
    let asked = Some(asked).filter(|asked| !asked.trim().is_empty());
    let filter = asked.and_then(|asked| EnvFilter::try_new(asked).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(usual));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLine)
        // Its own report of a failure would go to standard error by a call that panics.
        .log_internal_errors(false)
        .with_ansi(!is_plain && std::io::stderr().is_terminal())
        .init();
}
