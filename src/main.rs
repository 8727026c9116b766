//! The program: parses the command line, runs the command, and turns its outcome into an exit code.

use std::process::ExitCode;
use std::time::Duration;

use ferrolog::cli::Cli;
use ferrolog::stderr;
use ferrolog::tasks;
use mimalloc::MiMalloc;

/// Gives back to the system what was freed, whichever thread freed it: glibc's allocator would keep blocks of up
/// to 32 MiB with each thread, 100 to 150 MiB in all. It is faster, too.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A read of standard input cannot be interrupted, and must not hold the end of the program.
const BLOCKED_THREADS_MAX: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    tasks::end_process_on_panic();
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    cli.start_log();
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
