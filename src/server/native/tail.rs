//! Reading on and on: a stream with credit and heartbeats.
//!
//! One task a stream. It reads the log only for credit that it has, and keeps one answer ready, so
//! that a client which does not read costs a bounded part of memory and nobody else's time.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, Interval};
use tonic::{Request, Status, Streaming};

use crate::log::{Offset, Position};
use crate::net::budget::{Accounts, Held};
use crate::proto::v1::{
    ConsumeStreamRequest, ConsumeStreamResponse, ConsumeStreamStart, StoredBatch,
};
use crate::raft::{Applied, ReplicatedLog};

use super::super::answers::{Outbox, telling};
use super::super::auth::{Action, Rights};
use super::super::limits::ANSWER_BYTES_MAX;
use super::super::{ApiContext, Drain, accounts, deadline, status};
use super::batches::Wanted;
use super::consume::{bytes_of, freshness, freshness_of_all, next_of, read};
use super::position::{self, Consistency};
use super::selection::Selection;
use crate::server::answers::reading::Asked;

/// Bytes that a stream reads at a time.
const READ_BYTES: usize = 256 << 10;
/// Credit beyond this is forgotten.
const CREDIT_MAX: i64 = 1 << 40;
/// The answers of a consume stream.
pub type Answers = telling::Answers<ConsumeStreamResponse>;

type Tell = telling::Tell<ConsumeStreamResponse>;

/// Records, and the room that they take.
type Batches = (Vec<StoredBatch>, Option<Held>);

/// Who reads.
struct Asker {
    rights: Rights,
    accounts: Option<Accounts>,
    /// How long it waits for the stream to begin.
    until: Option<Instant>,
}

/// Answers a client's requests until it leaves. No wait lasts longer than the client does, if it says for how long.
pub fn stream(
    api: Arc<ApiContext<ReplicatedLog>>,
    request: Request<Streaming<ConsumeStreamRequest>>,
) -> (Answers, Outbox) {
    let caller = Asker {
        rights: api.rights(&request),
        accounts: accounts(&request),
        until: deadline::of(&request),
    };
    let requests = request.into_inner();
    let unread = api.unread.clone();
    telling::answers(&unread, "native consume stream", |tell| async move {
        serve(api, caller, requests, &tell).await
    })
}

async fn serve(
    api: Arc<ApiContext<ReplicatedLog>>,
    caller: Asker,
    requests: Streaming<ConsumeStreamRequest>,
    tell: &Tell,
) -> Result<(), Status> {
    let mut drain = api.drain.clone();
    // A client may never say where to start.
    let began = tokio::select! {
        biased;
        () = drain.began() => return Err(status::draining()),
        began = begin(&api, caller, requests) => began?,
    };
    let Some(mut tail) = began else {
        return Ok(());
    };
    let first = tail.answer(Vec::new());
    if let (Source::Many(selection), Some(freshness)) = (&mut tail.source, &first.freshness) {
        selection.told(Position(freshness.applied_position));
    }
    if tell.tell(Ok(first), None).await {
        tail.run(tell).await?;
    }
    Ok(())
}

/// Takes the first message; `None` if the client left without one.
async fn begin(
    api: &Arc<ApiContext<ReplicatedLog>>,
    caller: Asker,
    mut requests: Streaming<ConsumeStreamRequest>,
) -> Result<Option<Tail>, Status> {
    let Some(first) = requests.message().await? else {
        return Ok(None);
    };
    let missing = || status::invalid("the first message says where to start");
    let start = first.start.ok_or_else(missing)?;
    let consistency = Consistency::new(start.consistency);
    api.counts.reads.of(consistency.into()).one_more();
    let (rights, until) = (caller.rights, caller.until);
    let (log, source) = match &start.selection {
        Some(of) => {
            let caller = (rights, caller.accounts.as_ref());
            let begun = Selection::begin(api, caller, until, of, &start).await?;
            (begun.0, Source::Many(Box::new(begun.1)))
        }
        None => {
            let (log, to) = ((&*start.log, start.log_id), Action::Consume);
            let log = api.log_seen(&rights, log, to, until).await?;
            consistency.reached(&log).await?;
            let next = position::begin_inside(api, &log, start.start.clone()).await;
            let next = match log.is_there() {
                true => next,
                // Another log may have the name.
                false => Err(status::log_deleted()),
            };
            (log, Source::One(api.as_named(&start.log, next).await?))
        }
    };
    Ok(Some(Tail {
        heartbeats: heartbeats(&start, consistency),
        applied: log.watch_applied(),
        drain: api.drain.clone(),
        api: api.clone(),
        accounts: caller.accounts,
        log,
        requests,
        consistency,
        credit: granted(first.credit_bytes),
        source,
        accept: start.accept,
        open: true,
    }))
}

fn heartbeats(start: &ConsumeStreamStart, consistency: Consistency) -> Interval {
    let mut every = telling::period(start.heartbeat_ms);
    if let Consistency::Bounded(bound) = consistency {
        // Wake in time to notice that the staleness bound is broken.
        every = every.min((bound / 2).max(telling::HEARTBEAT_MIN));
    }
    telling::heartbeats(every)
}

/// Credit as it is counted.
fn granted(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(CREDIT_MAX).min(CREDIT_MAX)
}

struct Tail {
    api: Arc<ApiContext<ReplicatedLog>>,
    accounts: Option<Accounts>,
    log: ReplicatedLog,
    requests: Streaming<ConsumeStreamRequest>,
    applied: watch::Receiver<Applied>,
    drain: Drain,
    heartbeats: Interval,
    consistency: Consistency,
    /// Bytes that may be sent; below 0, what was sent beyond the credit with its last batch.
    credit: i64,
    source: Source,
    accept: Vec<i32>,
    /// Whether the client may still send.
    open: bool,
}

/// What a stream reads, and where it is.
enum Source {
    /// A log, from an offset on.
    One(Offset),
    Many(Box<Selection>),
}

impl Source {
    /// Whether a read need not wait: there is a record to look at, or no log any more.
    fn is_past(&self, log: &ReplicatedLog) -> bool {
        match self {
            Self::One(next) => log.is_past(*next),
            Self::Many(selection) => selection.is_past(log.log()),
        }
    }

    /// Whether the client is told how far the stream is, though no record came.
    fn is_news(&mut self) -> bool {
        let Self::Many(selection) = self else {
            return true;
        };
        selection.is_news()
    }

    fn are_there(&mut self, log: &ReplicatedLog) -> Result<(), Status> {
        match self {
            Self::One(_) if log.is_there() => Ok(()),
            Self::One(_) => Err(status::log_deleted()),
            Self::Many(selection) => selection.are_there(log),
        }
    }
}

/// What a stream wakes for.
enum Event {
    Records,
    Credit(u64),
    /// The client sends no more requests; the credit that it gave is still good.
    NoMoreCredit,
    Heartbeat,
    Left,
}

impl Tail {
    async fn run(mut self, tell: &Tell) -> Result<(), Status> {
        loop {
            let (answer, held) = match self.event(tell).await? {
                Event::Credit(bytes) => {
                    self.credit = (self.credit + granted(bytes)).min(CREDIT_MAX);
                    continue;
                }
                Event::NoMoreCredit => {
                    self.open = false;
                    continue;
                }
                Event::Left => return Ok(()),
                Event::Heartbeat => {
                    self.source.are_there(&self.log)?;
                    self.keep_fresh().await?;
                    (self.answer(Vec::new()), None)
                }
                Event::Records => match self.read(tell).await? {
                    // What was looked at is of other logs; others get their turn before the next look.
                    Some((batches, _)) if batches.is_empty() && !self.source.is_news() => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Some((batches, held)) => (self.answer(batches), held),
                    None => return Ok(()),
                },
            };
            tokio::select! {
                biased;
                () = self.drain.began() => return Err(status::draining()),
                told = tell.tell(Ok(answer), held) => if !told {
                    return Ok(());
                }
            }
        }
    }

    async fn event(&mut self, tell: &Tell) -> Result<Event, Status> {
        let (credit, source, open) = (self.credit, &self.source, self.open);
        tokio::select! {
            biased;
            () = self.drain.began() => Err(status::draining()),
            () = tell.left() => Ok(Event::Left),
            _ = self.heartbeats.tick() => Ok(Event::Heartbeat),
            request = self.requests.message(), if open => match request? {
                Some(request) if request.start.is_some() => {
                    Err(status::invalid("only the first message says where to start"))
                }
                Some(request) => Ok(Event::Credit(request.credit_bytes)),
                None => Ok(Event::NoMoreCredit),
            },
            there = self.applied.wait_for(|_| source.is_past(&self.log)), if credit > 0 => {
                there.map_err(|_| status::draining())?;
                Ok(Event::Records)
            }
        }
    }

    /// Has the leader confirm now and then how far this node is; a bound that broke is an error.
    async fn keep_fresh(&self) -> Result<(), Status> {
        if self.consistency.holds(&self.log) {
            let staleness = self.log.freshness().staleness;
            let period = self.heartbeats.period();
            if staleness.is_none_or(|staleness| staleness > period / 2) {
                // This waits for no answer: the next heartbeat tells the outcome.
                self.log.nudge_freshness();
            }
            return Ok(());
        }
        self.consistency.reached(&self.log).await
    }

    /// Reads on, once there is room for it; `None` if the client leaves meanwhile.
    async fn read(&mut self, tell: &Tell) -> Result<Option<Batches>, Status> {
        let mut drain = self.drain.clone();
        let read = tokio::select! {
            biased;
            read = self.read_source() => read?,
            () = drain.began() => return Err(status::draining()),
            () = tell.left() => return Ok(None),
        };
        if !self.consistency.holds(&self.log) {
            self.consistency.reached(&self.log).await?;
        }
        let bytes: usize = read.0.iter().map(bytes_of).sum();
        self.credit -= granted(bytes.max(read.0.len().min(1)) as u64);
        Ok(Some(read))
    }

    /// What comes next, as far as one look and the credit go.
    async fn read_source(&mut self) -> Result<Batches, Status> {
        let credit = usize::try_from(self.credit).unwrap_or(usize::MAX).max(1);
        let mut wanted = Wanted {
            names: None,
            records_max: u64::MAX,
            accept: self.accept.clone(),
            bytes_max: credit.min(READ_BYTES),
            whole_bytes_max: credit.min(ANSWER_BYTES_MAX),
        };
        let (expected, accounts) = (wanted.bytes_max, self.accounts.as_ref());
        match &mut self.source {
            Source::One(next) => {
                let asked = Asked::Log(self.log.id(), *next);
                let read = read(&self.api, &self.log, accounts, asked, expected, wanted).await?;
                *next = next_of(&read.0).unwrap_or(*next);
                Ok(read)
            }
            Source::Many(selection) => {
                let found = Arc::new(selection.look(&self.api, &self.log).await?);
                if found.is_empty() {
                    selection.next = found.passed();
                    return Ok((Vec::new(), None));
                }
                wanted.names = Some(selection.names());
                let asked = Asked::Stretch(found.clone());
                let read = read(&self.api, &self.log, accounts, asked, expected, wanted).await?;
                selection.sent(&found, &read.0);
                Ok(read)
            }
        }
    }

    fn answer(&self, batches: Vec<StoredBatch>) -> ConsumeStreamResponse {
        let mut answer = ConsumeStreamResponse {
            batches,
            ..ConsumeStreamResponse::default()
        };
        match &self.source {
            Source::One(next) => {
                answer.log_id = Some(self.log.id().0);
                answer.next_offset = next.0;
                answer.first_offset = self.log.offsets().0.0;
                answer.freshness = Some(freshness(&self.log));
            }
            Source::Many(selection) => {
                answer.next_position = selection.next.0;
                answer.freshness = Some(freshness_of_all(&self.log));
            }
        }
        answer
    }
}
