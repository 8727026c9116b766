//! The rules of order: in real time, and of one producer's records.

use std::time::Duration;

use super::verdict::{Rule, Violation};
use super::{Append, Checker, NOBODY, NOWHERE, Outcome};

impl Checker<'_> {
    /// Wrong is a record at a higher offset that was acknowledged before one at a lower offset began: so each
    /// is held against the latest start below it.
    pub(super) fn real_time_order(&mut self) {
        let mut at = vec![NOBODY; self.owners.len()];
        for (number, place) in (0..).zip(&self.places) {
            if let Some(slot) = usize::try_from(*place)
                .ok()
                .and_then(|place| at.get_mut(place))
            {
                *slot = number;
            }
        }
        let mut latest: Option<(Duration, u64)> = None;
        for (offset, number) in (0..).zip(&at).filter(|(_, number)| **number != NOBODY) {
            let append = &self.history.appends[*number as usize];
            self.report.add(Rule::RealTimeOrder, 1);
            if let (Some((began, below)), Outcome::Acked(_)) = (latest, append.outcome)
                && append.end < began
            {
                self.found.push(Violation::RealTimeOrder {
                    offset,
                    acked: append.end,
                    below,
                    began,
                });
            }
            if latest.is_none_or(|(began, _)| append.begin > began) {
                latest = Some((append.begin, offset));
            }
        }
    }

    /// A producer's records stand in the order of their numbers, and one number has one offset.
    pub(super) fn session_order(&mut self) {
        let appends = &self.history.appends;
        let mut order: Vec<u32> = (0..).take(appends.len()).collect();
        let key = |number: &u32| {
            let append = &appends[*number as usize];
            (append.producer, append.seq)
        };
        if !order.is_sorted_by_key(key) {
            order.sort_by_key(key);
        }
        // The last record with a place: its producer, its number and its offset.
        let mut last: Option<(u32, u64, u64)> = None;
        for number in order {
            let Append { producer, seq, .. } = appends[number as usize];
            let offset = match appends[number as usize].outcome {
                Outcome::Acked(offset) => offset,
                _ => self.places[number as usize],
            };
            if offset == NOWHERE {
                continue;
            }
            self.report.add(Rule::SessionOrder, 1);
            let before = last.replace((producer, seq, offset));
            let Some((_, before, at)) = before.filter(|before| before.0 == producer) else {
                continue;
            };
            if before == seq && at != offset {
                self.found.push(Violation::TwoAnswers {
                    producer,
                    seq,
                    offsets: (at, offset),
                });
            } else if before != seq && at >= offset {
                self.found.push(Violation::SessionOrder {
                    producer,
                    seqs: (before, seq),
                    offsets: (at, offset),
                });
            }
        }
    }
}
