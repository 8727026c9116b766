//! The engine's requests to one follower, on their way to its stream.
//!
//! The engine tells a follower of every commit at once: in the next request with entries, or else in a request
//! without. A request without entries takes both nodes as much time as one with a group of records, and the next
//! request repeats what it says. So while entries come, a request without entries waits for a moment, and is
//! dropped if another request follows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{Peekable, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::raft::entry::types::TypeConfig;

/// How many messages to one follower may wait for its answer. A few are enough, since each carries many records:
/// hashicorp/raft lowered its own default from 128 to 2.
const IN_FLIGHT_MAX: usize = 4;
/// A message above this size takes two places, since each message is a copy of its entries in memory.
const SMALL_BYTES_MAX: usize = 2 << 20;
/// How long after the last entries a follower may hear that they are committed.
const NEWS_WAIT: Duration = Duration::from_millis(1);

/// The engine's requests to a follower, in order.
pub struct Requests<S: Stream> {
    input: Peekable<S>,
    /// Entries went out lately: until then a request without entries waits for more of them. One timer for all: to
    /// put a running one off costs nothing, to start one for each request wakes the thread that it is started on.
    news_is_due: Pin<Box<Sleep>>,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Requests<S> {
    pub fn new(input: S) -> Self {
        Self {
            input: input.peekable(),
            news_is_due: Box::pin(tokio::time::sleep_until(Instant::now())),
        }
    }

    /// Whether it is known already that nothing follows.
    pub fn have_ended(&mut self) -> bool {
        let next = Pin::new(&mut self.input).peek().now_or_never();
        next.is_some_and(|next| next.is_none())
    }

    /// The next request to send. Requests that the one behind them repeats are left out.
    pub async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        let mut request = self.input.next().await?;
        while request.entries.is_empty() {
            tokio::select! {
                biased;
                next = self.input.next() => match next {
                    Some(next) => request = next,
                    None => return Some(request),
                },
                // No request follows soon enough, so this one is sent.
                () = self.news_is_due.as_mut() => return Some(request),
            }
        }
        let due = Instant::now() + NEWS_WAIT;
        self.news_is_due.as_mut().reset(due);
        Some(request)
    }
}

/// The places of the messages that wait for a follower's answer.
pub struct Window {
    places: Semaphore,
    /// How many places each message took, the oldest first; answers come in the same order.
    taken: Mutex<VecDeque<usize>>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            places: Semaphore::new(IN_FLIGHT_MAX),
            taken: Mutex::default(),
        }
    }
}

impl Window {
    /// Waits for a place for a message of any size.
    pub async fn enter(&self) {
        self.take().await;
    }

    /// Waits for the second place, if a message of so many bytes takes one.
    pub async fn send(&self, bytes: usize) {
        let is_large = bytes > SMALL_BYTES_MAX;
        if is_large {
            self.take().await;
        }
        self.taken.lock().push_back(1 + usize::from(is_large));
    }

    async fn take(&self) {
        let permit = self.places.acquire().await;
        permit.expect("places are never closed").forget();
    }

    /// Frees the places of the oldest message.
    pub fn answered(&self) {
        // An answer without a request frees nothing.
        let places = self.taken.lock().pop_front().unwrap_or(0);
        self.places.add_permits(places);
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use openraft::entry::RaftEntry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::log::{Index, Term};
    use crate::raft::entry::types::{self, Entry, LogId, Vote};

    fn id(index: u64) -> LogId {
        types::log_id(Term(1), Index(index))
    }

    fn request(entry: Option<u64>, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: entry
                .map(|index| Entry::new_blank(id(index)))
                .into_iter()
                .collect(),
            leader_commit: Some(id(committed)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_a_commit_gives_way_to_entries_and_waits_for_none() {
        let (send, sent) = mpsc::unbounded_channel();
        let sent = stream::unfold(sent, async |mut sent| Some((sent.recv().await?, sent)));
        let mut requests = Requests::new(Box::pin(sent));
        let mut next = async || {
            let began = Instant::now();
            let request = requests.next().await?;
            let entry = request.entries.first().map(|entry| entry.log_id.index);
            let committed = request.leader_commit.map(|id| id.index);
            Some((entry, committed, began.elapsed()))
        };
        for request in [request(Some(1), 0), request(None, 1), request(Some(2), 1)] {
            send.send(request).unwrap();
        }
        let at_once = Duration::ZERO;
        assert_eq!(next().await, Some((Some(1), Some(0), at_once)));
        assert_eq!(next().await, Some((Some(2), Some(1), at_once)));
        send.send(request(None, 2)).unwrap();
        let (entry, committed, took) = next().await.unwrap();
        assert_eq!((entry, committed), (None, Some(2)));
        assert!(took >= NEWS_WAIT && took <= 2 * NEWS_WAIT, "{took:?}");
        // Nothing has come for long: a heartbeat, or a probe.
        send.send(request(None, 2)).unwrap();
        assert_eq!(next().await, Some((None, Some(2), at_once)));
        send.send(request(Some(3), 2)).unwrap();
        assert_eq!(next().await, Some((Some(3), Some(2), at_once)));
        send.send(request(None, 3)).unwrap();
        drop(send);
        let last = Some((None, Some(3), at_once));
        assert_eq!(next().await, last, "the engine says no more");
        assert_eq!(next().await, None);
        assert_eq!(next().await, None, "it may be asked again");
    }

    #[tokio::test]
    async fn large_messages_take_two_places_of_the_window() {
        let window = Window::default();
        let mut sent = 0;
        let mut send = async |bytes| {
            let sending = async {
                window.enter().await;
                window.send(bytes).await;
            };
            let is_sent = sending.now_or_never().is_some();
            sent += usize::from(is_sent);
            is_sent
        };
        assert!(send(SMALL_BYTES_MAX + 1).await);
        assert!(send(SMALL_BYTES_MAX).await && send(1).await);
        assert!(!send(1).await, "{sent} are under way");
        window.answered();
        assert!(send(1).await && send(1).await, "the large one took two");
        assert!(!send(1).await);
        window.answered();
        assert!(send(1).await && !send(1).await, "a small one took one");
        // What nobody asked for frees nothing.
        (0..10).for_each(|_| window.answered());
        assert_eq!(window.places.available_permits(), IN_FLIGHT_MAX);
    }
}
