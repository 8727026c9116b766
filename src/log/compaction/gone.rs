//! Which records are gone, by their positions.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::batch::varint::{self, TooLarge};
use crate::log::{Error, NUMBER_MAX, Position};

/// The most bytes that say which records of a run of segments are gone.
pub const GONE_BYTES_MAX: usize = 512 << 10;

const BAD: Error = Error::Malformed("what says which records are gone cannot be read");

/// Positions of records that are gone: runs, in order, each as how many records live before it and how many it has
/// beside its first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone(Bytes);

/// Takes down positions, in order.
#[derive(Debug, Default)]
pub struct GoneWriter {
    bytes: BytesMut,
    /// The position behind the last run that was written.
    written: u64,
    run: Range<u64>,
}

/// The runs, in order.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    rest: Bytes,
    /// The position behind the last run that was read.
    read: u64,
    /// What is left of that run.
    run: Range<u64>,
}

impl GoneWriter {
    /// Takes the next position, which is behind the last one.
    pub fn push(&mut self, position: Position) {
        self.push_run(position.0..position.0 + 1);
    }

    /// Takes what is gone of positions that are behind the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if that cannot be read.
    pub fn extend(&mut self, gone: &Gone) -> Result<(), Error> {
        let mut runs = gone.runs();
        while runs.next_run()? {
            self.push_run(runs.run.clone());
        }
        Ok(())
    }

    fn push_run(&mut self, run: Range<u64>) {
        if self.run.end != run.start || self.run.is_empty() {
            self.end_run();
            self.run.start = run.start;
        }
        self.run.end = run.end;
    }

    fn end_run(&mut self) {
        if self.run.is_empty() {
            return;
        }
        varint::put(&mut self.bytes, self.run.start - self.written);
        varint::put(&mut self.bytes, self.run.end - self.run.start - 1);
        self.written = self.run.end;
    }

    /// The bytes so far, without those of the last run.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All of them.
    pub fn finish(mut self) -> Gone {
        self.end_run();
        Gone(self.bytes.freeze())
    }
}

impl Gone {
    /// Reads them back.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if they are none, or take more than [`GONE_BYTES_MAX`] bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        let gone = Self(bytes);
        let mut runs = gone.runs();
        while runs.next_run()? {}
        match gone.0.len() <= GONE_BYTES_MAX {
            true => Ok(gone),
            false => Err(BAD),
        }
    }

    /// The bytes that say it.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether nothing is gone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The runs.
    pub fn runs(&self) -> Runs {
        Runs {
            rest: self.0.clone(),
            ..Runs::default()
        }
    }
}

impl Runs {
    /// Goes to the next run; false behind the last.
    fn next_run(&mut self) -> Result<bool, Error> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let mut byte = || self.rest.try_get_u8().map_err(|_| TooLarge);
        let mut number = || varint::read(&mut byte).map_err(|TooLarge| BAD);
        let (lives, more) = (number()?, number()?);
        let start = self.read.checked_add(lives).ok_or(BAD)?;
        let end = start.checked_add(more).and_then(|last| last.checked_add(1));
        let end = end.filter(|end| *end <= NUMBER_MAX).ok_or(BAD)?;
        (self.read, self.run) = (end, start..end);
        Ok(true)
    }

    /// The next run of records that live in a range of positions which is behind those that were asked for before;
    /// `None` if none does.
    pub fn next_living(&mut self, within: &mut Range<u64>) -> Result<Option<Range<u64>>, Error> {
        while !within.is_empty() {
            if self.run.end <= within.start {
                if !self.next_run()? {
                    return Ok(Some(std::mem::replace(within, within.end..within.end)));
                }
                continue;
            }
            let lives = within.start..self.run.start.min(within.end);
            within.start = self.run.end.min(within.end).max(lives.end);
            if !lives.is_empty() {
                return Ok(Some(lives));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn gone(positions: impl IntoIterator<Item = u64>) -> Gone {
        let mut writer = GoneWriter::default();
        positions
            .into_iter()
            .for_each(|position| writer.push(Position(position)));
        writer.finish()
    }

    proptest! {
        #[test]
        fn what_is_not_gone_lives(
            positions in prop::collection::btree_set(0..200_u64, 0..150),
            cuts in prop::collection::btree_set(0..220_u64, 0..20),
        ) {
            let gone = gone(positions.iter().copied());
            prop_assert_eq!(&Gone::from_bytes(gone.bytes().clone()).unwrap(), &gone);
            prop_assert_eq!(gone.is_empty(), positions.is_empty());
            let (mut runs, mut from, mut lives) = (gone.runs(), 0, BTreeSet::new());
            for cut in cuts.into_iter().chain([220]) {
                let mut within = from..cut;
                let mut end = from;
                while let Some(run) = runs.next_living(&mut within).unwrap() {
                    prop_assert!(!run.is_empty() && run.start >= end && run.end <= cut);
                    end = run.end + 1;
                    lives.extend(run);
                }
                from = cut;
            }
            let wanted: BTreeSet<_> = (0..220).filter(|at| !positions.contains(at)).collect();
            prop_assert_eq!(lives, wanted);
        }
    }

    #[test]
    fn bytes_that_say_nothing_are_refused() {
        let long = gone((0..400_000).map(|number| number * 1000));
        assert!(long.bytes().len() > GONE_BYTES_MAX);
        let endless = Bytes::from(vec![0xff; 40]);
        for bad in [Bytes::from_static(b"\x01"), endless, long.bytes().clone()] {
            Gone::from_bytes(bad).unwrap_err();
        }
        let wide = [vec![0xff; 8], vec![0x7f], vec![0xff; 8], vec![0x7f]].concat();
        Gone::from_bytes(wide.into()).unwrap_err();
    }
}
