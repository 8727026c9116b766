//! Clients that read: ranges of every consistency from single nodes, and one stream on and on.

use std::time::Duration;

use ferrolog::client::{ClientError, Consistency, ConsumeOptions, Start};
use ferrolog::proto::v1::{ConsumeRequest, ConsumeResponse, Records};
use ferrolog::reason::Reason;
use prost::Message;
use tokio::time::{Instant, timeout};

use super::Hand;
use super::writing::within;
use crate::events;
use crate::harness::checker::{Entry, Read, ReadKind, hash};
use crate::plan::{draw, pick};
use crate::system;

/// Records of a subscriber that are written down together.
const PART: usize = 20;

/// What an answer holds from an offset on.
fn entries(answer: &ConsumeResponse, from: u64) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for stored in &answer.batches {
        let batch = stored.batch.as_ref().ok_or("a batch is missing")?;
        let records = Records::decode(batch.records.clone()).map_err(|error| error.to_string())?;
        for (record, offset) in records.records.iter().zip(stored.first_offset..) {
            let hash = hash(record.value.as_deref().unwrap_or_default());
            entries.push(Entry { offset, hash });
        }
    }
    entries.retain(|entry| entry.offset >= from);
    Ok(entries)
}

/// Reads of a range near the end, each of one node.
pub async fn read(hand: Hand) {
    let mut clients: Vec<_> = hand.servers.iter().map(|server| hand.raw(server)).collect();
    // What this client has seen, and says when it reads by that.
    let (session, mut seen) = (hand.record.session(), 0);
    while !hand.is_told_to_stop() {
        let at = draw(&hand.random, 0..=clients.len() as u64 - 1) as usize;
        let back = pick(&hand.random, &[0, 1, 20, 500]);
        let from = hand
            .record
            .lock()
            .next
            .saturating_sub(draw(&hand.random, 0..=back));
        let bound = Duration::from_millis(pick(&hand.random, &[50, 500, 3000]));
        let (kind, asked, from) = match draw(&hand.random, 0..=9) {
            0..=4 => (ReadKind::Strong, Consistency::Strong, from),
            5..=6 => (ReadKind::Bounded(bound), Consistency::Bounded(bound), from),
            7 => (
                ReadKind::Relaxed,
                Consistency::Relaxed,
                from.saturating_sub(50),
            ),
            _ => (
                ReadKind::Relaxed,
                Consistency::AtLeast(seen),
                from.min(seen),
            ),
        };
        let begin = system::elapsed();
        let request = ConsumeRequest {
            log: hand.log.clone(),
            start: Some((&Start::Offset(from)).into()),
            consistency: Some(asked.into()),
            records_max: pick(&hand.random, &[0, 1, 10]),
            wait_ms_max: pick(&hand.random, &[0, 0, 200]),
            ..ConsumeRequest::default()
        };
        match within(clients[at].consume(request)).await {
            Ok(answer) => {
                let tail = answer.freshness.as_ref().map(|told| told.applied_offset);
                let node = answer.freshness.as_ref().map(|told| told.node.clone());
                let by_session = matches!(asked, Consistency::AtLeast(_));
                let tail = tail.unwrap_or_default();
                if let Consistency::AtLeast(least) = asked
                    && tail < least
                {
                    hand.record
                        .wrong(format!("a read at {least} was answered at {tail}"));
                }
                seen = seen.max(tail);
                match entries(&answer, from) {
                    Ok(entries) => hand.record.read(Read {
                        session: by_session.then_some(session),
                        kind,
                        node: node.unwrap_or_default(),
                        begin,
                        end: system::elapsed(),
                        from,
                        seen: entries,
                        tail,
                    }),
                    Err(error) => hand.record.wrong(format!("a read from {from}: {error}")),
                }
            }
            Err(status) => {
                let reason = Reason::of(&status);
                events::note(format_args!("read refused {:?} {reason:?}", status.code()));
                match reason {
                    Some(Reason::Stale) => events::sometimes("a bounded read was refused"),
                    Some(Reason::SegmentDamaged) => {
                        events::sometimes("a damaged segment was read");
                    }
                    Some(Reason::Corrupt | Reason::MalformedBatch | Reason::Internal) => {
                        hand.record.wrong(format!("a read from {from}: {status:?}"));
                    }
                    _ => {}
                }
            }
        }
        hand.think().await;
    }
}

/// Reads all there is, on and on, across breaks. It ends once it has read up to where the log ends at last.
pub async fn subscribe(hand: Hand) {
    let client = hand.client();
    let mut start = Start::Earliest;
    loop {
        let options = ConsumeOptions {
            from: start.clone(),
            follow: true,
            ..ConsumeOptions::default()
        };
        let Ok(mut consumer) = client.consume(options) else {
            return;
        };
        let session = hand.record.session();
        let mut seen = Vec::<Entry>::new();
        let mut begin = system::elapsed();
        let mut stop = hand.stop.clone();
        // Now and then it reads no more for a while, and goes on where it was.
        let until = Instant::now() + Duration::from_millis(draw(&hand.random, 500..=5000));
        let ended = loop {
            let next = tokio::select! {
                biased;
                _ = tokio::time::sleep_until(until) => break None,
                next = consumer.next() => next,
                _ = tokio::time::sleep(Duration::from_millis(500)) => {
                    flush(&hand, session, &mut seen, &mut begin);
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => break None,
            };
            match next {
                Some(Ok(record)) => {
                    let (offset, hash) = (record.offset, hash(&record.record.value));
                    seen.push(Entry { offset, hash });
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            }
            if seen.len() >= PART {
                flush(&hand, session, &mut seen, &mut begin);
            }
        };
        flush(&hand, session, &mut seen, &mut begin);
        match ended {
            Some(ClientError::Trimmed { first, .. }) => {
                events::sometimes("a subscriber was overtaken by a trim");
                start = Start::Offset(first);
            }
            Some(error) => {
                events::note(format_args!("{} {error}", hand.name));
                if matches!(
                    error,
                    ClientError::Gap { .. } | ClientError::Protocol { .. }
                ) {
                    hand.record.wrong(format!("{}: {error}", hand.name));
                }
                let at = hand.record.lock().positions.get(&hand.name).copied();
                start = at.map_or(Start::Earliest, Start::Offset);
                hand.think().await;
            }
            None => {
                let rest = Duration::from_millis(draw(&hand.random, 0..=2000));
                let _ = timeout(rest, stop.wait_for(|stop| *stop)).await;
                let at = hand.record.lock().positions.get(&hand.name).copied();
                start = at.map_or(Start::Earliest, Start::Offset);
            }
        }
        if hand.is_told_to_stop() {
            return;
        }
    }
}

fn flush(hand: &Hand, session: u32, seen: &mut Vec<Entry>, begin: &mut Duration) {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
        return;
    };
    let (from, next) = (first.offset, last.offset + 1);
    hand.record.lock().positions.insert(hand.name.clone(), next);
    hand.record.read(Read {
        session: Some(session),
        kind: ReadKind::Stream,
        node: hand.name.clone(),
        begin: *begin,
        end: system::elapsed(),
        from,
        seen: std::mem::take(seen),
        tail: next,
    });
    *begin = system::elapsed();
}
