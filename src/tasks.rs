//! Tasks and threads by name: none of them ends unseen.
//!
//! A panic takes one task along and leaves the rest: a log whose writer is gone acknowledges
//! nothing, a port whose accept loop is gone takes nobody, and the process looks alive. So a panic
//! in any thread ends the program ([`end_process_on_panic`]), at once, as a crash would, which
//! loses nothing that was acknowledged. Where a program embeds a node and keeps its own hook,
//! [`broken`] tells what broke, and [`Agent::failed`](crate::agent::Agent::failed) passes it on.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{env, stderr};

/// What a program ends with after a panic, as Rust's own do.
const EXIT_PANIC: i32 = 101;
/// How long work that leaves the runtime's threads is under way before it is done, in a simulation.
const SIMULATED_US_MAX: u64 = 2000;

static BROKEN: LazyLock<watch::Sender<Option<Broken>>> = LazyLock::new(|| watch::channel(None).0);

thread_local! {
    /// What this thread works on.
    static NAME: Cell<&'static str> = const { Cell::new("") };
    /// Whether a panic here is expected, and dealt with by whoever called.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    /// In a simulation, the process that the running task belongs to.
    static PROCESS: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A process of a simulation, which has many in one thread. Tasks belong to the process of the task that spawned
/// them, and stand still while it is frozen; clocks go on.
#[derive(Debug, Clone, Default)]
pub struct Process(Arc<Mutex<Frozen>>);

#[derive(Debug, Default)]
struct Frozen {
    is_frozen: bool,
    /// Who wanted to go on meanwhile.
    waiting: Vec<Waker>,
}

impl Process {
    /// Stops all tasks of the process where they are, or lets them go on.
    pub fn freeze(&self, is_frozen: bool) {
        let mut frozen = self.0.lock();
        frozen.is_frozen = is_frozen;
        if !is_frozen {
            let waiting = std::mem::take(&mut frozen.waiting);
            drop(frozen);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether it stands still; who asks is woken once it does not.
    pub fn stands_still(&self, context: &Context<'_>) -> bool {
        let frozen = &mut *self.0.lock();
        if frozen.is_frozen {
            frozen.waiting.push(context.waker().clone());
        }
        frozen.is_frozen
    }

    /// Has the task and those that it spawns belong to the process.
    pub async fn run<T>(self, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        poll_fn(|context| Self::poll(Some(&self), context, task.as_mut())).await
    }

    /// The process of the task at work.
    fn current() -> Option<Self> {
        PROCESS.with_borrow(Clone::clone)
    }

    fn poll<T>(
        process: Option<&Self>,
        context: &mut Context<'_>,
        task: Pin<&mut impl Future<Output = T>>,
    ) -> Poll<T> {
        let Some(process) = process else {
            return task.poll(context);
        };
        if process.stands_still(context) {
            return Poll::Pending;
        }
        let before = PROCESS.replace(Some(process.clone()));
        let polled = task.poll(context);
        PROCESS.set(before);
        polled
    }
}

/// A task that a node cannot do without is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its task {task:?} {why}; the node cannot go on without it: this is a fault of ferrolog, report it"
)]
pub struct Broken {
    /// The task.
    pub task: &'static str,
    /// What became of it.
    pub why: String,
}

/// Runs a task on the present runtime.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    spawn_on(&Handle::current(), name, task)
}

/// Runs a task on this runtime.
pub fn spawn_on<T: Send + 'static>(
    runtime: &Handle,
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    match Process::current() {
        Some(process) => runtime.spawn(process.run(watched(name, task))),
        None => runtime.spawn(watched(name, task)),
    }
}

/// Runs a task that goes on for as long as it is not aborted: its end is a failure, too.
pub fn spawn_endless(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    spawn_endless_on(&Handle::current(), name, task)
}

/// Runs a task on `runtime` that goes on for as long as it is not aborted.
pub fn spawn_endless_on(
    runtime: &Handle,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    spawn_on(runtime, name, async move {
        task.await;
        report(name, "ended, though nothing told it to".to_owned());
    })
}

/// Runs work that waits for the disk, or computes for long, off the runtime's own threads. A simulation has one
/// thread: there it is done a moment later, at once.
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    spawn_blocking_on(&Handle::current(), name, work)
}

/// Does blocking work on the blocking threads of `runtime`.
pub fn spawn_blocking_on<T: Send + 'static>(
    runtime: &Handle,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    if env::is_simulated() {
        let late = Duration::from_micros(env::random_u64() % SIMULATED_US_MAX);
        return spawn_on(runtime, name, async move {
            tokio::time::sleep(late).await;
            work()
        });
    }
    runtime.spawn_blocking(move || run(name, work))
}

/// Runs work on a thread of its own.
#[allow(clippy::disallowed_methods, reason = "the home of threads")]
pub fn spawn_thread(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(name, work))
}

/// A task whose panic is told, for whoever spawns it by other means.
pub async fn watched<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let mut task = pin!(AssertUnwindSafe(task).catch_unwind());
    let ended = poll_fn(|context| {
        let _named = Named::enter(name);
        task.as_mut().poll(context)
    });
    settle(name, ended.await)
}

/// Tells that a task which nobody ended is gone. The first one is the cause of what follows.
pub fn report(task: &'static str, why: String) {
    BROKEN.send_if_modified(|broken| {
        let is_first = broken.is_none();
        broken.get_or_insert(Broken { task, why });
        is_first
    });
}

/// Waits until a task is gone that must not be.
pub async fn broken() -> Broken {
    let mut broken = BROKEN.subscribe();
    let broken = broken.wait_for(Option::is_some).await;
    let broken = broken.expect("the sender is static");
    broken.clone().expect("it was waited for")
}

/// Runs work that may panic on damaged input, and says what it said.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let ended = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    ended.map_err(|panic| words(&*panic).to_owned())
}

/// From now on a panic in any thread ends the process: what happened goes to standard error, and
/// the exit code is 101.
pub fn end_process_on_panic() {
    set_hook(Box::new(|panic| {
        if EXPECTED.try_with(Cell::get).unwrap_or(false) {
            return;
        }
        stderr::say(&told(panic));
        stderr::flush();
        #[allow(
            clippy::disallowed_methods,
            reason = "what a panic left half done is trusted by nobody, destructors among them"
        )]
        std::process::exit(EXIT_PANIC);
    }));
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let task = NAME.try_with(Cell::get).unwrap_or_default();
    let task = match task {
        "" => String::new(),
        task => format!(" in its task {task:?}"),
    };
    let place = panic.location().map(|place| format!(" at {place}"));
    let place = place.unwrap_or_default();
    let said = words(panic.payload());
    let trace = std::backtrace::Backtrace::capture();
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
        _ => String::new(),
    };
    format!(
        "error: ferrolog panicked{task}{place}: {said}. It ends, since nothing may go on half alive; \
         what was acknowledged is on disk. This is a fault of ferrolog: report it{trace}"
    )
}

fn run<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let _named = Named::enter(name);
    settle(name, catch_unwind(AssertUnwindSafe(work)))
}

fn settle<T>(name: &'static str, ended: std::thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| {
        report(name, format!("panicked: {}", words(&*panic)));
        // Whoever waits for the task learns that it has no result.
        resume_unwind(panic)
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given")
}

/// The thread's name for what it works on, until dropped.
struct Named(&'static str);

impl Named {
    fn enter(name: &'static str) -> Self {
        Self(NAME.replace(name))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        NAME.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_task_learns_of_its_panic_and_so_does_the_node() {
        let task = spawn("a task", async { panic!("on purpose") });
        assert!(task.await.unwrap_err().is_panic());
        let broken = broken().await;
        assert_eq!(broken.task, "a task");
        assert_eq!(broken.why, "panicked: on purpose");
        // Those that follow do not hide the cause.
        let work = spawn_blocking("work", || panic!("later"));
        assert!(work.await.unwrap_err().is_panic());
        let thread = spawn_thread("thread", || panic!("later")).unwrap();
        assert!(thread.join().is_err());
        assert_eq!(super::broken().await, broken);
    }

    #[tokio::test(start_paused = true)]
    async fn the_tasks_of_a_frozen_process_stand_still_and_others_go_on() {
        let (process, other) = (Process::default(), Process::default());
        let count = |process: &Process| {
            let (counted, seen) = watch::channel(0);
            let counting = process.clone().run(async move {
                // A task that belongs to the process because the one that spawned it does.
                spawn("counter", async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        counted.send_modify(|count| *count += 1);
                    }
                });
            });
            (tokio::spawn(counting), seen)
        };
        let (_one, mine) = count(&process);
        let (_two, theirs) = count(&other);
        let wait = || tokio::time::sleep(Duration::from_millis(1005));
        wait().await;
        assert_eq!((*mine.borrow(), *theirs.borrow()), (100, 100));
        process.freeze(true);
        let stood = *mine.borrow();
        wait().await;
        assert_eq!(*mine.borrow(), stood);
        assert!(*theirs.borrow() > stood + 90, "{}", *theirs.borrow());
        process.freeze(false);
        wait().await;
        assert!(*mine.borrow() > stood + 90, "{}", *mine.borrow());
    }

    #[test]
    fn an_expected_panic_is_an_error() {
        let caught: Result<(), _> = catch(|| panic!("at byte {}", 7));
        assert_eq!(caught.unwrap_err(), "at byte 7");
        assert_eq!(catch(|| 1), Ok(1));
        assert!(!EXPECTED.get());
    }
}
