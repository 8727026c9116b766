//! The places of the port: who holds one, who gives way when they are short, and when there is none.
//!
//! A connection that has proven nothing holds a place that it may lose at any time; one that has proven itself
//! holds one for as long as it lives. Peers and clients do not take each other's. Nothing here reads a byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::limits::MuxLimits;
use super::origin::Origin;
use crate::net::Kind;

/// The connections that have proven nothing.
#[derive(Debug)]
pub(super) struct Unproven {
    limits: MuxLimits,
    last_id: u64,
    clients: Waiting,
    /// Connections that have said nothing yet. They count as clients', though some are peers'.
    silent: BTreeSet<u64>,
    peers: Waiting,
}

/// The connections at one stage, oldest first.
#[derive(Debug, Default)]
struct Waiting {
    all: BTreeMap<u64, Waits>,
    by_origin: HashMap<Origin, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Waits {
    origin: Origin,
    since: Instant,
    /// Dropped to tell the connection that it gave way.
    _keep: oneshot::Sender<()>,
}

impl Waiting {
    fn insert(&mut self, id: u64, waits: Waits) {
        let of_origin = self.by_origin.entry(waits.origin.clone());
        of_origin.or_default().insert(id);
        self.all.insert(id, waits);
    }

    fn remove(&mut self, id: u64) -> Option<Waits> {
        let waits = self.all.remove(&id)?;
        if let Some(of_origin) = self.by_origin.get_mut(&waits.origin) {
            of_origin.remove(&id);
            if of_origin.is_empty() {
                self.by_origin.remove(&waits.origin);
            }
        }
        Some(waits)
    }

    /// Ends the oldest connection of the address that holds the most of them, so that one address can
    /// crowd out itself alone.
    fn give_way(&mut self) -> Option<u64> {
        let most = self.by_origin.values().max_by_key(|ids| {
            let oldest = ids.first().copied().unwrap_or(u64::MAX);
            (ids.len(), std::cmp::Reverse(oldest))
        });
        let oldest = most.and_then(|ids| ids.first().copied())?;
        self.remove(oldest).map(|_| oldest)
    }
}

impl Unproven {
    pub(super) fn new(limits: MuxLimits) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            limits,
            last_id: 0,
            clients: Waiting::default(),
            silent: BTreeSet::new(),
            peers: Waiting::default(),
        }))
    }

    /// A place for a connection that has said nothing yet; another one gives way if there is none left.
    pub(super) fn admit(this: &Arc<Mutex<Self>>, origin: Origin) -> Pending {
        let mut unproven = this.lock();
        unproven.make_room();
        unproven.last_id += 1;
        let id = unproven.last_id;
        let (keep, lost) = oneshot::channel();
        let since = Instant::now();
        let waits = Waits {
            origin,
            since,
            _keep: keep,
        };
        unproven.clients.insert(id, waits);
        unproven.silent.insert(id);
        let seat = Seat {
            id,
            unproven: Arc::clone(this),
        };
        Pending { seat, lost }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.clients.all.len() + self.peers.all.len()
    }

    /// Makes room for one more. Once few places are left, connections that were silent for a second go; if
    /// there are none, the oldest goes.
    fn make_room(&mut self) {
        let most = self.limits.pending_max;
        if self.clients.all.len() >= most - most / 4 {
            let now = Instant::now();
            let has_had_time = |id: &u64| {
                let waits: Option<&Waits> = self.clients.all.get(id);
                waits.is_none_or(|waits| now - waits.since >= self.limits.first_byte_timeout)
            };
            let late = self.silent.iter().copied();
            let late: Vec<_> = late.take_while(has_had_time).collect();
            for id in late {
                self.silent.remove(&id);
                self.clients.remove(id);
            }
        }
        if self.clients.all.len() >= most {
            self.shed();
        }
    }

    /// Ends one that has proven nothing: descriptors are short, or places.
    pub(super) fn shed(&mut self) {
        match self.clients.give_way() {
            Some(id) => {
                self.silent.remove(&id);
            }
            None => {
                self.peers.give_way();
            }
        }
    }
}

/// A place of a connection that has proven nothing. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Pending {
    seat: Seat,
    lost: oneshot::Receiver<()>,
}

/// Which of the places a connection holds.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    id: u64,
    unproven: Arc<Mutex<Unproven>>,
}

impl Pending {
    /// Returns once the place was lost to another.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent: the other half is dropped.
        let _ = (&mut self.lost).await;
    }

    pub(super) fn seat(&self) -> Seat {
        self.seat.clone()
    }
}

impl Seat {
    /// The first byte came, and says what the connection is for.
    pub(super) fn speaks(&self, kind: Kind) {
        let mut unproven = self.unproven.lock();
        unproven.silent.remove(&self.id);
        if kind == Kind::Raft
            && let Some(waits) = unproven.clients.remove(self.id)
        {
            if unproven.peers.all.len() >= unproven.limits.pending_peers_max {
                unproven.peers.give_way();
            }
            unproven.peers.insert(self.id, waits);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut unproven = self.seat.unproven.lock();
        unproven.silent.remove(&self.seat.id);
        unproven.clients.remove(self.seat.id);
        unproven.peers.remove(self.seat.id);
    }
}

/// The connections that have proven themselves.
#[derive(Debug)]
pub(super) struct Proven {
    limits: MuxLimits,
    clients: Tally,
    peers: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    all: usize,
    by_origin: HashMap<Origin, usize>,
    by_subject: HashMap<String, usize>,
}

/// There is no place for a connection that has proven itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error(
        "this node holds {max} connections, and takes no more: close some, or use another node"
    )]
    Node { max: usize },
    #[error("this node holds {max} connections from one address, and takes no more: share them")]
    Address { max: usize },
    #[error("this node holds {max} connections of {subject:?}, and takes no more: share them")]
    Subject { subject: String, max: usize },
}

impl Proven {
    pub(super) fn new(limits: MuxLimits) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            limits,
            clients: Tally::default(),
            peers: Tally::default(),
        }))
    }

    /// So many places there are for clients from now on. Those that have one keep it.
    pub(super) fn set_clients_max(&mut self, clients_max: usize) {
        self.limits.clients_max = clients_max;
    }

    /// A place for as long as the connection lives.
    pub(super) fn take(
        this: &Arc<Mutex<Self>>,
        kind: Kind,
        origin: Origin,
        subject: Option<String>,
    ) -> Result<Place, NoPlace> {
        let mut proven = this.lock();
        let limits = proven.limits;
        let tally = proven.tally(kind);
        let max = limits.of_node(kind);
        if tally.all >= max {
            return Err(NoPlace::Node { max });
        }
        let max = limits.of_address(kind);
        if tally
            .by_origin
            .get(&origin)
            .is_some_and(|held| *held >= max)
        {
            return Err(NoPlace::Address { max });
        }
        if let Some(subject) = &subject {
            let max = limits.of_subject(kind);
            if tally
                .by_subject
                .get(subject)
                .is_some_and(|held| *held >= max)
            {
                let subject = subject.clone();
                return Err(NoPlace::Subject { subject, max });
            }
            *tally.by_subject.entry(subject.clone()).or_default() += 1;
        }
        tally.all += 1;
        *tally.by_origin.entry(origin.clone()).or_default() += 1;
        drop(proven);
        Ok(Place {
            proven: Arc::clone(this),
            kind,
            origin,
            subject,
        })
    }

    /// How many there are, of clients and of peers.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.clients.all, self.peers.all)
    }

    fn tally(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::Grpc | Kind::Http => &mut self.clients,
            Kind::Raft => &mut self.peers,
        }
    }
}

/// The place of a connection that has proven itself. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    proven: Arc<Mutex<Proven>>,
    kind: Kind,
    origin: Origin,
    subject: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
        let mut proven = self.proven.lock();
        let tally = proven.tally(self.kind);
        tally.all -= 1;
        one_less(&mut tally.by_origin, &self.origin);
        if let Some(subject) = &self.subject {
            one_less(&mut tally.by_subject, subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use std::time::Duration;

    use super::*;
    use crate::net::mux::CLIENTS_MAX;

    fn limits() -> MuxLimits {
        MuxLimits {
            pending_max: 4,
            pending_peers_max: 2,
            clients_max: 8,
            peers_max: 4,
            ..MuxLimits::default()
        }
    }

    fn is_lost(pending: &mut Pending) -> bool {
        pending.lost().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_that_holds_the_most_gives_way_and_of_it_the_oldest() {
        let unproven = Unproven::new(limits());
        let admit = |from: &str| Unproven::admit(&unproven, Origin::of(from));
        let mut other = admit("192.0.2.1:1");
        let mut many = [2, 3, 4].map(|port| admit(&format!("192.0.2.2:{port}")));
        many[0].seat().speaks(Kind::Grpc);
        let mut late = admit("192.0.2.2:5");
        assert!(is_lost(&mut many[0]), "the oldest of the many");
        let _more = admit("192.0.2.3:1");
        assert!(is_lost(&mut many[1]));
        assert!(!is_lost(&mut other) && !is_lost(&mut many[2]) && !is_lost(&mut late));
    }

    #[tokio::test(start_paused = true)]
    async fn peers_have_places_of_their_own() {
        let unproven = Unproven::new(limits());
        let admit = |from: &str| Unproven::admit(&unproven, Origin::of(from));
        let mut peers = [admit("[::1]:1"), admit("[::1]:2")];
        peers.iter().for_each(|peer| peer.seat().speaks(Kind::Raft));
        let flood: Vec<_> = (0..100).map(|_| admit("[::1]:3")).collect();
        assert!(
            !peers.iter_mut().any(is_lost),
            "clients do not push them out"
        );
        flood[99].seat().speaks(Kind::Raft);
        assert!(is_lost(&mut peers[0]) && !is_lost(&mut peers[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_have_a_second_once_places_are_short() {
        let unproven = Unproven::new(limits());
        let admit = || Unproven::admit(&unproven, Origin::of("a:1"));
        let mut early = [admit(), admit()];
        tokio::time::advance(Duration::from_secs(2)).await;
        let mut third = admit();
        assert!(!early.iter_mut().any(is_lost), "there is room");
        let _fourth = admit();
        assert!(early.iter_mut().all(is_lost) && !is_lost(&mut third));
    }

    #[test]
    fn what_is_proven_is_counted_for_node_address_and_subject() {
        let proven = Proven::new(limits());
        let take = |kind, from: &str, subject: Option<&str>| {
            Proven::take(&proven, kind, Origin::of(from), subject.map(str::to_owned))
        };
        let of_subject = [(); 2].map(|()| take(Kind::Grpc, "a:1", Some("app")).unwrap());
        let full = take(Kind::Grpc, "b:1", Some("app")).unwrap_err();
        assert!(matches!(full, NoPlace::Subject { max: 2, .. }), "{full}");
        let _of_address = [(); 2].map(|()| take(Kind::Grpc, "a:1", None).unwrap());
        let full = take(Kind::Grpc, "a:2", Some("other")).unwrap_err();
        assert_eq!(full, NoPlace::Address { max: 4 });
        let _others = [(); 4].map(|()| take(Kind::Grpc, "c:1", None).unwrap());
        let full = take(Kind::Grpc, "d:1", None).unwrap_err();
        assert_eq!(full, NoPlace::Node { max: 8 });
        take(Kind::Raft, "a:1", Some("n1")).expect("peers have places of their own");
        drop(of_subject);
        take(Kind::Grpc, "b:1", Some("app")).expect("a place is free again");
    }

    #[test]
    fn few_descriptors_are_shared_out_and_never_exceeded() {
        for descriptors in [24, 128, 512, 10_000] {
            let limits = MuxLimits::within(CLIENTS_MAX, descriptors);
            let all = [
                limits.clients_max,
                limits.pending_max,
                limits.peers_max,
                limits.pending_peers_max,
            ];
            assert!(all.iter().sum::<usize>() <= descriptors, "{limits:?}");
        }
        assert_eq!(MuxLimits::default().clients_max, CLIENTS_MAX);
    }
}
