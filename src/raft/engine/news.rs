//! Tells in the log what becomes of the cluster, a line each: who leads and why, who is not heard, who belongs to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft::peer::calling::Successor;
use crate::raft::view::clocks::{Clocks, millis};
use crate::raft::view::{MemberView, View};

/// A member that has not answered its leader for so long is told to be silent.
const SILENT: Duration = Duration::from_secs(2);
/// Without anybody who commits for so long, that is told; an election takes less.
const LEADERLESS: Duration = Duration::from_secs(3);
/// And again after so long.
const LEADERLESS_AGAIN: Duration = Duration::from_secs(60);

/// Compares what a node sees of its cluster with what it saw before.
#[derive(Debug)]
pub struct News {
    me: u64,
    clocks: Clocks,
    successor: watch::Receiver<Successor>,
    was: View,
    /// The last leader, and its term.
    led: Option<(u64, u64)>,
    /// Since when this node leads.
    reign: Option<Instant>,
    /// It asked for votes, and nobody leads since.
    has_asked: bool,
    /// Since when nobody commits anything, as far as this node knows, and when that was told last.
    leaderless: Option<(Instant, Option<Instant>)>,
    /// Members that this leader does not hear, and since when.
    silent: BTreeMap<u64, Instant>,
}

impl News {
    pub fn new(me: u64, clocks: Clocks, successor: watch::Receiver<Successor>) -> Self {
        Self {
            me,
            clocks,
            successor,
            was: View::default(),
            led: None,
            reign: None,
            has_asked: false,
            leaderless: None,
            silent: BTreeMap::new(),
        }
    }

    /// Tells what changed. `heard`: how long ago this node heard a leader.
    pub fn look(&mut self, view: &View, is_candidate: bool, heard: Option<Duration>) {
        if view.stopped.is_some() {
            return;
        }
        let was = std::mem::replace(&mut self.was, view.clone());
        tell_members(&was, view);
        let heard_ms = heard.map(millis);
        if is_candidate && !self.has_asked {
            self.has_asked = true;
            let leader = self.led.map(|(leader, _)| name_of(view, leader));
            tracing::info!(
                term = view.term,
                leader,
                heard_ms,
                "asks for votes: no leader is heard"
            );
        }
        self.tell_leader(&was, view, heard_ms);
        self.tell_quorum(&was, view);
        self.tell_leaderless(view);
        self.tell_silent(view);
    }

    fn tell_leader(&mut self, was: &View, view: &View, heard_ms: Option<u64>) {
        let term = view.term;
        let Some(leader) = view.leader else {
            match was.leader {
                Some(before) if before == self.me => {
                    tracing::warn!(term, "leads no more, and knows no other leader");
                }
                Some(before) => {
                    let leader = name_of(view, before);
                    tracing::warn!(term, leader, heard_ms, "hears its leader no more");
                }
                None => {}
            }
            self.reign = None;
            return;
        };
        if self.led == Some((leader, term)) {
            return;
        }
        let before = self.led.replace((leader, term)).map(|(leader, _)| leader);
        let had_asked = std::mem::take(&mut self.has_asked);
        let named = *self.successor.borrow() == Some((term.saturating_sub(1), leader));
        let why = match before {
            Some(_) if named => "it was handed on",
            Some(_) => "the leader before was not heard",
            None => "none was known",
        };
        let before = before.map(|before| (before, name_of(view, before)));
        let (was_me, before) = (
            before.is_some_and(|(before, _)| before == self.me),
            before.map(|(_, name)| name),
        );
        let voters = voters(view).count();
        if leader == self.me {
            self.reign = Some(Instant::now());
            tracing::info!(
                term,
                before,
                why,
                voters,
                "won the election: leads from now on"
            );
            return;
        }
        self.reign = None;
        let leader = name_of(view, leader);
        if was_me {
            tracing::info!(term, leader, why, "lost leadership to another node");
        } else if had_asked {
            tracing::info!(
                term,
                leader,
                before,
                why,
                "lost the election to another node"
            );
        } else {
            tracing::info!(term, leader, before, why, "follows a new leader");
        }
    }

    /// A leader that a majority stops to answer, and answers again.
    fn tell_quorum(&self, was: &View, view: &View) {
        let both = was.leader == Some(self.me) && view.leader == Some(self.me);
        if !both || was.term != view.term || was.writable == view.writable {
            return;
        }
        let term = view.term;
        if !view.writable {
            let silent = self.unheard(view).map(|member| &*member.member.name);
            let silent = silent.collect::<Vec<_>>().join(", ");
            tracing::warn!(
                term,
                silent,
                "no majority answers this leader: nothing is committed until one does"
            );
        } else if self.leaderless.is_some()
            && self.reign.is_some_and(|since| since.elapsed() > SILENT)
        {
            tracing::info!(term, "a majority answers this leader again");
        }
    }

    /// Nobody commits anything: told after a while, and then once a minute.
    fn tell_leaderless(&mut self, view: &View) {
        if view.is_led(self.me) || view.members.is_empty() {
            self.leaderless = None;
            return;
        }
        let now = Instant::now();
        let (since, told) = self.leaderless.get_or_insert((now, None));
        let is_due = match told {
            None => since.elapsed() >= LEADERLESS,
            Some(told) => told.elapsed() >= LEADERLESS_AGAIN,
        };
        if !is_due {
            return;
        }
        *told = Some(now);
        let names: Vec<_> = voters(view).map(|voter| &*voter.member.name).collect();
        tracing::warn!(
            for_s = since.elapsed().as_secs(),
            needed = names.len() / 2 + 1,
            voters = names.join(", "),
            "nobody leads, so nothing is committed: so many of the voters must run and reach each other; see \
             `ferrolog doctor`"
        );
    }

    /// Whom this leader stops to hear, and hears again.
    fn tell_silent(&mut self, view: &View) {
        let Some(reign) = self.reign.filter(|_| view.leader == Some(self.me)) else {
            return self.silent.clear();
        };
        let is_member = |id: &u64| view.member(*id).is_some();
        self.silent.retain(|id, _| is_member(id));
        if reign.elapsed() < SILENT {
            return;
        }
        for member in view.members.iter().filter(|member| member.id != self.me) {
            let (node, addr) = (&*member.member.name, &*member.member.addr);
            if self.clocks.heard_within(member.id, SILENT) {
                if let Some(since) = self.silent.remove(&member.id) {
                    let silent_ms = millis(since.elapsed() + SILENT);
                    tracing::info!(node, addr, silent_ms, "a member is heard again");
                }
            } else if let Entry::Vacant(unheard) = self.silent.entry(member.id) {
                unheard.insert(Instant::now());
                tracing::warn!(
                    node,
                    addr,
                    "a member is not heard: is it down, or cut off from this leader? see `ferrolog doctor`"
                );
            }
        }
    }

    fn unheard<'a>(&self, view: &'a View) -> impl Iterator<Item = &'a MemberView> {
        let lately = SILENT / 2;
        voters(view)
            .filter(move |voter| voter.id != self.me && !self.clocks.heard_within(voter.id, lately))
    }
}

fn voters(view: &View) -> impl Iterator<Item = &MemberView> {
    view.members.iter().filter(|member| member.voter)
}

fn name_of(view: &View, id: u64) -> &str {
    view.member(id)
        .map_or("a node that is gone", |member| &member.member.name)
}

/// Who joined, who left, who votes, who is elsewhere.
fn tell_members(was: &View, view: &View) {
    // A node that starts learns of members that have long been there.
    if was.members.is_empty() || was.members == view.members {
        return;
    }
    for member in view.members.iter() {
        let (node, addr) = (&*member.member.name, &*member.member.addr);
        let Some(before) = was.member(member.id) else {
            let votes = member.voter;
            tracing::info!(
                node,
                id = member.id,
                addr,
                votes,
                "a node joined the cluster"
            );
            continue;
        };
        if before.member.addr != *addr {
            let was = &*before.member.addr;
            tracing::info!(node, was, is = addr, "a member has another address");
        }
        match (before.voter, member.voter) {
            (false, true) => tracing::info!(node, "a member votes from now on"),
            (true, false) => tracing::info!(node, "a member votes no more"),
            _ => {}
        }
    }
    let is_gone = |member: &&MemberView| view.member(member.id).is_none();
    for member in was.members.iter().filter(is_gone) {
        let (node, addr) = (&*member.member.name, &*member.member.addr);
        tracing::info!(
            node,
            id = member.id,
            addr,
            "a node was removed from the cluster"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::subscriber::DefaultGuard;
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;
    use crate::env::Clock;
    use crate::raft::entry::types::Member;

    /// What was logged: `LEVEL message field=value ...`.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    struct Line(String, String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            match field.name() {
                "message" => self.0.push_str(&format!(" {value:?}")),
                name => self.1.push_str(&format!(" {name}={value:?}")),
            }
        }
    }

    impl Subscriber for Told {
        fn enabled(&self, told: &Metadata<'_>) -> bool {
            *told.level() <= Level::INFO
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string(), String::new());
            event.record(&mut line);
            self.0.lock().push(line.0 + &line.1);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    impl Told {
        fn here() -> (Self, DefaultGuard) {
            let told = Self::default();
            let guard = tracing::subscriber::set_default(told.clone());
            (told, guard)
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock())
        }
    }

    fn view(term: u64, leader: Option<u64>, members: &[u64]) -> View {
        let member = |id: &u64| MemberView {
            id: *id,
            member: Member {
                name: format!("n{id}"),
                addr: format!("h{id}:1"),
                ..Member::default()
            },
            voter: true,
        };
        View {
            term,
            leader,
            writable: leader == Some(1),
            members: Arc::new(members.iter().map(member).collect()),
            ..View::default()
        }
    }

    fn news() -> (News, Clocks, watch::Sender<Successor>) {
        let clocks = Clocks::new(Clock::system(), 1, 1000);
        let (tell, successor) = watch::channel(None);
        (News::new(1, clocks.clone(), successor), clocks, tell)
    }

    fn assert_told(told: &Told, parts: &[&str]) {
        let lines = told.take();
        assert_eq!(lines.len(), parts.len(), "{lines:#?}");
        for (line, part) in lines.iter().zip(parts) {
            assert!(line.contains(part), "{part:?} is not in {lines:#?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn elections_are_told_with_who_and_why_once_each() {
        let (told, _guard) = Told::here();
        let (mut news, clocks, tell) = news();
        let all = [1, 2, 3];
        let heard = Some(Duration::from_millis(250));
        let look = |news: &mut News, view: &View, asks| {
            for _ in 0..5 {
                news.look(view, asks, heard);
            }
        };
        look(&mut news, &view(1, Some(2), &all), false);
        assert_told(&told, &["INFO follows a new leader"]);
        look(&mut news, &view(2, None, &all), true);
        assert_told(
            &told,
            &["INFO asks for votes", "WARN hears its leader no more"],
        );
        for id in [2, 3] {
            clocks.note(id, 1);
        }
        look(&mut news, &view(2, Some(1), &all), false);
        let won = told.take();
        assert_eq!(won.len(), 1, "{won:#?}");
        for part in [
            "won the election",
            "term=2",
            "before=\"n2\"",
            "was not heard",
            "voters=3",
        ] {
            assert!(won[0].contains(part), "{part}: {won:?}");
        }
        tell.send_replace(Some((2, 3)));
        look(&mut news, &view(3, Some(3), &all), false);
        assert_told(
            &told,
            &["INFO lost leadership to another node term=3 leader=\"n3\" why=\"it was handed on\""],
        );
        look(&mut news, &view(4, None, &all), true);
        look(&mut news, &view(5, Some(2), &all), false);
        assert_told(
            &told,
            &[
                "asks for votes",
                "hears its leader no more",
                "INFO lost the election",
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn members_that_come_go_move_or_fall_silent_are_told() {
        let (told, _guard) = Told::here();
        let (mut news, clocks, _tell) = news();
        news.look(&view(1, Some(1), &[1, 2]), false, None);
        assert_told(&told, &["won the election"]);
        let mut three = view(1, Some(1), &[1, 2, 3]);
        Arc::make_mut(&mut three.members)[2].voter = false;
        news.look(&three, false, None);
        Arc::make_mut(&mut three.members)[2].voter = true;
        Arc::make_mut(&mut three.members)[1].member.addr = "h9:1".to_owned();
        news.look(&three, false, None);
        assert_told(
            &told,
            &[
                "INFO a node joined the cluster node=\"n3\" id=3 addr=\"h3:1\" votes=false",
                "INFO a member has another address node=\"n2\" was=\"h2:1\" is=\"h9:1\"",
                "INFO a member votes from now on node=\"n3\"",
            ],
        );
        for id in [2, 3] {
            clocks.note(id, 1);
        }
        tokio::time::advance(SILENT + Duration::from_millis(1)).await;
        clocks.note(2, 1);
        for _ in 0..20 {
            news.look(&three, false, None);
        }
        assert_told(&told, &["WARN a member is not heard: is it down"]);
        clocks.note(3, 1);
        news.look(&three, false, None);
        assert_told(&told, &["INFO a member is heard again node=\"n3\""]);
        news.look(&view(1, Some(1), &[1, 2]), false, None);
        assert_eq!(
            told.take().len(),
            2,
            "one has its address again, one is gone"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_quorum_is_told_and_then_once_a_minute() {
        let (told, _guard) = Told::here();
        let (mut news, clocks, _tell) = news();
        let led = view(1, Some(1), &[1, 2, 3]);
        news.look(&led, false, None);
        tokio::time::advance(SILENT * 2).await;
        for id in [2, 3] {
            clocks.note(id, 1);
        }
        news.look(&led, false, None);
        told.take();
        tokio::time::advance(SILENT).await;
        let unconfirmed = View {
            writable: false,
            ..led.clone()
        };
        // Four looks a second, as a node takes them, for two minutes and a half.
        for _ in 0..600 {
            news.look(&unconfirmed, false, None);
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        let lines = told.take();
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(count("no majority answers this leader"), 1, "{lines:#?}");
        assert!(lines[0].contains("silent=\"n2, n3\""), "{lines:#?}");
        assert_eq!(
            count("nobody leads, so nothing is committed"),
            3,
            "{lines:#?}"
        );
        assert_eq!(count("a member is not heard"), 2);
        news.look(&led, false, None);
        assert!(told.take()[0].contains("a majority answers this leader again"));
    }
}
