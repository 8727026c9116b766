//! Which of the segments that a start finds were ended by the log, and from where on the last one counts.

use super::recovery::{Checkpoint, Recovered};
use crate::log::Index;
use crate::log::segment::Segment;

impl Recovered {
    /// Takes note of an entry of a segment that names what it ends, and comes last so far. Whether it ended it is known
    /// at once if no checkpoint covers it, of others by [`Self::ended_by_checkpoint`].
    pub fn rolls(&mut self, segment: &mut Segment, since: Index, covered: Index) {
        let next = segment.next_index();
        if next <= covered {
            segment.roll = Some(since);
        } else if since == self.rolled {
            segment.roll = Some(since);
            self.rolled = next;
        }
    }

    /// Looks which of the entries that a checkpoint covers ended segments: those that one leads to, from the last one
    /// back, since each names the one before.
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
                // Its seal tells that one ended it, and not which was before: the next that is found is taken for it.
                None if is_one && segment.is_rolled() => ended = None,
                _ => segment.roll = None,
            }
        }
    }
}
