//! The verdict on several logs: their one order, what went into some of them at once, what was read of them
//! together, and logs that came and went.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ferrolog::client::Selection;

use super::clients::{Found, Life, Logs, PASSING, Stretch};
use super::harness::checker::Outcome;
use super::judge::Places;
use super::verdict::NodeOrder;

/// Records by their place in the order of all logs.
type Order = BTreeMap<u64, Found>;

struct Judge<'a> {
    logs: &'a Logs,
    /// Of each lasting log, where its records are or were.
    places: &'a [Places],
    /// Lasting logs of which nothing was given up.
    whole: BTreeSet<String>,
    order: Order,
    /// What was sent to logs that were asked to be deleted.
    doomed: BTreeSet<u64>,
    /// Which log a value was sent to, and what came of it.
    sent: HashMap<u64, (String, Outcome)>,
    wrong: Vec<String>,
}

/// Holds what clients were told of several logs against what the nodes tell in the end.
pub fn judge(logs: &Logs, orders: &[NodeOrder], places: &[Places]) -> Vec<String> {
    let mut sent = HashMap::new();
    let (mut whole, mut doomed) = (BTreeSet::new(), BTreeSet::new());
    for log in logs.lasting.iter() {
        let record = log.record.lock();
        if record.trim_asked == 0 && !record.is_retained {
            whole.insert(log.name.clone());
        }
        for append in &record.history.appends {
            sent.insert(append.hash, (log.name.clone(), append.outcome));
        }
    }
    for life in &logs.several().lives {
        for &(hash, outcome) in &life.sent {
            sent.insert(hash, (life.name.clone(), outcome));
            if life.is_doomed {
                doomed.insert(hash);
            }
        }
        if !life.is_doomed {
            whole.insert(life.name.clone());
        }
    }
    let mut judge = Judge {
        logs,
        places,
        whole,
        order: Order::new(),
        doomed,
        sent,
        wrong: Vec::new(),
    };
    for order in orders {
        judge.merge(order);
    }
    for order in orders {
        judge.agrees(order);
    }
    judge.lasting();
    judge.calls();
    for life in &logs.several().lives {
        judge.life(life, orders);
    }
    for stretch in &logs.several().stretches {
        judge.stretch(stretch);
    }
    judge.wrong
}

impl Judge<'_> {
    /// Takes in what a node tells: positions grow, each has one record, and each record was sent to its log.
    fn merge(&mut self, told: &NodeOrder) {
        let node = &told.node;
        self.grow(&format!("the order of {node}"), &told.found);
        for found in &told.found {
            let known = self.order.entry(found.position).or_insert(found.clone());
            if known != found {
                let what = format!("{node} has {found:?} where another has {known:?}");
                self.wrong.push(what);
            }
        }
        let mut places = BTreeSet::new();
        let mut values = BTreeSet::new();
        for found in &told.found {
            let is_new = places.insert((found.log.clone(), found.offset));
            if !is_new || !values.insert(found.hash) {
                self.wrong.push(format!("{node} has {found:?} twice"));
            }
        }
    }

    /// Records whose positions grow, and that are as they were sent.
    fn grow(&mut self, who: &str, all: &[Found]) {
        for pair in all.windows(2) {
            if pair[0].position >= pair[1].position {
                let what = format!("{who}: {:?} stands before {:?}", pair[0], pair[1]);
                self.wrong.push(what);
            }
        }
        for found in all {
            let wrong = match self.sent.get(&found.hash) {
                None => "nobody sent it",
                Some((log, _)) if **log != *found.log => "it was sent to another log",
                Some((_, Outcome::Refused)) => "it was refused",
                Some((_, Outcome::Acked(offset))) if *offset != found.offset => {
                    "it was acknowledged elsewhere"
                }
                Some(_) => continue,
            };
            self.wrong.push(format!("{who}: {found:?}: {wrong}"));
        }
    }

    /// A node has all of the logs of which nothing was given up.
    fn agrees(&mut self, told: &NodeOrder) {
        let has: BTreeSet<_> = told.found.iter().map(|found| found.position).collect();
        for (position, found) in &self.order {
            if self.whole.contains(&*found.log) && !has.contains(position) {
                self.wrong.push(format!("{} has no {found:?}", told.node));
            }
        }
    }

    /// The order has what each log has by itself.
    fn lasting(&mut self) {
        let mut by_place: HashMap<(Arc<str>, u64), u64> = HashMap::new();
        for found in self.order.values() {
            by_place.insert((found.log.clone(), found.offset), found.hash);
        }
        for (log, places) in self.logs.lasting.iter().zip(self.places) {
            let is_whole = self.whole.contains(&log.name);
            let name: Arc<str> = log.name.as_str().into();
            for (&hash, &offset) in &places.of {
                match by_place.get(&(name.clone(), offset)) {
                    Some(&there) if there == hash => {}
                    None if !is_whole => {}
                    other => {
                        let what = format!("{name} has {hash:x} at {offset}, its order {other:?}");
                        self.wrong.push(what);
                    }
                }
            }
        }
    }

    /// A call's batches are all there, side by side, or none is.
    fn calls(&mut self) {
        let positions: HashMap<u64, u64> = self
            .order
            .iter()
            .map(|(position, found)| (found.hash, *position))
            .collect();
        for call in &self.logs.several().calls {
            let mut there = 0;
            let mut missing = 0;
            let mut due = None;
            let mut stand = Vec::new();
            for &(place, batch) in call {
                let log = &self.logs.lasting[place];
                let record = log.record.lock();
                let batch = &record.batches[batch];
                for append in &record.history.appends[batch.first..][..batch.count] {
                    let is_there = self.places[place].of.contains_key(&append.hash);
                    match is_there {
                        true => there += 1,
                        // It may have been trimmed unseen.
                        false if !self.whole.contains(&log.name) => {}
                        false => missing += 1,
                    }
                    let at = positions.get(&append.hash).copied();
                    stand.push(at);
                    let stands_apart = at.zip(due).is_some_and(|(at, due)| at != due);
                    if stands_apart {
                        let what = format!("a call's records stand apart: {stand:?}");
                        self.wrong.push(what);
                    }
                    due = at.map(|at| at + 1).or(due.map(|due: u64| due + 1));
                }
            }
            if there > 0 && missing > 0 {
                let what = format!("of a call {there} records are there, and {missing} are not");
                self.wrong.push(what);
            }
        }
    }

    /// A log that nobody asked to delete has all that was acknowledged; of one that was deleted nothing is left.
    fn life(&mut self, life: &Life, orders: &[NodeOrder]) {
        let name = &life.name;
        for told in orders {
            let is_there = told.logs.iter().any(|log| log.id == life.id);
            let wrong = match (life.is_doomed, life.is_over) {
                (false, _) if !is_there => "is gone",
                (_, true) if is_there => "is there again",
                _ => continue,
            };
            let (id, node) = (life.id, &told.node);
            self.wrong.push(format!("{name}, {id}, {wrong} on {node}"));
        }
        let there: HashMap<u64, u64> = self
            .order
            .values()
            .map(|found| (found.hash, found.offset))
            .collect();
        for (hash, outcome) in &life.sent {
            let Outcome::Acked(offset) = outcome else {
                continue;
            };
            let wrong = match there.get(hash) {
                None if !life.is_doomed => "is lost",
                Some(_) if life.is_over => "was deleted with its log, and is there",
                _ => continue,
            };
            self.wrong
                .push(format!("{name}: the record at {offset} {wrong}"));
        }
    }

    /// What a reader was told of several logs: in order, and without a gap.
    fn stretch(&mut self, stretch: &Stretch) {
        let who = format!(
            "{} from {} to {}",
            stretch.reader, stretch.from, stretch.next
        );
        self.grow(&who, &stretch.found);
        let mut seen = BTreeSet::new();
        for found in &stretch.found {
            seen.insert(found.position);
            let is_selected = selects(&stretch.selection, &found.log);
            let is_within = (stretch.from..stretch.next).contains(&found.position);
            if !is_selected || !is_within {
                self.wrong
                    .push(format!("{who}: it did not ask for {found:?}"));
            }
            // What was deleted or trimmed since is not there to be compared with.
            match self.order.get(&found.position) {
                Some(there) if there != found => {
                    self.wrong.push(format!("{who}: {found:?} is {there:?}"));
                }
                None if self.whole.contains(&*found.log) && !self.doomed.contains(&found.hash) => {
                    self.wrong.push(format!("{who}: {found:?} is not there"));
                }
                _ => {}
            }
        }
        for (position, found) in self.order.range(stretch.from..stretch.next) {
            let is_due = self.whole.contains(&*found.log)
                && selects(&stretch.selection, &found.log)
                && !is_anew(&stretch.selection, found);
            if is_due && !seen.contains(position) {
                self.wrong.push(format!("{who}: it was not told {found:?}"));
            }
        }
    }
}

/// A log that comes and goes and was named is read until it is deleted, not what is made under its name later.
fn is_anew(selection: &Selection, found: &Found) -> bool {
    matches!(selection, Selection::Logs(_)) && found.log.starts_with(PASSING)
}

fn selects(selection: &Selection, log: &str) -> bool {
    match selection {
        Selection::Prefix(prefix) => log.starts_with(&**prefix),
        Selection::Logs(names) => names.iter().any(|name| name == log),
    }
}
