//! What the nodes' clocks say, and whose word is taken.
//!
//! No clock is believed alone. Peers tell theirs with every answer to a leader, which compares its own: the
//! time counts that the clocks of a majority of the voters have reached. A peer's time goes on by this node's
//! monotonic clock from when it was heard. So a late answer makes a clock look late, and never early. Jumps and
//! clocks that are far off are told once, and kept for those who ask for the status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::env::{Clock, Instant};

use super::View;

/// How long a peer's word for its clock counts. In this time no two monotonic clocks drift apart by as much as
/// the bound.
const HEARD_FOR: Duration = Duration::from_secs(600);

/// The clocks of a cluster, as one node knows them; clones share it.
#[derive(Debug, Clone)]
pub struct Clocks(Arc<ClockTable>);

#[derive(Debug)]
struct ClockTable {
    me: u64,
    own: Clock,
    bound_ms: u64,
    state: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    heard: HashMap<u64, ClockReading>,
    /// The time that a majority's clocks told first. Later jumps of theirs make nothing older.
    first: Option<ClockReading>,
    /// The own clock at the last look.
    looked: ClockReading,
    jumps: u64,
    last_jump_ms: i64,
    /// Voters whose clocks were told to be far off.
    off: BTreeSet<u64>,
    /// The log's time was told to be ahead.
    ahead: bool,
}

/// A clock's time, and when it was heard.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    ms: u64,
    at: Instant,
}

impl ClockReading {
    /// What the clock says now, if it goes on as this node's monotonic one.
    fn now_ms(&self) -> u64 {
        self.ms.saturating_add(millis(self.at.elapsed()))
    }
}

/// What a majority of the voters' clocks says. With an odd number of clocks, all known, both are the
/// median; where clocks are missing, what they might say lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Majority {
    /// A majority has reached this.
    reached_ms: u64,
    /// A majority has not passed this.
    passed_by_none_ms: u64,
}

/// What is told of the clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClockReport {
    /// This node's, in milliseconds since 1970.
    pub now_ms: u64,
    /// How often it jumped since the node began.
    pub jumps: u64,
    /// By how much it did last.
    pub last_jump_ms: i64,
    /// How far the clocks of peers that answered this node lately are ahead of its own, or behind.
    pub offsets_ms: BTreeMap<u64, i64>,
    /// How long ago these peers answered this node last, in milliseconds.
    pub heard_ms: BTreeMap<u64, u64>,
}

impl Clocks {
    /// The clocks as node `me` knows them; one that is further than the bound off is not believed.
    pub fn new(own: Clock, me: u64, bound_ms: u64) -> Self {
        let looked = ClockReading {
            ms: own.now_ms(),
            at: Instant::now(),
        };
        Self(Arc::new(ClockTable {
            me,
            own,
            bound_ms,
            state: Mutex::new(Known {
                heard: HashMap::new(),
                first: None,
                looked,
                jumps: 0,
                last_jump_ms: 0,
                off: BTreeSet::new(),
                ahead: false,
            }),
        }))
    }

    /// This node's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.0.own.now_ms()
    }

    /// What a peer said of its clock.
    pub fn note(&self, peer: u64, ms: u64) {
        let at = Instant::now();
        self.0
            .state
            .lock()
            .heard
            .insert(peer, ClockReading { ms, at });
    }

    /// Whether a peer answered this node within such a span.
    pub fn heard_within(&self, peer: u64, span: Duration) -> bool {
        let state = self.0.state.lock();
        let heard = state.heard.get(&peer);
        heard.is_some_and(|heard| heard.at.elapsed() <= span)
    }

    /// The time that a leader takes for the present: its own clock's, or a majority's if its own is further off
    /// than the bound.
    pub fn present_ms(&self, view: &View) -> u64 {
        let (own, bound) = (self.now_ms(), self.0.bound_ms);
        let Some(majority) = self.majority(&self.0.state.lock(), view) else {
            return own;
        };
        let (reached, none) = (majority.reached_ms, majority.passed_by_none_ms);
        if own > reached.saturating_add(bound) {
            reached
        } else if own.saturating_add(bound) < none {
            // Where two clocks differ and no third one decides, the earlier counts.
            own.max(none.min(reached))
        } else {
            own
        }
    }

    /// A time that has surely come: by the clocks of a majority now, and by what they said first
    /// and the monotonic clock since. `None` on a node that has not heard a majority.
    ///
    /// What is removed for its age is old by this: a jump forward makes nothing older.
    pub fn surely_past_ms(&self, view: &View) -> Option<u64> {
        let mut state = self.0.state.lock();
        let reached = self.majority(&state, view)?.reached_ms;
        let first = state.first.get_or_insert_with(|| ClockReading {
            ms: reached,
            at: Instant::now(),
        });
        Some(reached.min(first.now_ms()))
    }

    fn majority(&self, state: &Known, view: &View) -> Option<Majority> {
        let voters = view.members.iter().filter(|member| member.voter);
        let needed = voters.clone().count() / 2 + 1;
        let clocks = voters.filter_map(|voter| self.clock_of(state, voter.id));
        let mut clocks: Vec<_> = clocks.collect();
        clocks.sort_unstable();
        Some(Majority {
            reached_ms: *clocks.get(clocks.len().checked_sub(needed)?)?,
            passed_by_none_ms: *clocks.get(needed - 1)?,
        })
    }

    fn clock_of(&self, state: &Known, id: u64) -> Option<u64> {
        if id == self.0.me {
            return Some(self.now_ms());
        }
        let heard = state.heard.get(&id)?;
        (heard.at.elapsed() < HEARD_FOR).then(|| heard.now_ms())
    }

    /// Tells of jumps, of clocks that are far off, and of a log that is ahead of them. For now and
    /// then.
    pub fn look(&self, view: &View, log_ms: u64) {
        self.look_at_own();
        if view.writable {
            self.look_at_voters(view);
            self.look_at_log(view, log_ms);
        }
    }

    fn look_at_own(&self) {
        let mut state = self.0.state.lock();
        let jump = difference(self.now_ms(), state.looked.now_ms());
        if jump.unsigned_abs() > self.0.bound_ms {
            state.jumps += 1;
            state.last_jump_ms = jump;
            tracing::warn!(
                jump_ms = jump,
                "the clock of this node jumped: see to its time synchronization"
            );
        }
        state.looked = ClockReading {
            ms: self.now_ms(),
            at: Instant::now(),
        };
    }

    /// A leader compares the clocks. A clock that is far off is told once, and again only after it was right in
    /// between.
    fn look_at_voters(&self, view: &View) {
        let mut state = self.0.state.lock();
        let Some(majority) = self.majority(&state, view) else {
            return;
        };
        for voter in view.members.iter().filter(|member| member.voter) {
            let Some(clock) = self.clock_of(&state, voter.id) else {
                continue;
            };
            let ahead = difference(clock, majority.reached_ms);
            let behind = difference(majority.passed_by_none_ms, clock);
            let name = &voter.member.name;
            // One of them is not negative.
            if ahead.max(behind).unsigned_abs() <= self.0.bound_ms {
                if state.off.remove(&voter.id) {
                    tracing::info!(node = %name, "its clock agrees with the others' again");
                }
            } else if state.off.insert(voter.id) {
                let ahead_ms = if ahead > behind { ahead } else { -behind };
                tracing::warn!(
                    node = %name,
                    ahead_ms,
                    "the clock of a node is far from the others': it is not believed; see to its \
                     time synchronization"
                );
            }
        }
    }

    fn look_at_log(&self, view: &View, log_ms: u64) {
        let present = self.present_ms(view);
        let ahead_ms = log_ms.saturating_sub(present);
        let ahead = ahead_ms > self.0.bound_ms;
        let was = std::mem::replace(&mut self.0.state.lock().ahead, ahead);
        if ahead && !was {
            tracing::warn!(
                ahead_ms,
                "the log's time is ahead of the clocks: it creeps until they reach it"
            );
        } else if was && !ahead {
            tracing::info!("the clocks have reached the log's time");
        }
    }

    /// What is known of the clocks now.
    pub fn report(&self) -> ClockReport {
        let state = self.0.state.lock();
        let now_ms = self.now_ms();
        let lately = |heard: &&ClockReading| heard.at.elapsed() < HEARD_FOR;
        let offsets = state.heard.iter().filter(|(_, heard)| lately(heard));
        let offset = |(id, heard): (&u64, &ClockReading)| (*id, difference(heard.now_ms(), now_ms));
        let ago = |(id, heard): (&u64, &ClockReading)| (*id, millis(heard.at.elapsed()));
        ClockReport {
            now_ms,
            jumps: state.jumps,
            last_jump_ms: state.last_jump_ms,
            offsets_ms: offsets.map(offset).collect(),
            heard_ms: state.heard.iter().map(ago).collect(),
        }
    }
}

/// A span in whole milliseconds.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// By how much a time is later than another.
fn difference(later: u64, earlier: u64) -> i64 {
    let span = i64::try_from(later.abs_diff(earlier)).unwrap_or(i64::MAX);
    if later < earlier { -span } else { span }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::{Member, MemberView};

    const START_MS: u64 = 1_000_000_000_000;
    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

    fn view(voters: u64) -> View {
        let member = |id| MemberView {
            id,
            member: Member::default(),
            voter: true,
        };
        View {
            writable: true,
            members: Arc::new((1..=voters).map(member).collect()),
            ..View::default()
        }
    }

    fn clocks(own_ms: i64, others_ms: &[i64]) -> Clocks {
        let at = |off: i64| START_MS.saturating_add_signed(off);
        let clocks = Clocks::new(Clock::simulated(at(own_ms)), 1, 1000);
        for (peer, off) in (2..).zip(others_ms) {
            clocks.note(peer, at(*off));
        }
        clocks
    }

    /// What the leader takes for the present, and what has surely come, of so many voters.
    fn judged(voters: u64, own_ms: i64, others_ms: &[i64]) -> (i64, Option<i64>) {
        let clocks = clocks(own_ms, others_ms);
        let view = view(voters);
        let off = |ms| difference(ms, START_MS);
        let past = clocks.surely_past_ms(&view);
        (off(clocks.present_ms(&view)), past.map(off))
    }

    #[tokio::test(start_paused = true)]
    async fn no_clock_is_believed_against_a_majority() {
        assert_eq!(judged(1, 5, &[]), (5, Some(5)), "there is no other");
        assert_eq!(judged(3, 900, &[0, 0]), (900, Some(0)), "within the bound");
        assert_eq!(judged(3, -900, &[0, 0]), (-900, Some(0)));
        assert_eq!(judged(3, YEAR_MS, &[0, 7]), (7, Some(7)));
        assert_eq!(judged(3, -YEAR_MS, &[0, 7]), (0, Some(0)));
        assert_eq!(judged(3, 3, &[YEAR_MS, 0]), (3, Some(3)));
        assert_eq!(judged(3, 3, &[-YEAR_MS, 0]), (3, Some(0)));
        assert_eq!(judged(5, 3, &[YEAR_MS, -YEAR_MS, 5, 7]), (3, Some(5)));
        // Two that differ, and none to decide: the earlier counts.
        assert_eq!(judged(3, YEAR_MS, &[0]), (0, Some(0)));
        assert_eq!(judged(3, -YEAR_MS, &[0]), (-YEAR_MS, Some(-YEAR_MS)));
        assert_eq!(judged(2, YEAR_MS, &[0]), (0, Some(0)));
        // Without a majority nothing has surely come.
        assert_eq!(judged(3, 5, &[]), (5, None));
        assert_eq!(judged(5, 5, &[0]), (5, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_makes_nothing_older() {
        let (own, view) = (Clock::simulated(START_MS), view(1));
        let clocks = Clocks::new(own.clone(), 1, 1000);
        assert_eq!(clocks.surely_past_ms(&view), Some(START_MS));
        own.jump(YEAR_MS);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clocks.surely_past_ms(&view), Some(START_MS + 60_000));
        own.jump(-2 * YEAR_MS);
        assert_eq!(clocks.surely_past_ms(&view), Some(own.now_ms()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_heard_goes_on_and_is_forgotten() {
        let clocks = clocks(0, &[0, 0]);
        tokio::time::advance(HEARD_FOR / 2).await;
        clocks.note(2, START_MS);
        let behind = -difference(clocks.now_ms(), START_MS);
        assert_eq!(clocks.report().offsets_ms, [(2, behind), (3, 0)].into());
        tokio::time::advance(HEARD_FOR / 2).await;
        assert_eq!(clocks.report().offsets_ms, [(2, behind)].into());
    }

    #[tokio::test(start_paused = true)]
    async fn jumps_are_counted() {
        let own = Clock::simulated(START_MS);
        let (clocks, view) = (Clocks::new(own.clone(), 1, 1000), view(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        own.jump(1000);
        clocks.look(&view, 0);
        assert_eq!(clocks.report().jumps, 0, "within the bound");
        own.jump(-YEAR_MS);
        clocks.look(&view, 0);
        clocks.look(&view, 0);
        let report = clocks.report();
        assert_eq!((report.jumps, report.last_jump_ms), (1, -YEAR_MS));
    }
}
