//! Clients that contend for a fence, move a cursor, and trim.

use ferrolog::client::{ClientError, Fence};
use ferrolog::proto::v1::Retention;

use super::Hand;
use super::writing::append_fenced;
use crate::events;
use crate::plan::{draw, one_in, pick};

const FENCE: &str = "the-one";

/// Takes over the fence, appends under it, until another took it.
pub async fn contend(hand: Hand) {
    let client = hand.client();
    let admin = client.admin();
    while !hand.is_told_to_stop() {
        match admin.claim_epoch(FENCE, &hand.name, None).await {
            Ok(claim) => {
                events::note(format_args!("claim {} {claim:?}", hand.name));
                let before = hand
                    .record
                    .lock()
                    .claims
                    .insert(claim.epoch, claim.next_offset);
                if before.is_some() {
                    hand.record
                        .wrong(format!("epoch {} was given twice", claim.epoch));
                }
                let fence = Fence {
                    name: FENCE.to_owned(),
                    epoch: claim.epoch,
                };
                append_fenced(&hand, &client, &fence, draw(&hand.random, 1..=10)).await;
            }
            Err(error) => events::note(format_args!("{} {error}", hand.name)),
        }
        hand.think().await;
    }
}

/// Moves a cursor that nobody else moves, and looks where it stands.
pub async fn move_cursor(hand: Hand) {
    let admin = hand.client().admin();
    // Where it was put, and where it may be put yet by a call whose outcome nobody knows.
    let (mut stands, mut doubts) = (None, Vec::new());
    while !hand.is_told_to_stop() {
        let to = hand
            .record
            .lock()
            .next
            .saturating_sub(draw(&hand.random, 0..=20));
        let expected = stands.filter(|_| one_in(&hand.random, 2));
        // From where it does not stand; to another place, for a try in doubt takes finding it there for done.
        if let Some(at) = expected.filter(|at| doubts.is_empty() && *at != to) {
            let moved = admin.commit_cursor(&hand.name, to, Some(at + 1)).await;
            match moved {
                Ok(()) => hand
                    .record
                    .wrong(format!("a cursor at {at} was moved from {}", at + 1)),
                Err(ClientError::CursorDiffers { .. }) => {}
                Err(error) => events::note(format_args!("{} {error}", hand.name)),
            }
        }
        match admin.commit_cursor(&hand.name, to, expected).await {
            Ok(()) => stands = Some(to),
            Err(ClientError::CursorDiffers { current }) if doubts.is_empty() => {
                let what = format!("a cursor stands at {current:?}, and was put at {stands:?}");
                hand.record.wrong(what);
            }
            Err(ClientError::CursorDiffers { .. } | ClientError::PastEnd { .. }) => {}
            Err(error) => {
                events::note(format_args!("{} {error}", hand.name));
                doubts.push(to);
            }
        }
        if let Ok(found) = admin.cursor(&hand.name).await {
            let found = found.map(|cursor| cursor.offset);
            if found != stands && !found.is_some_and(|at| doubts.contains(&at)) {
                let what = format!("a cursor stands at {found:?}, and was put at {stands:?}");
                hand.record.wrong(what);
            }
            stands = found;
        }
        hand.think().await;
    }
}

/// Closes sessions under which others append.
pub async fn close_sessions(hand: Hand) {
    let admin = hand.client().admin();
    while !hand.is_told_to_stop() {
        for _ in 0..draw(&hand.random, 1..=20) {
            hand.think().await;
        }
        let sessions = admin.sessions().await.unwrap_or_default();
        if sessions.is_empty() {
            continue;
        }
        let id = pick(&hand.random, &sessions).id;
        let closed = admin.close_session(id).await;
        events::note(format_args!("session {id} closed {:?}", closed.is_ok()));
    }
}

/// Trims, by hand or by retention.
pub async fn trim(hand: Hand) {
    let admin = hand.client().admin();
    while !hand.is_told_to_stop() {
        for _ in 0..draw(&hand.random, 1..=8) {
            hand.think().await;
        }
        if one_in(&hand.random, 5) {
            hand.record.lock().is_retained = true;
            let retention = Retention {
                max_bytes: pick(&hand.random, &[0, 0, 128 << 10, 1 << 20]),
                max_age_ms: pick(&hand.random, &[0, 0, 0, 5000]),
                ..Retention::default()
            };
            let set = admin.set_retention(retention).await;
            events::note(format_args!("retention {:?}", set.is_ok()));
            continue;
        }
        let keep = pick(&hand.random, &[10, 100, 1000]);
        let (first, asked) = {
            let record = &mut *hand.record.lock();
            let first = record.next.saturating_sub(keep);
            record.trim_asked = record.trim_asked.max(first);
            (first, record.trim_asked)
        };
        let trimmed = admin.trim(first).await;
        if let Ok(begins) = trimmed
            && begins > asked
            && !hand.record.lock().is_retained
        {
            let what = format!("trimmed up to {begins}, where {asked} was asked for at most");
            hand.record.wrong(what);
        }
        events::note(format_args!("trim {first} {trimmed:?}"));
        if trimmed.is_ok() && first > 0 {
            events::sometimes("the log was trimmed");
        }
    }
}
