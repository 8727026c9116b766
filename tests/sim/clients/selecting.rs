//! A client that reads several logs in one stream, across breaks.

use std::time::Duration;

use ferrolog::client::{ClientError, Consistency, ConsumeOptions, Consumer, Selection, Start};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::passing::PASSING;
use super::table::TABLES;
use super::{Found, Hand, Stretch};
use crate::events;
use crate::harness::checker::hash;
use crate::plan::{draw, one_in, pick};

/// Reads a selection from its first record on, and goes on where it was, by any node.
pub async fn select(hand: Hand) {
    let client = hand.client();
    let Some(mut selection) = drawn(&hand).await else {
        return;
    };
    let mut next = None;
    while !hand.is_told_to_stop() {
        if one_in(&hand.random, 6) {
            // Logs come and go: at first there are none of those that pass.
            let Some(other) = drawn(&hand).await else {
                return;
            };
            (selection, next) = (other, None);
        }
        let options = ConsumeOptions {
            selection: Some(selection.clone()),
            from: next.map_or(Start::Earliest, Start::Position),
            consistency: pick(&hand.random, &[Consistency::Relaxed, Consistency::Strong]),
            follow: true,
            ..ConsumeOptions::default()
        };
        let Ok(mut consumer) = client.consume(options) else {
            return;
        };
        let until = Instant::now() + Duration::from_millis(draw(&hand.random, 300..=4000));
        let (found, ended) = read(&hand, &mut consumer, until).await;
        if next.is_some() && !found.is_empty() {
            events::sometimes("a stream over several logs was gone on with");
        }
        let first = next.unwrap_or(0);
        let told = timeout(Duration::ZERO, consumer.position()).await;
        let last = found.last().map(|found| found.position + 1);
        // A stream that ended tells no more where it was: it goes on behind what it handed out.
        let upto = told.ok().and_then(Result::ok).or(last).unwrap_or(first);
        events::note(format_args!(
            "{} has {first}..{upto} {} {ended:?}",
            hand.name,
            found.len()
        ));
        hand.logs.several().stretches.push(Stretch {
            reader: hand.name.clone(),
            selection: selection.clone(),
            from: first,
            next: upto,
            found,
        });
        next = (upto > 0).then_some(upto);
        match ended {
            Some(error @ (ClientError::Gap { .. } | ClientError::Protocol { .. })) => {
                hand.record.wrong(format!("{}: {error}", hand.name));
            }
            Some(ClientError::LogDeleted | ClientError::NoSuchLog { .. }) => {
                let Selection::Logs(names) = &selection else {
                    hand.record.wrong(format!("{selection:?} knows no log"));
                    return;
                };
                if names.iter().any(|name| !name.starts_with(PASSING)) {
                    let what = format!("of {names:?} none was deleted");
                    hand.record.wrong(what);
                }
                events::sometimes("a stream was told that its log was deleted");
                let Some(other) = drawn(&hand).await else {
                    return;
                };
                (selection, next) = (other, None);
            }
            Some(_) => hand.think().await,
            None => {
                let rest = Duration::from_millis(draw(&hand.random, 0..=1500));
                let mut stop = hand.stop.clone();
                let _ = timeout(rest, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

/// Some logs: all of them, those of a prefix, or by name.
async fn drawn(hand: &Hand) -> Option<Selection> {
    let prefix = |prefix: &str| Some(Selection::Prefix(prefix.to_owned()));
    match draw(&hand.random, 0..=5) {
        0 | 1 => prefix(""),
        2 => prefix("orders/"),
        3 => prefix(PASSING),
        4 => {
            let passing = hand.client().admin().list_logs(PASSING).await;
            match passing {
                Ok(logs) if !logs.is_empty() => {
                    let log = pick(&hand.random, &logs);
                    Some(Selection::Logs(vec![log.name]))
                }
                _ => prefix(PASSING),
            }
        }
        _ => {
            let lasting = hand.logs.lasting.iter().map(|log| log.name.clone());
            Some(Selection::Logs(lasting.collect()))
        }
    }
}

/// What comes until then, and the error that ended it.
async fn read(
    hand: &Hand,
    consumer: &mut Consumer,
    until: Instant,
) -> (Vec<Found>, Option<ClientError>) {
    let mut found = Vec::new();
    let mut stop = hand.stop.clone();
    loop {
        let next = tokio::select! {
            biased;
            () = sleep_until(until) => return (found, None),
            next = consumer.next() => next,
            _ = stop.wait_for(|stop| *stop) => {
                // What is there is handed out once more, so that the last stretch has an end.
                sleep(Duration::ZERO).await;
                return (found, None);
            }
        };
        match next {
            // They have rules of their own.
            Some(Ok(record)) if record.log.starts_with(TABLES) => {}
            Some(Ok(record)) => found.push(Found {
                position: record.position.unwrap_or(u64::MAX),
                log: record.log.clone(),
                offset: record.offset,
                hash: hash(&record.record.value),
            }),
            Some(Err(error)) => return (found, Some(error)),
            None => return (found, None),
        }
    }
}
