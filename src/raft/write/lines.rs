//! Batches that wait for their turn: callers are served in turn, and a caller's batches keep their order.
//!
//! In one line for all, a small batch would wait behind every large one that came before it. So each caller
//! has a line of its own, and at each of its turns a number of bytes is served (Shreedhar and Varghese,
//! "Efficient Fair Queuing Using Deficit Round Robin", 1995). A caller that had nothing waiting has its first
//! turn before the others have their next one (RFC 8290, section 4.2). In every second group the others come
//! first, so that many new callers cannot keep them waiting for ever.

use std::collections::{HashMap, VecDeque};

use super::proposals::{Caller, Proposal};

/// How many bytes of a caller are served at one turn.
const TURN_BYTES: usize = 16 << 10;
/// The bytes of a group before its batches: their count, and the time.
const GROUP_OVERHEAD: usize = 12;

/// The batches that wait, in a line for each caller.
#[derive(Debug, Default)]
pub struct Lines {
    lines: HashMap<Caller, Line>,
    /// Callers that have had no turn yet, the next one first.
    fresh: VecDeque<Caller>,
    /// Callers that have had a turn, the next one first.
    turns: VecDeque<Caller>,
    /// The last group served fresh callers and was full before the others had their turn, so the others come first
    /// now.
    others_first: bool,
    count: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Proposal>,
    /// How many bytes the caller may still be served at this turn.
    credit: usize,
    /// The last group was full in the middle of the caller's turn, which goes on in the next one.
    has_begun: bool,
}

/// A group in the making.
struct Taken {
    proposals: Vec<Proposal>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

/// The group is full.
struct NoMore;

impl Taken {
    fn check(&self, more: usize) -> Result<(), NoMore> {
        let count = self.proposals.len();
        let is_full = count == self.count_max || self.bytes + more > self.bytes_max;
        if is_full && count > 0 {
            Err(NoMore)
        } else {
            Ok(())
        }
    }
}

impl Lines {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all batches that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, proposal: Proposal) {
        let line = self.lines.entry(proposal.caller).or_default();
        if line.waiting.is_empty() {
            self.fresh.push_back(proposal.caller);
        }
        self.count += 1;
        self.bytes += proposal.batch.len();
        line.waiting.push_back(proposal);
    }

    /// The next batches, up to a group's limits; at least one, if any waits.
    pub fn take(&mut self, count_max: usize, bytes_max: usize) -> Vec<Proposal> {
        let mut group = Taken {
            proposals: Vec::new(),
            bytes: GROUP_OVERHEAD,
            count_max,
            bytes_max,
        };
        if std::mem::take(&mut self.others_first) {
            let _ = self.serve_others(&mut group).is_ok() && self.serve_fresh(&mut group).is_ok();
        } else {
            let is_full = self.serve_fresh(&mut group).is_err();
            let passed_others = !group.proposals.is_empty();
            // Callers that fresh ones have passed are served before callers that come meanwhile.
            self.others_first = is_full || self.serve_others(&mut group).is_err() && passed_others;
        }
        self.count -= group.proposals.len();
        self.bytes -= group.bytes - GROUP_OVERHEAD;
        group.proposals
    }

    fn serve_fresh(&mut self, group: &mut Taken) -> Result<(), NoMore> {
        while let Some(&caller) = self.fresh.front() {
            self.serve(caller, group)?;
            self.fresh.pop_front();
            self.pass_on(caller);
        }
        Ok(())
    }

    fn serve_others(&mut self, group: &mut Taken) -> Result<(), NoMore> {
        while let Some(&caller) = self.turns.front() {
            self.serve(caller, group)?;
            self.turns.pop_front();
            self.pass_on(caller);
        }
        Ok(())
    }

    /// Gives a caller its turn, or the rest of one that a full group cut short.
    fn serve(&mut self, caller: Caller, group: &mut Taken) -> Result<(), NoMore> {
        let line = self.lines.entry(caller).or_default();
        if !std::mem::replace(&mut line.has_begun, true) {
            line.credit += TURN_BYTES;
        }
        while let Some(next) = line.waiting.front()
            && next.batch.len() <= line.credit
        {
            let bytes = next.batch.len();
            group.check(bytes)?;
            line.credit -= bytes;
            group.bytes += bytes;
            group.proposals.extend(line.waiting.pop_front());
        }
        line.has_begun = false;
        Ok(())
    }

    /// Puts a caller into the line for its next turn, if it has batches that wait.
    fn pass_on(&mut self, caller: Caller) {
        match self.lines.get(&caller) {
            Some(line) if !line.waiting.is_empty() => self.turns.push_back(caller),
            _ => drop(self.lines.remove(&caller)),
        }
    }

    /// Takes out the batches that are over, and those that the same caller queued behind them: no batch may be
    /// appended without the ones that its caller queued before.
    pub fn give_up(&mut self, is_over: impl Fn(&Proposal) -> bool) -> Vec<Proposal> {
        let mut given_up = Vec::new();
        for line in self.lines.values_mut() {
            if let Some(first) = line.waiting.iter().position(&is_over) {
                given_up.extend(line.waiting.drain(first..));
            }
        }
        if !given_up.is_empty() {
            self.lines.retain(|_, line| !line.waiting.is_empty());
            self.fresh.retain(|caller| self.lines.contains_key(caller));
            self.turns.retain(|caller| self.lines.contains_key(caller));
            self.count -= given_up.len();
            let bytes = given_up.iter().map(|proposal| proposal.batch.len());
            self.bytes -= bytes.sum::<usize>();
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: usize = 256 << 10;
    const MANY: usize = 1024;

    fn push(lines: &mut Lines, caller: Caller, bytes: usize) {
        let (mut proposal, _) = Proposal::of_test("");
        proposal.batch = vec![7; bytes].into();
        proposal.caller = caller;
        lines.push(proposal);
    }

    fn take(lines: &mut Lines) -> Vec<(Caller, usize)> {
        let taken = lines.take(MANY, GROUP).into_iter();
        taken
            .map(|proposal| (proposal.caller, proposal.batch.len()))
            .collect()
    }

    #[test]
    fn what_is_small_waits_for_nothing_large_and_a_caller_keeps_its_order() {
        let mut lines = Lines::default();
        let [large, mixed, small] = [0; 3].map(|_| Caller::next());
        for _ in 0..3 {
            push(&mut lines, large, 4 << 20);
        }
        push(&mut lines, mixed, 1);
        push(&mut lines, mixed, 1 << 20);
        push(&mut lines, mixed, 2);
        push(&mut lines, small, 100);
        push(&mut lines, small, 101);
        assert_eq!(
            take(&mut lines),
            [(mixed, 1), (small, 100), (small, 101)],
            "at their first turn"
        );
        // Behind its own large one, which takes fewer turns than those that are larger.
        assert_eq!(take(&mut lines), [(mixed, 1 << 20)]);
        assert_eq!(take(&mut lines), [(mixed, 2)]);
        for left in (0..3).rev() {
            assert_eq!(take(&mut lines), [(large, 4 << 20)]);
            assert_eq!((lines.len(), lines.bytes()), (left, left * (4 << 20)));
        }
        assert!(lines.is_empty() && take(&mut lines).is_empty());
    }

    #[test]
    fn who_comes_anew_passes_those_whose_turn_is_near_but_for_every_second_group() {
        let mut lines = Lines::default();
        for _ in 0..7 {
            push(&mut lines, Caller::next(), 4 << 20);
        }
        for _ in 0..3 {
            // All the others are close to their turn by now.
            assert_eq!(take(&mut lines)[0].1, 4 << 20);
            push(&mut lines, Caller::next(), 100);
            assert_eq!(take(&mut lines)[0].1, 100);
        }
        for _ in 0..100 {
            push(&mut lines, Caller::next(), 10 << 10);
        }
        let first_of_each = [0; 8].map(|_| take(&mut lines)[0].1);
        let (small, large) = (10 << 10, 4 << 20);
        assert_eq!(
            first_of_each[..6],
            [large, small, large, small, large, small],
            "the last group was of one that came anew"
        );
    }

    #[test]
    fn what_is_large_is_served_though_small_ones_come_anew_all_the_time() {
        let mut lines = Lines::default();
        let behind = Caller::next();
        push(&mut lines, Caller::next(), 4 << 20);
        push(&mut lines, behind, 100);
        push(&mut lines, behind, 200 << 10);
        let mut served = Vec::new();
        for _ in 0..6 {
            push(&mut lines, Caller::next(), 100);
            served.extend(take(&mut lines));
        }
        assert!(
            served.iter().any(|(_, bytes)| *bytes == 4 << 20),
            "{served:?}"
        );
        assert!(served.contains(&(behind, 200 << 10)), "{served:?}");
    }

    #[test]
    fn callers_share_what_there_is_and_groups_are_full() {
        let mut lines = Lines::default();
        let callers = [0; 4].map(|_| Caller::next());
        for caller in callers {
            for _ in 0..1000 {
                push(&mut lines, caller, 1000);
            }
        }
        let mut served = HashMap::<_, usize>::new();
        for _ in 0..8 {
            let group = take(&mut lines);
            let bytes: usize = group.iter().map(|(_, bytes)| bytes).sum();
            assert!((GROUP - 1100..=GROUP).contains(&bytes), "{bytes}");
            for (caller, bytes) in group {
                *served.entry(caller).or_default() += bytes;
            }
        }
        let (least, most) = (served.values().min(), served.values().max());
        assert!(
            most.unwrap() - least.unwrap() <= 2 * TURN_BYTES,
            "{served:?}"
        );
        assert_eq!(
            lines.take(7, GROUP).len(),
            7,
            "and no more than there may be"
        );
    }

    #[test]
    fn who_gives_up_loses_nobody_else_a_place_and_all_that_it_queued_behind() {
        let mut lines = Lines::default();
        let callers = [0; 3].map(|_| Caller::next());
        for number in 0..3 {
            for caller in callers {
                push(&mut lines, caller, 10 + number);
            }
        }
        let is_over = |proposal: &Proposal| {
            let second = proposal.caller == callers[1] && proposal.batch.len() == 11;
            proposal.caller == callers[0] || second
        };
        let mut gone = [0; 3];
        for proposal in lines.give_up(is_over) {
            let whose = callers.iter().position(|caller| *caller == proposal.caller);
            gone[whose.unwrap()] += 1;
        }
        assert_eq!(gone, [3, 2, 0], "a caller's third goes with its second");
        assert_eq!((lines.len(), lines.bytes()), (4, 10 + 33));
        let left = [10, 11, 12].map(|bytes| (callers[2], bytes));
        assert_eq!(take(&mut lines), [&[(callers[1], 10)], &left[..]].concat());
    }
}
