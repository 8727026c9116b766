//! What is told in the log of changes beside the changes themselves: denied calls, refused changes, what a node took up.
//!
//! Anybody can be denied any number of times, and must not fill the log: of calls that are alike the first one is told,
//! and then, once a minute, how many more there were. What waits is bounded; what finds no room is counted, and the
//! number told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::families::{DENIED, RELOAD_FAILED, RELOAD_FAILURES};
use crate::metrics::{Counter, Page};
use crate::raft::{Note, Origin, ReplicatedLog};

/// Calls that are alike are told once in so long.
const QUIET: Duration = Duration::from_secs(60);
/// How many kinds of calls are known at a time.
const KINDS_MAX: usize = 1024;
/// How many notes wait to be told.
const WAITING_MAX: usize = 1024;
/// How many are told in one entry.
const NOTES_MAX: usize = 64;
/// Between two looks at what was counted, and after a try to tell that failed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The verb of a note on notes that found no room.
const LOST: &str = "audit";
/// The verb of what a node takes up from its files.
const RELOAD: &str = "reload";

/// What is to be told; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Audit(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Notify,
    denied: Counter,
    reloads: Mutex<BTreeMap<&'static str, Reload>>,
}

/// How it went to take up files.
#[derive(Debug, Default)]
struct Reload {
    failures: u64,
    /// Why they are not taken up.
    failed: Option<String>,
}

#[derive(Debug, Default)]
struct Waiting {
    notes: VecDeque<Note>,
    kinds: BTreeMap<Kind, Counted>,
    /// How many found no room.
    lost: u64,
}

/// What is alike: subject, verb and outcome. A caller that is denied on ever other names must not push out the records of
/// changes.
type Kind = (String, String, String);

/// Calls of one kind since one was told.
#[derive(Debug)]
struct Counted {
    last: Note,
    more: u64,
    told: Instant,
}

impl Waiting {
    fn push(&mut self, note: Note) {
        if self.notes.len() >= WAITING_MAX {
            self.lost += note.count;
            return;
        }
        self.notes.push_back(note);
    }

    fn counted(&mut self, note: Note, now: Instant) {
        let origin = &note.origin;
        let kind = (
            origin.subject.clone(),
            origin.verb.clone(),
            note.outcome.clone(),
        );
        if let Some(counted) = self.kinds.get_mut(&kind) {
            counted.more += 1;
            counted.last = note;
            return;
        }
        if self.kinds.len() >= KINDS_MAX {
            self.lost += 1;
            return;
        }
        let (last, more, told) = (note.clone(), 0, now);
        self.kinds.insert(kind, Counted { last, more, told });
        self.push(note);
    }

    /// Takes notes back that could not be told, before those that came since.
    fn take_back(&mut self, mut due: Vec<Note>) {
        let room = WAITING_MAX.saturating_sub(self.notes.len());
        let lost = due.drain(room.min(due.len())..);
        self.lost += lost.map(|note| note.count).sum::<u64>();
        for note in due.into_iter().rev() {
            self.notes.push_front(note);
        }
    }

    /// Has those told that were counted for long enough, and forgets kinds of which nothing came.
    fn look(&mut self, now: Instant) {
        let mut due = Vec::new();
        self.kinds.retain(|_, counted| {
            if now < counted.told + QUIET {
                return true;
            }
            let count = std::mem::take(&mut counted.more);
            if count == 0 {
                return false;
            }
            let last = counted.last.clone();
            due.push(Note { count, ..last });
            counted.told = now;
            true
        });
        due.into_iter().for_each(|note| self.push(note));
        if self.lost > 0 && self.notes.len() < WAITING_MAX {
            let count = std::mem::take(&mut self.lost);
            let origin = Origin {
                verb: LOST.to_owned(),
                ..Origin::default()
            };
            self.push(Note {
                origin,
                outcome: "lost".to_owned(),
                reason: "there was no room for so many notes".to_owned(),
                count,
                ..Note::default()
            });
        }
    }
}

impl Audit {
    /// A call was denied.
    pub fn denied(&self, origin: &Origin, reason: &str) {
        self.0.denied.one_more();
        self.counted(origin, "denied", reason);
    }

    /// A node may not join.
    pub fn not_let_in(&self, stranger: &Origin, reason: &str) {
        let Origin {
            subject, address, ..
        } = stranger;
        tracing::warn!(%subject, %address, reason, "a node may not join");
        self.counted(stranger, "denied", reason);
    }

    /// Files were taken up that hold this, or why they were not.
    pub fn reloaded(&self, what: &'static str, failed: Option<&str>) {
        let mut reloads = self.0.reloads.lock();
        let reload = reloads.entry(what).or_default();
        reload.failures += u64::from(failed.is_some());
        reload.failed = failed.map(str::to_owned);
        drop(reloads);
        let origin = Origin {
            verb: RELOAD.to_owned(),
            ..Origin::default()
        };
        let outcome = if failed.is_some() { "refused" } else { "done" };
        self.note(Note {
            origin,
            change: format!("take up the {what}"),
            outcome: outcome.to_owned(),
            reason: failed.unwrap_or_default().to_owned(),
            count: 1,
        });
    }

    /// What is not taken up, and why.
    pub fn failed_reloads(&self) -> Vec<(&'static str, String)> {
        let reloads = self.0.reloads.lock();
        let failed = reloads.iter();
        let failed = failed.filter_map(|(what, reload)| Some((*what, reload.failed.clone()?)));
        failed.collect()
    }

    /// Tells how often calls were denied, and how reloads went.
    pub fn tell_counts(&self, page: &mut Page<'_>) {
        page.one(&DENIED, self.0.denied.get());
        let reloads = self.0.reloads.lock();
        page.family(&RELOAD_FAILURES, |series| {
            for (what, reload) in &*reloads {
                series.value(&[("what", *what)], reload.failures);
            }
        });
        page.family(&RELOAD_FAILED, |series| {
            for (what, reload) in &*reloads {
                series.value(&[("what", *what)], reload.failed.is_some());
            }
        });
    }

    /// A change that was asked for came to this, and to no change.
    pub fn counted(&self, origin: &Origin, outcome: &str, reason: &str) {
        let note = Note {
            origin: origin.clone(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            count: 1,
            ..Note::default()
        };
        self.0.waiting.lock().counted(note, Instant::now());
        self.0.more.notify_one();
    }

    /// Has this told, however many are alike.
    pub fn note(&self, note: Note) {
        self.0.waiting.lock().push(note);
        self.0.more.notify_one();
    }

    /// What is to be told now.
    fn due(&self) -> Vec<Note> {
        let mut waiting = self.0.waiting.lock();
        waiting.look(Instant::now());
        let count = waiting.notes.len().min(NOTES_MAX);
        waiting.notes.drain(..count).collect()
    }

    /// Tells all of it, as it comes. Never returns.
    pub async fn tell(&self, log: ReplicatedLog) {
        let node = log.identity().name.clone();
        loop {
            let mut due = self.due();
            if due.is_empty() {
                let _ = tokio::time::timeout(LOOK_EVERY, self.0.more.notified()).await;
                continue;
            }
            due.iter_mut()
                .for_each(|note| note.origin.node.clone_from(&node));
            if let Err(error) = log.tell_changes(due.clone()).await {
                tracing::debug!(%error, "the log of changes is told later");
                self.0.waiting.lock().take_back(due);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(subject: &str, address: &str) -> Origin {
        Origin {
            subject: subject.to_owned(),
            address: address.to_owned(),
            verb: "x/Y".to_owned(),
            ..Origin::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_calls_that_are_alike_one_is_told_and_then_their_number() {
        let audit = Audit::default();
        for port in 0..1000 {
            audit.denied(&origin("app", &format!("h:{port}")), &format!("on {port}"));
        }
        audit.denied(&origin("other", "h:1"), "no");
        let told = audit.due();
        let counts: Vec<_> = told
            .iter()
            .map(|note| (&*note.origin.subject, note.count))
            .collect();
        assert_eq!(counts, [("app", 1), ("other", 1)]);
        assert_eq!(audit.0.denied.get(), 1001);
        assert!(audit.due().is_empty());
        tokio::time::advance(QUIET).await;
        let told = audit.due();
        assert_eq!((told.len(), told[0].count), (1, 999));
        assert_eq!(told[0].origin.address, "h:999");
        // Nothing came since, so the next one is told at once.
        tokio::time::advance(QUIET).await;
        assert!(audit.due().is_empty());
        audit.denied(&origin("app", "h:5"), "no");
        assert_eq!(audit.due().len(), 1);
    }

    #[test]
    fn a_reload_that_failed_is_told_until_one_succeeds() {
        let audit = Audit::default();
        audit.reloaded("policy", Some("line 3"));
        audit.reloaded("policy", Some("line 4"));
        assert_eq!(audit.failed_reloads(), [("policy", "line 4".to_owned())]);
        audit.reloaded("policy", None);
        assert!(audit.failed_reloads().is_empty());
        assert_eq!(audit.0.reloads.lock()["policy"].failures, 2);
        let told = audit.due().into_iter().map(|note| note.outcome);
        assert_eq!(told.collect::<Vec<_>>(), ["refused", "refused", "done"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_what_is_lost_is_counted() {
        let audit = Audit::default();
        for number in 0..3 * KINDS_MAX {
            audit.denied(&origin(&number.to_string(), ""), "no");
        }
        let mut told = Vec::new();
        loop {
            let due = audit.due();
            assert!(due.len() <= NOTES_MAX);
            if due.is_empty() {
                break;
            }
            told.extend(due);
        }
        let lost: Vec<_> = told.iter().filter(|note| note.outcome == "lost").collect();
        assert_eq!((told.len() - lost.len(), lost.len()), (KINDS_MAX, 1));
        assert_eq!(lost[0].count, 2 * KINDS_MAX as u64);
    }
}
