//! The writer of a simulated log: a task in place of a thread, so that time passes between what is asked for
//! and what is on disk, and a crash can come in between.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::io::{Inline, Request};
use crate::log::IoDelay;
use crate::tasks;

/// A writer, and what it is asked for meanwhile.
pub struct LateWriter {
    writer: Mutex<Inline>,
    requests: Mutex<VecDeque<Request>>,
    filled: Arc<Notify>,
}

impl LateWriter {
    /// Starts its task on the present runtime. It ends with the log.
    pub fn start(writer: Inline, delay: IoDelay) -> Arc<Self> {
        let late = Arc::new(Self {
            writer: Mutex::new(writer),
            requests: Mutex::default(),
            filled: Arc::default(),
        });
        let (theirs, filled) = (Arc::downgrade(&late), late.filled.clone());
        tasks::spawn("log-io", async move {
            loop {
                filled.notified().await;
                tokio::time::sleep(delay.drawn()).await;
                match theirs.upgrade() {
                    Some(late) => late.run(),
                    None => return,
                }
            }
        });
        late
    }

    pub fn push_all(&self, requests: VecDeque<Request>) {
        self.requests.lock().extend(requests);
        self.filled.notify_one();
    }

    /// Does all that was asked for.
    pub fn run(&self) {
        let requests = std::mem::take(&mut *self.requests.lock());
        self.writer.lock().run(requests);
    }
}

impl Drop for LateWriter {
    fn drop(&mut self) {
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::disk::memory::MemoryDisk;
    use crate::log::tests::{DIR, publish, records, value};
    use crate::log::{Config, Floor, Index, Log, Offset};

    /// A follower whose disk is slow: the others committed what it has not written yet.
    #[tokio::test(start_paused = true)]
    async fn a_read_goes_on_where_the_disk_ends() {
        let delay_ms = Arc::new(AtomicU64::new(0));
        let theirs = delay_ms.clone();
        let delay = move || Duration::from_millis(theirs.load(Ordering::Relaxed));
        let config = Config {
            tail_cache_bytes_max: 0,
            inline_io: true,
            io_delay: Some(IoDelay::new(delay)),
            ..Config::default()
        };
        let disk = Arc::new(MemoryDisk::default());
        let opened = Log::open(disk, Path::new(DIR), config, Floor::default(), None);
        let (log, _) = opened.unwrap();
        let entries: Vec<_> = (0..8).map(|at| records(1, at, at..at + 1)).collect();
        log.append(entries[..4].to_vec(), Box::new(|done| done.unwrap()))
            .unwrap();
        // The writer's task is idle again once the clock goes on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(log.durable(), Index(4));
        delay_ms.store(60_000, Ordering::Relaxed);
        log.append(entries[4..].to_vec(), Box::new(|done| done.unwrap()))
            .unwrap();
        entries.iter().for_each(|entry| publish(&log, entry));
        let read = log
            .read(crate::log::LogId::DEFAULT, Offset(0), 1 << 20)
            .unwrap();
        assert_eq!(log.durable(), Index(4), "nothing more was written");
        let read: Vec<_> = read.into_iter().map(|record| record.value).collect();
        let all: Vec<_> = (0..8).map(value).collect();
        assert_eq!(read, all);
    }
}
