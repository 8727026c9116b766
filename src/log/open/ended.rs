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
        let mut ended = checkpoint.rolled;
        for segment in self.segments.iter_mut().rev() {
            if segment.next_index().0 > checkpoint.applied.0 + 1 {
                continue;
            }
            match segment.roll {
                Some(since) if segment.next_index() == ended => ended = since,
                _ => segment.roll = None,
            }
        }
    }
}
