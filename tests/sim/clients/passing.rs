//! A client that makes a log, appends to it, deletes it, and makes it anew under the same name.

use ferrolog::client::{
    Admin, Appended, AppenderOptions, Client, ClientError, LogInfo, LogSettings,
};

use super::Hand;
use super::writing::{outcome_of, records};
use crate::events;
use crate::harness::checker::{Outcome, hash};
use crate::plan::{draw, one_in};

/// What the names of logs that come and go begin with.
pub const PASSING: &str = "passing/";

/// Nobody else makes or deletes logs of its name.
pub async fn make(hand: Hand) {
    let client = hand.client();
    let admin = client.admin();
    let name = format!("{PASSING}{}", hand.name);
    let mut old = None;
    while !hand.is_told_to_stop() {
        hand.think().await;
        let made = admin.create_log(&name, LogSettings::default()).await;
        let made = match made {
            // It may have been made all the same.
            Err(error) => {
                events::note(format_args!("{} {error}", hand.name));
                admin.get_log(&name).await
            }
            made => made,
        };
        let Ok(log) = made else { continue };
        events::note(format_args!("{} has {}", hand.name, log.id));
        let Some(life) = hand.logs.several().life(&log) else {
            let what = format!("{name} has the id {}, which was told to be gone", log.id);
            hand.record.wrong(what);
            return;
        };
        append(&hand, &client, &name, life).await;
        if let Some(old) = old.filter(|old| *old != log.id && one_in(&hand.random, 2)) {
            // One of this id is not there: the one that has the name stays.
            let deleted = admin.delete_log(&name, old).await;
            events::note(format_args!("{} deletes {old} {deleted:?}", hand.name));
        }
        if one_in(&hand.random, 2) {
            delete(&hand, &admin, &log, life).await;
            old = Some(log.id);
        }
    }
}

async fn append(hand: &Hand, client: &Client, name: &str, life: usize) {
    let Ok(mut appender) = client.log(name).appender(AppenderOptions::default()) else {
        return;
    };
    for _ in 0..draw(&hand.random, 0..=6) {
        let (mut values, mut sent) = (Vec::new(), 0);
        {
            let mut several = hand.logs.several();
            for _ in 0..draw(&hand.random, 1..=3) {
                let mut value = several.value().to_vec();
                let most = hand.work.value_bytes_max;
                value.resize(value.len() + draw(&hand.random, 0..=most) as usize, b'.');
                let of = &mut several.lives[life].sent;
                of.push((hash(&value), Outcome::Unknown));
                sent = of.len();
                values.push(value.into());
            }
        }
        let first = sent - values.len();
        let appended = appender.append(records(values)).await;
        events::note(format_args!("{} appends {appended:?}", hand.name));
        take_down(hand, life, first, &appended);
        if appended.is_err() {
            return;
        }
        hand.think().await;
    }
    appender.close().await;
}

/// What came of the records that were sent last.
fn take_down(hand: &Hand, life: usize, first: usize, appended: &Result<Appended, ClientError>) {
    let life = &mut hand.logs.several().lives[life];
    let outcome = match appended {
        Ok(appended) => Outcome::Acked(appended.first_offset),
        Err(error) => outcome_of(hand, error),
    };
    for ((_, told), place) in life.sent[first..].iter_mut().zip(0..) {
        *told = match outcome {
            Outcome::Acked(offset) => Outcome::Acked(offset + place),
            other => other,
        };
    }
    if let Err(error) = appended {
        let is_missing = matches!(
            error,
            ClientError::NoSuchLog { .. } | ClientError::LogDeleted
        );
        if is_missing && !life.is_doomed {
            let what = format!("{} is there: {error}", life.name);
            hand.record.wrong(what);
        }
    }
}

async fn delete(hand: &Hand, admin: &Admin, log: &LogInfo, life: usize) {
    let was_doomed = {
        let life = &mut hand.logs.several().lives[life];
        std::mem::replace(&mut life.is_doomed, true)
    };
    let deleted = admin.delete_log(&log.name, log.id).await;
    events::note(format_args!("{} deletes {} {deleted:?}", hand.name, log.id));
    let is_over = match deleted {
        Ok(true) => true,
        Ok(false) if was_doomed => true,
        Ok(false) => {
            hand.record
                .wrong(format!("{} was there, and is not deleted", log.name));
            return;
        }
        Err(_) => {
            let told = admin.get_log(&log.name).await;
            matches!(told, Err(ClientError::NoSuchLog { .. }))
        }
    };
    if is_over {
        events::sometimes("a log was deleted");
    }
    hand.logs.several().lives[life].is_over = is_over;
}
