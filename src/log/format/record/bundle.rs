//! Bundles: batches of one call, for several logs, that are appended together or not at all.
//!
//! The batches of a bundle stand side by side in a payload; each but the last says that it goes with the next.
//! The first one carries the session, whose sequence numbers go on over all of them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::log::Error;

use super::{Batch, batch, check as checksum, length_of};

/// Puts batches side by side, so that they are appended together or not at all.
pub fn bundle(batches: &[Bytes]) -> Bytes {
    if let [alone] = batches {
        return alone.clone();
    }
    let mut out = BytesMut::with_capacity(batches.iter().map(Bytes::len).sum());
    for (number, bytes) in batches.iter().enumerate() {
        let at = out.len();
        out.put_slice(bytes);
        if number + 1 < batches.len() {
            checksum::join_next(&mut out[at..]);
        }
    }
    out.freeze()
}

/// The bundles of a payload's batches, in order.
pub fn bundles<'b, 'p>(batches: &'b [Batch<'p>]) -> impl Iterator<Item = &'b [Batch<'p>]> {
    batches.chunk_by(|batch, _| batch.with_next)
}

/// Hands out the batches that stand side by side, whose bytes were checked.
pub fn for_each(mut bytes: &mut [u8], mut each: impl FnMut(&mut [u8])) {
    while let Some(length) = length_of(bytes).filter(|length| *length <= bytes.len()) {
        let (batch, behind) = bytes.split_at_mut(length);
        each(batch);
        bytes = behind;
    }
}

/// How many records the batches of a bundle hold.
pub fn records_of(bundle: &[Batch<'_>]) -> u64 {
    bundle.iter().map(|batch| u64::from(batch.count)).sum()
}

/// Checks the bytes of one bundle alone, as they are handed in.
pub fn check_bundle(bytes: &[u8]) -> Result<Vec<Batch<'_>>, Error> {
    let mut found = vec![batch(bytes, 0)?];
    while let Some(last) = found.last().filter(|last| last.with_next) {
        found.push(batch(bytes, last.end)?);
    }
    let end = found.last().map_or(0, |last| last.end);
    if end != bytes.len() {
        return Err(Error::Malformed("bytes follow its last batch"));
    }
    check(&found)?;
    Ok(found)
}

/// Checks that the batches of each bundle can be appended together.
pub fn check(batches: &[Batch<'_>]) -> Result<(), Error> {
    if batches.last().is_some_and(|last| last.with_next) {
        return Err(Error::Malformed("a batch goes with one that is not there"));
    }
    for bundle in bundles(batches).filter(|bundle| bundle.len() > 1) {
        let goes_on = |batch: &Batch<'_>| batch.producer.is_none();
        if !bundle[1..].iter().all(goes_on) {
            let what = "a session is named in the midst of batches that go together";
            return Err(Error::Malformed(what));
        }
        if u32::try_from(records_of(bundle)).is_err() {
            return Err(Error::Malformed(
                "batches that go together hold over 2^32 records",
            ));
        }
        if bundle.iter().any(|batch| batch.packed.is_none()) {
            return Err(Error::Malformed("plain records go with other batches"));
        }
        let mut logs: Vec<_> = bundle.iter().map(|batch| batch.log).collect();
        logs.sort_unstable();
        if logs.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Malformed(
                "two batches that go together name one log",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Compression;
    use crate::log::LogId;
    use crate::log::record::{BatchBuilder, Conditions, Producer, batches, join, packed};

    fn of(log: u32, session: Option<u128>) -> Bytes {
        let producer = session.map(|session| Producer {
            session,
            sequence: 7,
            owner: 0,
        });
        let conditions = Conditions::default();
        packed(
            LogId(log),
            producer,
            &conditions,
            Compression::None,
            2,
            b"records",
        )
    }

    #[test]
    fn batches_that_go_together_come_back_together() {
        let three = bundle(&[of(1, Some(5)), of(0, None), of(2, None)]);
        let alone = bundle(&[of(1, None)]);
        assert_eq!(alone, of(1, None));
        assert_eq!(check_bundle(&three).unwrap().len(), 3);
        assert_eq!(check_bundle(&alone).unwrap().len(), 1);
        let payload = join([&alone, &three, &alone].into_iter(), Some(9));
        let found = batches(&payload).unwrap();
        let logs = bundles(&found).map(|bundle| {
            let logs = bundle.iter().map(|batch| batch.log.0);
            logs.collect::<Vec<_>>()
        });
        assert_eq!(logs.collect::<Vec<_>>(), [vec![1], vec![1, 0, 2], vec![1]]);
    }

    #[test]
    fn what_cannot_go_together_is_no_bundle() {
        let mut plain = BatchBuilder::of(LogId(3), None);
        plain.push(b"a", 0, 0);
        let whole = bundle(&[of(1, None), of(2, None)]);
        let torn = of(1, None).len();
        let bad = [
            (
                "one log twice",
                bundle(&[of(1, None), of(2, None), of(1, None)]),
            ),
            ("a session later", bundle(&[of(1, None), of(2, Some(5))])),
            ("plain records", bundle(&[of(1, None), plain.finish()])),
            ("one that lacks the last", whole.slice(..torn)),
            ("two bundles", [of(1, None), of(2, None)].concat().into()),
            ("a torn one", whole.slice(..whole.len() - 1)),
            ("nothing", Bytes::new()),
        ];
        for (what, bytes) in bad {
            assert!(check_bundle(&bytes).is_err(), "{what}");
            if what != "two bundles" && !bytes.is_empty() {
                let payload = join([bytes].iter(), None);
                assert!(batches(&payload).is_err(), "{what}");
            }
        }
    }
}
