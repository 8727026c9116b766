//! Where the frames of a segment stand: by the list of an open one, by the marks of a sealed one.

use super::store::Span;
use super::{Frames, Segment};
use crate::log::Index;
use crate::log::format::frame::HEADER_BYTES;

impl Segment {
    /// Where an entry's frame begins, if the segment is open.
    pub fn position(&self, index: Index) -> Option<u32> {
        let number = usize::try_from(index.0.checked_sub(self.base().0)?).ok()?;
        match &self.frames {
            Frames::Open(frames, _) => frames.get(number).map(|frame| frame.position),
            Frames::Sealed(_) => None,
        }
    }

    /// Frames that hold the entries from `from` on, before `to`, up to about `bytes_max` bytes: at
    /// least the first, and in a sealed segment some before it and behind it.
    pub fn span(&self, from: Index, to: Index, bytes_max: usize) -> Option<Span> {
        if from < self.base() || from >= self.next_index() {
            return None;
        }
        match &self.frames {
            Frames::Open(frames, _) => {
                let number = usize::try_from(from.0 - self.base().0).ok()?;
                let position = frames[number].position;
                let enough = |end: u32| (end - position) as usize > bytes_max;
                let last = to.min(self.next_index()).0 - self.base().0;
                let last = usize::try_from(last).ok()?.max(number + 1);
                let mut to = number + 1;
                while to < last && !enough(frames.get(to + 1).map_or(self.end, |f| f.position)) {
                    to += 1;
                }
                let end = frames.get(to).map_or(self.end, |frame| frame.position);
                let length = (end - position) as usize;
                Some(Span {
                    first: from,
                    position,
                    length,
                })
            }
            Frames::Sealed(seal) => {
                let last = Index(to.0.min(self.next_index().0).saturating_sub(1).max(from.0));
                let end = seal.mark_after(last, |_| true);
                let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
                let span = Span::marked(seal, from, bytes_max);
                let length = span.length.min((end - span.position) as usize);
                Some(Span { length, ..span })
            }
        }
    }

    /// A place that the frame of an entry does not reach beyond: its end, or one soon behind it.
    pub fn end_of(&self, index: Index) -> u32 {
        match &self.frames {
            Frames::Open(..) => self.position(Index(index.0 + 1)).unwrap_or(self.end),
            Frames::Sealed(seal) => seal.mark_after(index, |_| true),
        }
    }

    /// Where an entry's payload begins, if the segment is open.
    pub fn payload_at(&self, index: Index) -> Option<u32> {
        Some(self.position(index)? + HEADER_BYTES as u32)
    }

    /// Whether a batch can stand at a place that is an entry's; the segment is open.
    pub fn holds_at(&self, index: Index, place: u32) -> bool {
        let begins = self.payload_at(index);
        begins.is_some_and(|begins| begins < place && place < self.end_of(index))
    }
}
