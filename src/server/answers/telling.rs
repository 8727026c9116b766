//! The answers of a stream that goes on and on: one waits for the connection while the next is made, no more.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Outbox, Unread};
use crate::net::budget::Held;
use crate::tasks;

/// Answers that wait for the connection.
const READY_MAX: usize = 1;
/// How long the status that ends a stream waits for a client that does not read.
const LAST_WORD: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(5);
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// The answers of a call.
pub type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// An answer, and the room that it takes.
type Counted<T> = (Result<T, Status>, Option<Held>);

/// Hands answers to the call's body, which counts what they take.
pub struct Tell<T> {
    answers: mpsc::Sender<Counted<T>>,
    outbox: Outbox,
}

impl<T> Tell<T> {
    /// Once the last answer is taken; false if the client left.
    pub async fn tell(&self, answer: Result<T, Status>, held: Option<Held>) -> bool {
        let Ok(place) = self.answers.reserve().await else {
            return false;
        };
        self.outbox.hand_over(|| place.send((answer, held)));
        true
    }

    /// Returns once the client has left.
    pub async fn left(&self) {
        self.answers.closed().await;
    }
}

/// Runs a task that tells answers until it ends, and tells the status that it ends with.
pub fn answers<T, F>(
    unread: &Unread,
    name: &'static str,
    serve: impl FnOnce(Arc<Tell<T>>) -> F,
) -> (Answers<T>, Outbox)
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let outbox = unread.outbox();
    let (answers, told) = mpsc::channel(READY_MAX);
    let tell = Arc::new(Tell {
        answers,
        outbox: outbox.clone(),
    });
    let served = serve(tell.clone());
    tasks::spawn(name, async move {
        if let Err(status) = served.await {
            // A client that left needs no status, and one that does not read gets none.
            let _ = tokio::time::timeout(LAST_WORD, tell.tell(Err(status), None)).await;
        }
    });
    let counted = outbox.clone();
    let answers = ReceiverStream::new(told).map(move |(answer, held)| {
        counted.built(held);
        answer
    });
    (answers.boxed(), outbox)
}

/// Between two heartbeats, as a request asks for it.
pub fn period(millis: u32) -> Duration {
    let asked = match millis {
        0 => HEARTBEAT,
        millis => Duration::from_millis(millis.into()),
    };
    asked.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
}

/// Heartbeats, the first of them a period from now.
pub fn heartbeats(every: Duration) -> Interval {
    let mut heartbeats = tokio::time::interval(every);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeats.reset();
    heartbeats
}
