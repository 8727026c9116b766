//! The engine's requests to one follower, on their way to its stream.
//!
//! The engine tells a follower of every commit at once: in the next request with entries, or else in a request
//! without. A request without entries takes both nodes as much time as one with a group of records, and the next
//! request repeats what it says. So while entries come, a request without entries waits for a moment, and is
//! dropped if another request follows.

use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{Peekable, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep};

use crate::raft::entry::types::TypeConfig;

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
}
