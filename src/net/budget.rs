//! Bytes that clients make the node hold, and their limits: of a connection, of a subject, of the node.
//!
//! A request finds the [`Accounts`] of its connection in `PeerInfo`. Whatever a client causes to be held is taken from an [`Account`] of its connection *before* it is held, and
//! given back by dropping what was taken: a message before it is read, an answer before it is built. One
//! account serves both directions and both APIs. There are two ways in. [`Account::take`] waits, and what waits
//! is not read meanwhile: the client's flow control holds it. [`Account::try_take`] answers at once, for what
//! would hold memory while it waited; its refusal is told as `IN_FLIGHT_LIMIT`.
//!
//! [`Held::around`] ties what was taken to bytes: it is given back with the last reference to them, whoever
//! keeps it, and also if the call that brought them was cancelled. [`Held::split`] and [`Held::merge`] follow
//! messages that become batches.
//!
//! **Never wait for room while holding room of the same account**: two that wait for each other's wait for
//! ever. A call that will need more room takes it at its beginning, takes it without waiting, or takes it from
//! another kind of account.
//!
//! Small messages have room that large ones cannot take, so that large messages, stalled or not, never lock out
//! small calls.

mod limits;
mod pool;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::families::{BUDGET_LIMIT, BUDGET_REFUSALS, BUDGET_USED, BUDGET_WAITS};
use crate::metrics::{Counter, Page};
pub use limits::{ANSWERS, AccountLimits, BYTES, CALLS, NODE_BYTES_MAX, UNREAD};
use pool::{Lane, Pool};

/// A message of at most so many bytes may use the room that is kept for small ones.
pub const SMALL_BYTES_MAX: usize = 64 << 10;

/// Long computations of one connection at once.
const BULK_MAX: usize = 1;

/// The node's budget, and what its parts are for.
#[derive(Debug, Clone)]
pub struct Budget {
    /// [`BYTES`].
    pub bytes: NodeAccount,
    /// [`UNREAD`].
    pub unread: NodeAccount,
    /// [`CALLS`].
    pub calls: NodeAccount,
    /// [`ANSWERS`].
    pub answers: NodeAccount,
}

impl Budget {
    pub fn new(bytes: AccountLimits) -> Self {
        Self {
            bytes: NodeAccount::new(bytes),
            unread: NodeAccount::new(UNREAD),
            calls: NodeAccount::new(CALLS),
            answers: NodeAccount::new(ANSWERS),
        }
    }

    fn accounts_by_name(&self) -> [(&'static str, &NodeAccount); 4] {
        [
            ("messages", &self.bytes),
            ("windows", &self.unread),
            ("calls", &self.calls),
            ("answers", &self.answers),
        ]
    }

    /// What is held of each account.
    pub fn uses(&self) -> [(&'static str, Use); 4] {
        let used = |account: &NodeAccount| Use {
            held: account.held(),
            limit: account.0.limits.with_small(),
            short: account.0.short_at.lock().map(|at| at.elapsed()),
        };
        self.accounts_by_name()
            .map(|(name, account)| (name, used(account)))
    }

    /// Tells what is held, and what there was no room for.
    pub fn tell(&self, page: &mut Page<'_>) {
        let accounts = self.accounts_by_name();
        let mut told = |family, value: fn(&NodeAccount) -> u64| {
            page.family(family, |series| {
                for (name, account) in accounts {
                    series.value(&[("account", name)], value(account));
                }
            });
        };
        told(&BUDGET_USED, |account| account.held() as u64);
        told(&BUDGET_LIMIT, |account| {
            account.0.limits.with_small() as u64
        });
        told(&BUDGET_WAITS, |account| account.0.waits.get());
        told(&BUDGET_REFUSALS, |account| account.0.refusals.get());
    }

    /// What a new connection of this subject may use.
    pub fn accounts(&self, subject: &str) -> Accounts {
        Accounts {
            bytes: self.bytes.account(subject),
            unread: self.unread.account(subject),
            calls: self.calls.account(subject),
            answers: self.answers.account(subject),
            bulk: Arc::new(Semaphore::new(BULK_MAX)),
        }
    }
}

/// What is held of one kind of account by the whole node, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    pub held: usize,
    pub limit: usize,
    /// How long ago there was last no room at all for somebody; `None`: never.
    pub short: Option<Duration>,
}

/// A connection's parts of the [`Budget`]; clones are the same ones.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub bytes: Account,
    pub unread: Account,
    pub calls: Account,
    pub answers: Account,
    /// Turns for long computations.
    pub bulk: Arc<Semaphore>,
}

/// Whose limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Stream,
    Connection,
    Subject,
    Node,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "the stream",
            Self::Connection => "the connection",
            Self::Subject => "the subject, by all its connections,",
            Self::Node => "the node",
        })
    }
}

/// The account has no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{scope} has about {limit} bytes under way")]
pub struct Full {
    pub scope: Scope,
    pub limit: usize,
}

/// One kind of account for the whole node.
#[derive(Debug, Clone)]
pub struct NodeAccount(Arc<NodeAccountParts>);

#[derive(Debug)]
struct NodeAccountParts {
    limits: AccountLimits,
    pool: Pool,
    /// The subjects that have connections.
    subjects: Mutex<HashMap<String, Weak<Subject>>>,
    /// How often somebody waited for room, and how often nobody did and there was none.
    waits: Counter,
    refusals: Counter,
    /// When the node's own limit, and not that of who asked, left no room last.
    short_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Subject {
    name: String,
    pool: Pool,
    node: NodeAccount,
}

impl Drop for Subject {
    fn drop(&mut self) {
        let mut subjects = self.node.0.subjects.lock();
        // Another subject of this name may have come in between.
        if let Some(known) = subjects.get(&self.name)
            && known.strong_count() == 0
        {
            subjects.remove(&self.name);
        }
    }
}

impl NodeAccount {
    pub fn new(limits: AccountLimits) -> Self {
        Self(Arc::new(NodeAccountParts {
            pool: Pool::new(limits.node_bytes_max, limits.small_part),
            limits,
            subjects: Mutex::default(),
            waits: Counter::default(),
            refusals: Counter::default(),
            short_at: Mutex::default(),
        }))
    }

    /// The account of a new connection of this subject.
    pub fn account(&self, subject: &str) -> Account {
        let limits = &self.0.limits;
        let mut subjects = self.0.subjects.lock();
        let known = subjects.get(subject).and_then(Weak::upgrade);
        let subject = known.unwrap_or_else(|| {
            let new = Arc::new(Subject {
                name: subject.to_owned(),
                pool: Pool::new(limits.subject_bytes_max, limits.small_part),
                node: self.clone(),
            });
            subjects.insert(subject.to_owned(), Arc::downgrade(&new));
            new
        });
        let least = limits.subject_bytes_max.min(limits.node_bytes_max);
        Account(Arc::new(Connection {
            pool: Pool::new(limits.connection_bytes_max.min(least), limits.small_part),
            subject,
        }))
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.0.pool.held()
    }
}

/// The account of one connection; clones are the same one.
#[derive(Debug, Clone)]
pub struct Account(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    pool: Pool,
    subject: Arc<Subject>,
}

impl Connection {
    /// From the narrowest scope to the widest: a refusal names the scope that is nearest to the caller.
    fn pools(&self) -> [(Scope, &Pool); 3] {
        [
            (Scope::Connection, &self.pool),
            (Scope::Subject, &self.subject.pool),
            (Scope::Node, &self.subject.node.0.pool),
        ]
    }
}

impl Account {
    /// Takes room, or tells whose is used up.
    pub fn try_take(&self, bytes: usize) -> Result<Held, Full> {
        let refusals = &self.0.subject.node.0.refusals;
        self.take_now(bytes).inspect_err(|_| refusals.one_more())
    }

    fn take_now(&self, bytes: usize) -> Result<Held, Full> {
        let weight = self.weight(bytes);
        if bytes <= SMALL_BYTES_MAX
            && let Ok(held) = self.try_lane(weight, Lane::Small)
        {
            return Ok(held);
        }
        self.try_lane(weight, Lane::Any).inspect_err(|full| {
            if full.scope == Scope::Node {
                *self.0.subject.node.0.short_at.lock() = Some(Instant::now());
            }
        })
    }

    /// Takes room as soon as there is some. Dropping the future takes nothing.
    pub async fn take(&self, bytes: usize) -> Held {
        if let Ok(held) = self.take_now(bytes) {
            return held;
        }
        self.0.subject.node.0.waits.one_more();
        let weight = self.weight(bytes);
        let mut taken = Vec::with_capacity(3);
        for (_, pool) in self.0.pools() {
            let permit = pool.any.acquire_many(weight).await;
            taken.push(permit.expect("a pool is never closed"));
        }
        for permit in taken {
            permit.forget();
        }
        Held::new(self, weight, Lane::Any)
    }

    /// Bytes that this connection holds now.
    pub fn held(&self) -> usize {
        self.0.pool.held()
    }

    fn weight(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.0.pool.limit)).unwrap_or(u32::MAX)
    }

    fn try_lane(&self, weight: u32, lane: Lane) -> Result<Held, Full> {
        let full = |scope, limit| Full { scope, limit };
        let [connection, subject, node] = self.0.pools().map(|(scope, pool)| {
            let permit = pool.lane(lane).try_acquire_many(weight);
            permit.map_err(|_| full(scope, pool.limit))
        });
        // All or none: what was taken of one is given back if another is full.
        for permit in [connection?, subject?, node?] {
            permit.forget();
        }
        Ok(Held::new(self, weight, lane))
    }
}

/// Room that was taken; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    account: Account,
    any: usize,
    small: usize,
}

impl Held {
    fn new(account: &Account, weight: u32, lane: Lane) -> Self {
        let (any, small) = match lane {
            Lane::Any => (weight as usize, 0),
            Lane::Small => (0, weight as usize),
        };
        let account = account.clone();
        Self {
            account,
            any,
            small,
        }
    }

    pub fn bytes(&self) -> usize {
        self.any + self.small
    }

    /// Splits off so many bytes of the room, or all of it if it has fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let small = bytes.min(self.small);
        let any = (bytes - small).min(self.any);
        self.small -= small;
        self.any -= any;
        Self {
            account: self.account.clone(),
            any,
            small,
        }
    }

    /// Takes over the room that `other` holds. Both are of one connection.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.account.0, &other.account.0));
        self.any += std::mem::take(&mut other.any);
        self.small += std::mem::take(&mut other.small);
    }

    /// These bytes, and with the last reference to them the room is given back.
    pub fn around(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (_, pool) in self.account.0.pools() {
            // Giving back nothing would take a lock for nothing.
            if self.any > 0 {
                pool.any.add_permits(self.any);
            }
            if self.small > 0 {
                pool.small.add_permits(self.small);
            }
        }
    }
}

struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    fn node() -> NodeAccount {
        NodeAccount::new(AccountLimits {
            node_bytes_max: 8 * MIB,
            subject_bytes_max: 4 * MIB,
            connection_bytes_max: 2 * MIB,
            small_part: 8,
        })
    }

    #[test]
    fn each_scope_has_its_limit_and_gets_back_what_was_taken() {
        let node = node();
        let connections = [0; 5].map(|_| node.account("a"));
        let mut held = Vec::new();
        let take = |of: usize| connections[of].try_take(MIB);
        held.extend([take(0).unwrap(), take(0).unwrap()]);
        assert_eq!(take(0).unwrap_err().scope, Scope::Connection);
        held.extend([take(1).unwrap(), take(2).unwrap()]);
        let full = take(3).unwrap_err();
        assert_eq!((full.scope, full.limit), (Scope::Subject, 4 * MIB));
        let others = ["b", "c"].map(|name| node.account(name));
        held.extend([0, 0].map(|_| others[0].try_take(MIB).unwrap()));
        held.extend([0, 0].map(|_| others[1].try_take(MIB).unwrap()));
        let last = node.account("d");
        assert_eq!(last.try_take(MIB).unwrap_err().scope, Scope::Node);
        assert_eq!((node.held(), connections[0].held()), (8 * MIB, 2 * MIB));
        // A refusal took nothing of the scopes that had room.
        assert_eq!(last.held(), 0);
        held.clear();
        assert_eq!((node.held(), connections[0].held()), (0, 0));
        let all = last.try_take(100 * MIB).unwrap();
        assert_eq!(all.bytes(), 2 * MIB, "more than there is counts as all");
    }

    #[test]
    fn what_is_large_leaves_room_for_what_is_small() {
        let node = node();
        let account = node.account("a");
        let mut large = account.try_take(2 * MIB).unwrap();
        account.try_take(SMALL_BYTES_MAX + 1).unwrap_err();
        let small: Vec<_> = std::iter::from_fn(|| account.try_take(SMALL_BYTES_MAX).ok()).collect();
        assert_eq!(small.len(), 4, "an eighth of the connection's limit");
        // And when that is used up, small things use what large ones leave.
        drop(large.split(SMALL_BYTES_MAX));
        let mut last = account.try_take(SMALL_BYTES_MAX).unwrap();
        account.try_take(1).unwrap_err();
        for held in small {
            last.merge(held);
        }
        assert_eq!(last.bytes(), 5 * SMALL_BYTES_MAX);
        drop((last, large));
        assert_eq!(node.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_room_when_there_is_some_and_holds_none_before() {
        let node = node();
        let (first, second) = (node.account("a"), node.account("b"));
        let held = first.take(2 * MIB).await;
        let mut waiting = Box::pin(first.take(MIB));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        let waiting = tokio::spawn(async move { first.take(MIB).await.bytes() });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(node.held(), 2 * MIB);
        assert_eq!(second.take(MIB).await.bytes(), MIB, "another one goes on");
        drop(held);
        assert_eq!(waiting.await.unwrap(), MIB);
        assert_eq!(node.held(), 0);
    }

    #[test]
    fn room_goes_with_the_bytes_that_it_was_taken_for() {
        let node = node();
        let account = node.account("a");
        let held = account.try_take(100).unwrap();
        let bytes = held.around(Bytes::from_static(b"bytes"));
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&part[..], node.held()), (&b"yt"[..], 100));
        drop(part);
        assert_eq!(node.held(), 0);
    }

    #[test]
    fn a_subject_is_forgotten_with_its_last_connection() {
        let node = node();
        let (one, two) = (node.account("a"), node.account("a"));
        let held = two.try_take(1).unwrap();
        drop((one, two));
        assert_eq!(
            node.0.subjects.lock().len(),
            1,
            "something is still under way"
        );
        drop(held);
        assert!(node.0.subjects.lock().is_empty());
    }
}
