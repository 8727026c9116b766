//! Standard error, as everything in the process writes to it: a bounded queue and one thread.
//!
//! Whoever reads standard error may be gone, slow or out of room, and none of that is a reason to
//! stop: a line is queued without waiting, a write that fails loses that line alone, and how many
//! were lost is told once lines pass again. What is written here is for people; results go to
//! standard output, whose errors are the caller's.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bytes that wait to be written.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one line; the rest is cut.
const LINE_BYTES_MAX: usize = 16 << 10;
const CUT: &[u8] = b"...\n";

/// How long the end of the process waits for lines that are still queued.
pub const FLUSH_MAX: Duration = Duration::from_secs(1);

static PROCESS: LazyLock<Lines> = LazyLock::new(|| Lines::start(io::stderr()));

/// Writes a line. Never fails and never waits.
pub fn say(text: &str) {
    PROCESS.push(text.as_bytes());
}

/// Waits until what was said is written, or [`FLUSH_MAX`] is over.
pub fn flush() {
    PROCESS.flush(FLUSH_MAX);
}

/// How many lines nobody saw, since the process began.
pub fn lost() -> u64 {
    PROCESS.0.queue.lock().lost_ever
}

/// Where the log writes its lines, each by one call.
#[derive(Debug, Default)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        PROCESS.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A queue of lines and the thread that writes them.
struct Lines(Arc<LineQueue>);

#[derive(Default)]
struct LineQueue {
    queue: Mutex<Queue>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that nobody saw, since it was last told.
    lost: u64,
    /// The same, since the beginning.
    lost_ever: u64,
    /// A line is on its way out.
    writes: bool,
}

impl Lines {
    fn start(sink: impl Write + Send + 'static) -> Self {
        let shared = Arc::<LineQueue>::default();
        let theirs = shared.clone();
        #[allow(
            clippy::disallowed_methods,
            reason = "tasks.rs says on this thread why a task broke, so this one is not of its kind"
        )]
        let started = std::thread::Builder::new()
            .name("stderr".to_owned())
            .spawn(move || write_out(&theirs, sink));
        // Without the thread every line is lost, and nothing else.
        drop(started);
        Self(shared)
    }

    fn push(&self, text: &[u8]) {
        let mut line = Vec::with_capacity(text.len().min(LINE_BYTES_MAX) + CUT.len());
        if text.len() > LINE_BYTES_MAX {
            line.extend_from_slice(&text[..LINE_BYTES_MAX]);
            line.extend_from_slice(CUT);
        } else {
            line.extend_from_slice(text);
            if !text.ends_with(b"\n") {
                line.push(b'\n');
            }
        }
        let mut queue = self.0.queue.lock();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            queue.lost += 1;
            queue.lost_ever += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        self.0.filled.notify_one();
    }

    fn flush(&self, timeout: Duration) {
        let mut queue = self.0.queue.lock();
        let is_busy = |queue: &mut Queue| queue.writes || !queue.lines.is_empty();
        self.0.drained.wait_while_for(&mut queue, is_busy, timeout);
    }
}

/// Writes lines for as long as the process lives.
fn write_out(shared: &LineQueue, mut sink: impl Write) {
    // A failed write may have left a part of its line behind.
    let mut begins_anew = true;
    loop {
        let mut queue = shared.queue.lock();
        queue.writes = false;
        if queue.lines.is_empty() {
            shared.drained.notify_all();
            shared
                .filled
                .wait_while(&mut queue, |queue| queue.lines.is_empty());
        }
        let line = queue.lines.pop_front().expect("it was waited for");
        queue.bytes -= line.len();
        queue.writes = true;
        let lost = queue.lost;
        drop(queue);

        let told = match lost {
            0 => Ok(()),
            _ => sink.write_all(told(lost, begins_anew).as_bytes()),
        };
        let is_told = told.is_ok();
        let written = told.and_then(|()| sink.write_all(&line));
        begins_anew = written.is_ok();
        let mut queue = shared.queue.lock();
        if is_told {
            queue.lost -= lost;
        }
        if written.is_err() {
            queue.lost += 1;
            queue.lost_ever += 1;
        }
    }
}

fn told(lost: u64, begins_anew: bool) -> String {
    let begin = if begins_anew { "" } else { "\n" };
    let what = if lost == 1 { "line was" } else { "lines were" };
    format!("{begin}{lost} {what} lost here: standard error took none\n")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Passes on what is written, while `gate` says that it takes it.
    struct Sink {
        gate: mpsc::Receiver<io::Result<()>>,
        out: mpsc::Sender<String>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.gate.recv().unwrap_or(Ok(()))?;
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.out.send(text).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink() -> (mpsc::Sender<io::Result<()>>, mpsc::Receiver<String>, Lines) {
        let (open, gate) = mpsc::channel();
        let (out, seen) = mpsc::channel();
        (open, seen, Lines::start(Sink { gate, out }))
    }

    fn broken_pipe() -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    #[test]
    fn lines_that_a_dead_reader_missed_are_counted_and_told() {
        let (open, seen, lines) = sink();
        lines.push(b"one");
        lines.push(b"two\n");
        lines.push(b"three\n");
        // One fails; then the note of it fails, and two with it.
        open.send(broken_pipe()).unwrap();
        open.send(broken_pipe()).unwrap();
        drop(open);
        lines.flush(Duration::MAX);
        let seen: Vec<_> = seen.try_iter().collect();
        let note = "\n2 lines were lost here: standard error took none\n";
        assert_eq!(seen, [note, "three\n"]);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_reads_nothing() {
        let (open, seen, lines) = sink();
        let line = vec![b'x'; LINE_BYTES_MAX - 1];
        let taken = QUEUE_BYTES_MAX / LINE_BYTES_MAX;
        // One more may be on its way out.
        for _ in 0..taken + 10 {
            lines.push(&line);
        }
        lines.flush(Duration::ZERO);
        drop(open);
        lines.flush(Duration::MAX);
        let seen: Vec<_> = seen.try_iter().collect();
        let told = |line: &&String| line.contains("lines were lost here");
        assert_eq!(seen.iter().filter(told).count(), 1, "told once");
        assert!((taken..=taken + 1).contains(&(seen.len() - 1)));
        assert!(lines.0.queue.lock().lost == 0);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let (open, seen, lines) = sink();
        drop(open);
        lines.push(&vec![b'x'; 3 << 20]);
        lines.flush(Duration::MAX);
        let seen = seen.try_recv().unwrap();
        assert_eq!(seen.len(), LINE_BYTES_MAX + CUT.len());
        assert!(seen.ends_with("x...\n"));
    }
}
