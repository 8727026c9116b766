//! A client that appends to several logs in one call.

use ferrolog::client::{AppenderOptions, BatchFor, ClientError};
use ferrolog::reason::Reason;

use super::Hand;
use super::writing::{outcome_of, records};
use crate::events;
use crate::harness::checker::Outcome;
use crate::plan::{draw, one_in, pick};

/// Appends to some of the lasting logs at once, sometimes on the condition that one of them ends where it is known to.
pub async fn append(hand: Hand) {
    let client = hand.client();
    let Ok(mut appender) = client.appender(AppenderOptions::default()) else {
        return;
    };
    let logs = hand.logs.lasting.clone();
    let mut numbers: Vec<_> = logs.iter().map(|log| log.record.producer()).collect();
    let mut seq = 0;
    while !hand.is_told_to_stop() {
        let mut places: Vec<usize> = (0..logs.len()).collect();
        let last = places.len() as u64 - 1;
        places.rotate_left(draw(&hand.random, 0..=last) as usize);
        places.truncate(1 + draw(&hand.random, 0..=last) as usize);
        let conditional = one_in(&hand.random, 3).then(|| pick(&hand.random, &places));
        let mut call = Vec::new();
        let mut batches = Vec::new();
        for &place in &places {
            let record = &logs[place].record;
            let count = draw(&hand.random, 1..=3) as u32;
            let most = hand.work.value_bytes_max;
            let (batch, values) =
                record.begin(&hand.random, (numbers[place], seq), count, most, None);
            let expected = (conditional == Some(place)).then(|| record.lock().next);
            call.push((place, batch, expected));
            let batch = BatchFor::new(&*logs[place].name, records(values));
            batches.push(match expected {
                Some(expected) => batch.only_at(expected),
                None => batch,
            });
        }
        seq += 3;
        let all = call.iter().map(|(place, batch, _)| (*place, *batch));
        hand.logs.several().calls.push(all.collect());
        let appended = appender.append_all(&batches).await;
        match appended {
            Ok(appended) if appended.len() == call.len() => {
                for ((place, batch, expected), appended) in call.iter().zip(appended) {
                    let at = appended.first_offset;
                    if let Some(expected) = expected.filter(|expected| *expected != at) {
                        let what = format!("appended at {at} on the condition {expected}");
                        logs[*place].record.wrong(what);
                    }
                    let outcome = Outcome::Acked(appended.first_offset);
                    logs[*place].record.end(*batch, outcome);
                }
                if call.len() > 1 {
                    events::sometimes("a call appended to several logs");
                }
            }
            Ok(appended) => {
                let what = format!("{} of {} batches were answered", appended.len(), call.len());
                hand.record.wrong(what);
            }
            Err(error) => {
                events::note(format_args!("{} {error}", hand.name));
                let outcome = failed(&hand, &error);
                for (place, batch, _) in &call {
                    logs[*place].record.end(*batch, outcome);
                }
                if outcome == Outcome::Refused {
                    events::sometimes("a call to several logs was refused for one of them");
                } else {
                    numbers = logs.iter().map(|log| log.record.producer()).collect();
                    seq = 0;
                }
            }
        }
        hand.think().await;
    }
    appender.close().await;
}

fn failed(hand: &Hand, error: &ClientError) -> Outcome {
    match error.reason() {
        Some(Reason::OffsetDiffers) => Outcome::Refused,
        Some(Reason::NoSuchLog | Reason::LogDeleted) => {
            hand.record.wrong(format!("{}: {error}", hand.name));
            Outcome::Unknown
        }
        _ => outcome_of(hand, error),
    }
}
