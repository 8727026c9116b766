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
