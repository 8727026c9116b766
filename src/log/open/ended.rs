//! Which of the segments that a start finds were ended by the log, and from where on the last one counts.

use super::recovery::{Checkpoint, Recovered};
use crate::log::Index;
use crate::log::segment::Segment;

impl Recovered {
    /// Takes note of a Roll: the last entry read so far of a segment. Behind the checkpoint it is known at once whether
    /// it ended the segment. Of a Roll that the checkpoint covers, [`Self::ended_by_checkpoint`] finds out.
    pub fn rolls(&mut self, segment: &mut Segment, since: Index, covered: Index) {
        let next = segment.next_index();
        if next <= covered {
            segment.roll = Some(since);
        } else if since == self.rolled {
            segment.roll = Some(since);
            self.rolled = next;
        }
    }

    /// Finds which of the Rolls that a checkpoint covers ended their segments. The checkpoint names the last of them, and
    /// each names the one before it: this walks that chain back.
    pub fn ended_by_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let mut ended = Some(checkpoint.rolled);
        for segment in self.segments.iter_mut().rev() {
            let next = segment.next_index();
            if next.0 > checkpoint.applied.0 + 1 {
                continue;
            }
            let is_one = ended.is_none_or(|ended| ended == next);
            match segment.roll {
                Some(since) if is_one => ended = Some(since),
                // A seal tells that a Roll ended its segment, and not which Roll came before. The chain goes on with the
                // first older segment that ends in one.
                None if is_one && segment.is_rolled() => ended = None,
                _ => segment.roll = None,
            }
        }
    }
}
