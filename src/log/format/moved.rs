//! What a rewritten segment says of itself besides its batches: where each record stood, and what the segment covers.
//!
//! Its store is frames, as any segment's: frames of batches first, log by log and in each log in order, with numbers in
//! the place of raft indexes. Batches do not say at which offset and position they stand, since the order of the raft log
//! told that. So frames of [`Kind::Moved`](super::frame::Kind::Moved) follow that say it of each batch, and the last one
//! says what the segment covers. The rows follow from the store alone (I3). Bytes are drawn in `docs/format.md`.

use bytes::{BufMut, Bytes, BytesMut};

use super::seal::TermEnd;
use crate::batch::varint::{self, TooLarge};
use crate::log::{Error, LogId, NUMBER_MAX, Offset, Position, Term};

/// A frame of places begins with this.
const PLACES: u8 = 0;
/// The last frame begins with this.
const COVER: u8 = 1;
/// A frame of places is cut once it has so many bytes.
const PLACES_BYTES: usize = if cfg!(test) { 32 } else { 256 << 10 };
/// More terms than any segment has.
const TERMS_MAX: u64 = 1 << 20;

const BAD: Error = Error::Malformed("what a rewritten segment says of its batches cannot be read");

impl From<TooLarge> for Bad {
    fn from(_: TooLarge) -> Self {
        Self
    }
}

/// Bytes that are no number.
struct Bad;

/// Where the records of a batch stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The position of the first.
    pub position: Position,
    /// Its offset in the log.
    pub offset: Offset,
    /// How many of the batch's first records were known before.
    pub known: u32,
}

/// What a batch says of itself that places are told beside.
#[derive(Debug, Clone, Copy)]
pub struct Of {
    pub log: LogId,
    /// How many records it holds, known ones included.
    pub count: u32,
}

/// What a rewritten segment covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover {
    /// The position of the first record that was in it or, without one, after it.
    pub first_position: Position,
    /// The position after the last.
    pub next_position: Position,
    /// No record in it is later, in milliseconds since 1970.
    pub sealed_ms: u64,
    /// The terms of the entries that it stands for, in order: at least one. The last one's last entry is the last of all.
    pub term_ends: Vec<TermEnd>,
}

/// What is most likely of the next place, from which it is told.
#[derive(Debug, Default)]
struct Likely {
    log: Option<LogId>,
    position: u64,
    offset: u64,
}

impl Likely {
    fn of(&self, log: LogId) -> (u64, u64) {
        match self.log == Some(log) {
            true => (self.position, self.offset),
            false => (self.position, 0),
        }
    }

    fn pass(&mut self, of: Of, place: &Place) {
        let records = u64::from(of.count.saturating_sub(place.known));
        *self = Self {
            log: Some(of.log),
            position: place.position.0.saturating_add(records),
            offset: place.offset.0.saturating_add(records),
        };
    }
}

/// Writes places, in the order of the batches, into frames.
#[derive(Debug, Default)]
pub struct PlacesWriter {
    likely: Likely,
    count: u64,
    bytes: BytesMut,
    frames: Vec<Bytes>,
}

impl PlacesWriter {
    /// Takes the next batch's.
    pub fn push(&mut self, of: Of, place: &Place) {
        let (position, offset) = self.likely.of(of.log);
        for (number, likely) in [(place.position.0, position), (place.offset.0, offset)] {
            varint::put(&mut self.bytes, zigzag(number.wrapping_sub(likely) as i64));
        }
        varint::put(&mut self.bytes, place.known.into());
        self.likely.pass(of, place);
        self.count += 1;
        if self.bytes.len() >= PLACES_BYTES {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut payload = BytesMut::with_capacity(self.bytes.len() + 1 + varint::BYTES_MAX);
        payload.put_u8(PLACES);
        varint::put(&mut payload, self.count);
        payload.extend_from_slice(&self.bytes);
        self.frames.push(payload.freeze());
        self.bytes.clear();
        self.count = 0;
    }

    /// The payloads of all frames, that of the cover last.
    pub fn finish(mut self, cover: &Cover) -> Vec<Bytes> {
        self.end_frame();
        let mut payload = BytesMut::new();
        payload.put_u8(COVER);
        for number in [
            cover.first_position.0,
            cover.next_position.0,
            cover.sealed_ms,
            cover.term_ends.len() as u64,
        ] {
            varint::put(&mut payload, number);
        }
        for end in &cover.term_ends {
            varint::put(&mut payload, end.entry.into());
            varint::put(&mut payload, end.term.0);
        }
        self.frames.push(payload.freeze());
        self.frames
    }
}

/// Reads places back.
#[derive(Debug, Default)]
pub struct PlacesReader {
    likely: Likely,
    cover: Option<Cover>,
}

impl PlacesReader {
    /// Reads the payload of a frame; `batches` are those that no place was told of yet, in order. Each place is given to
    /// `take` beside its batch.
    pub fn read<'b, B: 'b>(
        &mut self,
        payload: &[u8],
        batches: &mut impl Iterator<Item = (Of, B)>,
        mut take: impl FnMut(B, Place) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (tag, mut rest) = payload.split_first().ok_or(BAD)?;
        // Nothing follows the cover.
        if self.cover.is_some() {
            return Err(BAD);
        }
        match *tag {
            PLACES => {
                for _ in 0..number(&mut rest)? {
                    let (of, batch) = batches.next().ok_or(BAD)?;
                    let place = self.place(of, &mut rest)?;
                    take(batch, place)?;
                }
            }
            COVER => self.cover = Some(read_cover(&mut rest)?),
            _ => return Err(BAD),
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(BAD),
        }
    }

    fn place(&mut self, of: Of, rest: &mut &[u8]) -> Result<Place, Error> {
        let (position, offset) = self.likely.of(of.log);
        let mut near = |likely: u64| {
            let number = likely.wrapping_add(unzigzag(number(rest)?) as u64);
            (number <= NUMBER_MAX).then_some(number).ok_or(BAD)
        };
        let (position, offset) = (near(position)?, near(offset)?);
        let known = u32::try_from(number(rest)?).map_err(|_| BAD)?;
        if known >= of.count {
            return Err(BAD);
        }
        let place = Place {
            position: Position(position),
            offset: Offset(offset),
            known,
        };
        self.likely.pass(of, &place);
        Ok(place)
    }

    /// What the segment covers; `None` before the last frame.
    pub fn cover(self) -> Option<Cover> {
        self.cover
    }
}

fn read_cover(rest: &mut &[u8]) -> Result<Cover, Error> {
    let mut cover = Cover {
        first_position: Position(number(rest)?),
        next_position: Position(number(rest)?),
        sealed_ms: number(rest)?,
        term_ends: Vec::new(),
    };
    let terms = number(rest)?;
    // Each takes two bytes at least: memory is taken for what is there.
    if terms == 0 || terms > TERMS_MAX || terms > rest.len() as u64 / 2 {
        return Err(BAD);
    }
    for _ in 0..terms {
        let entry = u32::try_from(number(rest)?).map_err(|_| BAD)?;
        let term = Term(number(rest)?);
        cover.term_ends.push(TermEnd { entry, term });
    }
    let is_possible = cover.first_position <= cover.next_position
        && cover.next_position.0 <= NUMBER_MAX
        && cover
            .term_ends
            .windows(2)
            .all(|pair| pair[0].entry < pair[1].entry && pair[0].term < pair[1].term);
    is_possible.then_some(cover).ok_or(BAD)
}

fn number(rest: &mut &[u8]) -> Result<u64, Error> {
    let read = varint::read(|| {
        let Some((&byte, behind)) = rest.split_first() else {
            return Err(Bad);
        };
        *rest = behind;
        Ok(byte)
    });
    read.map_err(|Bad| BAD)
}

/// Small numbers of either sign become small ones.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover() -> Cover {
        let end = |entry, term| TermEnd {
            entry,
            term: Term(term),
        };
        Cover {
            first_position: Position(10),
            next_position: Position(5000),
            sealed_ms: 77,
            term_ends: vec![end(3, 1), end(999, 4)],
        }
    }

    fn places() -> Vec<(Of, Place)> {
        let of = |number: u64| Of {
            log: LogId((number / 30) as u32),
            count: 1 + number as u32 % 3,
        };
        let place = |number: u64| Place {
            position: Position(10 + number * 7919 % 4900),
            offset: Offset(number % 30 * 3),
            known: u32::from(number % 9 == 5) * (number as u32 % 3),
        };
        (0..100).map(|number| (of(number), place(number))).collect()
    }

    fn frames() -> Vec<Bytes> {
        let mut writer = PlacesWriter::default();
        for (of, place) in places() {
            writer.push(of, &place);
        }
        writer.finish(&cover())
    }

    fn read(frames: &[Bytes]) -> Result<(Vec<Place>, Option<Cover>), Error> {
        let mut reader = PlacesReader::default();
        let mut batches = places().into_iter().map(|(of, _)| (of, ()));
        let mut found = Vec::new();
        for frame in frames {
            reader.read(frame, &mut batches, |(), place| {
                found.push(place);
                Ok(())
            })?;
        }
        Ok((found, reader.cover()))
    }

    #[test]
    fn places_come_back_over_several_frames() {
        let frames = frames();
        assert!(frames.len() > 3, "{}", frames.len());
        let (found, covers) = read(&frames).unwrap();
        assert!(
            found
                .into_iter()
                .eq(places().into_iter().map(|(_, place)| place))
        );
        assert_eq!(covers, Some(cover()));
        let (none, covers) = read(&PlacesWriter::default().finish(&cover())).unwrap();
        assert!(none.is_empty() && covers == Some(cover()));
    }

    #[test]
    fn what_is_none_is_refused_and_takes_no_memory() {
        let frames = frames();
        for (number, frame) in frames.iter().enumerate() {
            for cut in 0..frame.len() {
                let mut all = frames.clone();
                all[number] = frame.slice(..cut);
                assert!(read(&all).is_err(), "frame {number} cut at {cut}");
            }
        }
        let mut behind = frames.clone();
        behind.push(frames[0].clone());
        assert!(read(&behind).is_err(), "nothing follows the cover");
        let many = [COVER, 0, 0, 0, 0xff, 0xff, 0x3f];
        assert!(read(&[Bytes::copy_from_slice(&many)]).is_err());
        assert_eq!(
            [0, -1, 1, i64::MIN].map(zigzag).map(unzigzag),
            [0, -1, 1, i64::MIN]
        );
    }
}
