//! Whom a node hears, and what it does not believe even of a member.

use futures::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::disk::memory::MemoryDisk;
use crate::log::{Index, Kind, LogId, NUMBER_MAX, Offset};
use crate::net::memory::MemoryNetwork;
use crate::net::mux::Mux;
use crate::net::stream_layer::StreamLayer;
use crate::net::{Network, Security};
use crate::proto::raft_v1 as pb;
use crate::raft::members::hearing::Standing;
use crate::raft::peer::sender::Sender;
use crate::raft::peer::transport::{PeerClient, Transport};
use crate::raft::write::rolls;
use crate::raft::*;

use super::nodes::{PATIENCE, append, check, keep_up, start, until};

/// Voters, and somebody who calls them by the id of one.
struct Forger {
    network: MemoryNetwork,
    nodes: Vec<(ReplicatedLog, Mux)>,
}

impl Forger {
    async fn new(count: usize) -> Self {
        let mut forger = Self {
            network: MemoryNetwork::new(),
            nodes: Vec::new(),
        };
        for number in 0..count {
            forger.join(number).await;
        }
        for sequence in 0..3 {
            append(forger.leader(), sequence).await;
        }
        forger
    }

    async fn join(&mut self, number: usize) {
        let peers = ["node0:1".to_owned(), "node1:1".to_owned()];
        let peers = &peers[..number.min(2)];
        let addr = format!("node{number}:1");
        let node = start(&self.network, &MemoryDisk::default(), &addr, peers).await;
        self.nodes.push(node);
    }

    fn node(&self, number: usize) -> &ReplicatedLog {
        &self.nodes[number].0
    }

    fn id(&self, number: usize) -> u64 {
        self.node(number).identity().node_id
    }

    fn leader_number(&self) -> usize {
        let leads = |number: &usize| self.node(*number).view().writable;
        (0..self.nodes.len()).find(leads).expect("a node leads")
    }

    fn leader(&self) -> &ReplicatedLog {
        self.node(self.leader_number())
    }

    fn follower_number(&self) -> usize {
        (self.leader_number() + 1) % self.nodes.len()
    }

    /// A client of a node's raft service, by the id of `from`.
    fn client(&self, from: u64, to: usize) -> PeerClient {
        self.client_at(from, to, "forger:1")
    }

    /// The same, saying that it is reached there.
    fn client_at(&self, from: u64, to: usize, addr: &str) -> PeerClient {
        let network = Arc::new(self.network.named("forger:1"));
        let layer = StreamLayer::new(network, Security::Insecure);
        let sender = Sender {
            cluster_id: self.node(0).identity().cluster_id.clone(),
            node_id: from,
            addr: addr.to_owned(),
            start: 0,
        };
        Transport::new(layer, sender).client(self.id(to), &format!("node{to}:1"))
    }

    /// Sends one request on a stream; gives the last answer.
    async fn answered(
        &self,
        from: u64,
        to: usize,
        request: pb::AppendEntriesRequest,
    ) -> Result<pb::AppendEntriesResponse, Status> {
        let mut client = self.client(from, to);
        let call = client.append_entries(stream::iter([request]));
        let answers = timeout(PATIENCE, call).await.expect("an answer")?;
        let answers = answers.into_inner().collect();
        let answers: Vec<_> = timeout(PATIENCE, answers).await.expect("it ends");
        answers.last().cloned().expect("an answer")
    }

    /// The same; gives the error that the stream ends with.
    async fn entries(&self, from: u64, to: usize, request: pb::AppendEntriesRequest) -> Status {
        let answered = self.answered(from, to, request).await;
        answered.expect_err("it is refused")
    }

    async fn vote(&self, from: u64, to: usize, request: &pb::VoteRequest) -> [Status; 2] {
        let mut client = self.client(from, to);
        let vote = timeout(PATIENCE, client.vote(*request)).await;
        let pre_vote = timeout(PATIENCE, client.pre_vote(*request)).await;
        [vote, pre_vote].map(|answer| answer.expect("an answer").expect_err("it is refused"))
    }

    /// A snapshot is refused as one that a sound leader does not send; gives why.
    async fn refuses_snapshot(
        &self,
        from: u64,
        to: usize,
        request: pb::InstallSnapshotRequest,
    ) -> String {
        let told = format!("{request:?}");
        // Rows that no node could take over are refused before anything else is looked at.
        let state = &self.node(to).0.node.state;
        let rows = state.read(|fsm| fsm.to_rows().collect());
        let parts = crate::raft::snapshot::to_parts(request, &rows);
        let mut client = self.client(from, to);
        let sent = client.install_snapshot(stream::iter(parts));
        let status = timeout(PATIENCE, sent).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{told}: {status:?}");
        status.message().to_owned()
    }

    /// Nothing has changed, and everything goes on, in the same term.
    async fn goes_on(&self, term: u64, records: u64) {
        for (node, _) in &self.nodes {
            assert_eq!(node.view().stopped, None);
            assert_eq!(node.view().term, term);
        }
        append(self.leader(), records).await;
        for (node, _) in &self.nodes {
            check(node, records + 1).await;
        }
    }
}

fn vote(term: u64, voted_for: u64, committed: bool) -> Option<pb::VoteState> {
    Some(pb::VoteState {
        term,
        voted_for,
        committed,
    })
}

fn log_id(term: u64, index: u64) -> Option<pb::LogId> {
    Some(pb::LogId { term, index })
}

/// One without segments whose last entry this is.
fn snapshot(vote: Option<pb::VoteState>, term: u64, index: u64) -> pb::InstallSnapshotRequest {
    pb::InstallSnapshotRequest {
        vote,
        checkpoint: Some(pb::Checkpoint {
            applied: log_id(term, index),
            ..pb::Checkpoint::default()
        }),
        floor: Some(pb::Floor {
            last: log_id(term, index),
            next_position: 0,
        }),
        ..pb::InstallSnapshotRequest::default()
    }
}

fn blank(term: u64, index: u64) -> pb::Entry {
    control(term, index, pb::control_entry::Command::Blank(pb::Blank {}))
}

fn control(term: u64, index: u64, command: pb::control_entry::Command) -> pb::Entry {
    let entry = pb::ControlEntry {
        command: Some(command),
    };
    pb::Entry {
        log_id: log_id(term, index),
        kind: Kind::Control as u32,
        payload: prost::Message::encode_to_vec(&entry).into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_joined_or_was_removed_is_not_heard() {
    let forger = Forger::new(3).await;
    let (to, term) = (forger.follower_number(), forger.leader().view().term);
    let last = forger.leader().indexes()[0].unwrap();
    // One whose id this node may be yet to learn of, none at all, and one that is surely gone.
    let gone = (1..).find(|id| (0..3).all(|number| forger.id(number) != *id));
    for stranger in [999, 0, gone.unwrap()] {
        let request = pb::VoteRequest {
            vote: vote(term + 5, stranger, false),
            last_log_id: log_id(term, last + 1),
            leadership_transfer: true,
        };
        for status in forger.vote(stranger, to, &request).await {
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        }
        let request = pb::AppendEntriesRequest {
            vote: vote(term + 50, stranger, true),
            prev_log_id: log_id(term, last),
            entries: (1..=5).map(|more| blank(term + 50, last + more)).collect(),
            leader_commit: log_id(term + 50, last + 5),
        };
        let status = forger.entries(stranger, to, request).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let mut client = forger.client(stranger, to);
        let parts = crate::raft::snapshot::to_parts(
            pb::InstallSnapshotRequest::default(),
            &Default::default(),
        );
        let snapshot = client.install_snapshot(stream::iter(parts));
        let status = timeout(PATIENCE, snapshot).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let told = client.identify(pb::IdentifyRequest {}).await.unwrap();
        assert_eq!(told.into_inner().members, [], "who the members are");
    }
    forger.goes_on(term, 3).await;
}

#[tokio::test(start_paused = true)]
async fn no_vote_of_a_member_ends_elections_or_a_reign() {
    let forger = Forger::new(3).await;
    let (leader, term) = (forger.leader_number(), forger.leader().view().term);
    let to = forger.follower_number();
    let from = (0..3).find(|number| ![leader, to].contains(number));
    let (from, last) = (
        forger.id(from.unwrap()),
        forger.leader().indexes()[0].unwrap(),
    );
    let request = |vote, last_log_id| pb::VoteRequest {
        vote,
        last_log_id,
        leadership_transfer: true,
    };
    let mine = log_id(term, last + 9);
    let forged = [
        request(vote(u64::MAX, from, false), mine),
        request(vote(NUMBER_MAX, from, false), mine),
        request(
            vote(
                term + crate::raft::peer::checks::TERM_JUMP_MAX + 1,
                from,
                false,
            ),
            mine,
        ),
        request(vote(term + 1, forger.id(to), false), mine),
        request(vote(term + 1, 77, false), mine),
        request(vote(term + 1, from, true), mine),
        request(vote(term + 1, from, false), log_id(term + 2, last)),
        request(vote(term + 1, from, false), log_id(term, u64::MAX)),
    ];
    for request in &forged {
        for to in [leader, to] {
            for status in forger.vote(from, to, request).await {
                assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
            }
        }
    }
    // By the book, but nobody handed leadership on to it.
    for to in [leader, to] {
        let mut client = forger.client(from, to);
        let asked = client.vote(request(vote(term + 1, from, false), mine));
        let answer = timeout(PATIENCE, asked).await.unwrap().unwrap();
        assert!(!answer.into_inner().granted, "the leader is alive");
    }
    forger.goes_on(term, 3).await;
    // Rightly: the leader names its successor, and that one is heard.
    let name = forger.node(to).identity().name.clone();
    let moved = timeout(PATIENCE, forger.leader().transfer(&name)).await;
    assert_eq!(moved.unwrap().unwrap(), name);
}

#[tokio::test(start_paused = true)]
async fn no_entries_of_a_member_panic_or_mislead_a_follower() {
    let forger = Forger::new(3).await;
    let (to, term) = (forger.follower_number(), forger.leader().view().term);
    let from = forger.leader().identity().node_id;
    let [last, committed, _] = forger.node(to).indexes().map(Option::unwrap);
    let prev = log_id(term, last);
    let mine = vote(term, from, true);
    let no_voters = pb::control_entry::Command::Membership(pb::Membership::default());
    let request = |vote, prev_log_id, entries| pb::AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit: None,
    };
    let committing = |leader_commit| pb::AppendEntriesRequest {
        leader_commit,
        ..request(mine, prev, Vec::new())
    };
    let forged = [
        request(vote(u64::MAX, from, true), prev, Vec::new()),
        request(vote(term, from, false), prev, Vec::new()),
        request(vote(term + 1, forger.id(to), true), prev, Vec::new()),
        request(vote(term + 1, 77, true), prev, Vec::new()),
        request(mine, log_id(term, u64::MAX), Vec::new()),
        request(mine, log_id(term + 1, last), Vec::new()),
        request(mine, prev, vec![blank(term, last + 2)]),
        request(mine, None, vec![blank(term, 7)]),
        request(
            mine,
            prev,
            vec![blank(term, last + 1), blank(term, last + 3)],
        ),
        request(mine, prev, vec![blank(term - 1, last + 1)]),
        request(mine, prev, vec![blank(term + 1, last + 1)]),
        request(mine, prev, vec![control(term, last + 1, no_voters)]),
        // They contradict what is committed.
        request(
            vote(term + 9, from, true),
            log_id(term + 9, committed),
            Vec::new(),
        ),
        request(
            vote(term + 9, from, true),
            log_id(term, committed - 1),
            vec![blank(term + 9, committed), blank(term + 9, committed + 1)],
        ),
        committing(log_id(term, u64::MAX)),
        committing(log_id(term + 1, last)),
        committing(log_id(term - 1, committed)),
    ];
    for request in forged {
        let status = forger.entries(from, to, request.clone()).await;
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{request:?}: {status:?}"
        );
    }
    for request in [
        snapshot(vote(term, from, false), term, last),
        snapshot(vote(term + 1, 77, true), term, last),
        snapshot(mine, term + 1, last + 1),
        snapshot(vote(term + 9, from, true), term + 9, committed),
    ] {
        forger.refuses_snapshot(from, to, request).await;
    }
    // Nor is anything taken from who calls by the node's own id.
    let itself = forger.id(to);
    let status = forger
        .entries(
            itself,
            to,
            request(vote(term + 1, itself, true), prev, Vec::new()),
        )
        .await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    forger.goes_on(term, 3).await;
}

/// Where entries were given up their terms are not known any more. They were committed, so none of them is of a later
/// term than the last one that is.
#[tokio::test(start_paused = true)]
async fn no_snapshot_ends_where_entries_were_given_up_in_a_later_term() {
    let forger = Forger::new(3).await;
    let (to, term) = (forger.follower_number(), forger.leader().view().term);
    let since = forger.leader().log().to_roll().unwrap();
    assert!(rolls::end_segment(&forger.leader().0.node, since).await);
    let follower = forger.node(to);
    keep_up(follower);
    // That nodes joined is told in the log of changes, which keeps a segment, too.
    for log in [LogId::DEFAULT, LogId::AUDIT] {
        forger
            .leader()
            .of(log)
            .trim(Offset(u64::MAX))
            .await
            .unwrap();
    }
    until("segments go", || follower.log().first_entry() > Index(0)).await;
    let last = follower.log().first_entry().0 - 1;
    assert!(follower.log().term(Index(last)).is_err(), "it is given up");
    let from = forger.leader().identity().node_id;
    let request = snapshot(vote(term + 9, from, true), term + 9, last);
    let why = forger.refuses_snapshot(from, to, request).await;
    let contradicts = format!("it contradicts raft index {last}");
    assert!(why.contains(&contradicts), "{why}");
    append(forger.leader(), 3).await;
    until("it goes on", || {
        follower.offsets() == (Offset(3), Offset(4))
    })
    .await;
    assert_eq!(follower.view().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_is_told_of_the_later_term_and_accused_of_nothing() {
    let forger = Forger::new(3).await;
    let (old, term) = (forger.leader_number(), forger.leader().view().term);
    let last = forger.leader().indexes()[0].unwrap();
    let name = forger
        .node(forger.follower_number())
        .identity()
        .name
        .clone();
    let moved = timeout(PATIENCE, forger.leader().transfer(&name)).await;
    moved.unwrap().unwrap();
    let now = forger.leader().view().term;
    append(forger.leader(), 3).await;
    let to = (0..3).find(|number| ![old, forger.leader_number()].contains(number));
    let to = to.unwrap();
    check(forger.node(to), 4).await;
    // What it had appended and nobody else has, where an entry of the later term is committed by now.
    let request = pb::AppendEntriesRequest {
        vote: vote(term, forger.id(old), true),
        prev_log_id: log_id(term, last),
        entries: vec![blank(term, last + 1)],
        leader_commit: None,
    };
    let answer = forger.answered(forger.id(old), to, request).await.unwrap();
    match answer.result {
        Some(pb::append_entries_response::Result::HigherVote(higher)) => {
            assert_eq!(higher.term, now);
        }
        other => panic!("{other:?}"),
    }
    forger.goes_on(now, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_sends_no_node_to_an_address_that_its_sender_names() {
    let forger = Forger::new(3).await;
    let (to, leader) = (forger.follower_number(), forger.leader_number());
    let term = forger.leader().view().term;
    let last = forger.leader().indexes()[0].unwrap() + 9;
    let mut trap = forger.network.listen("forger:1").await.unwrap();
    // One that got an id and never became a member, and the leader, that is a member elsewhere.
    let ghost = pb::JoinRequest {
        name: "ghost".to_owned(),
        directory_id: "0".repeat(32),
        ..pb::JoinRequest::default()
    };
    let ghost = forger.leader().join(ghost).await.unwrap().node_id;
    let known = async {
        while forger.node(to).0.hearing.standing(ghost) == Standing::Unknown {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("its id is known");
    for from in [ghost, forger.id(leader)] {
        let segment = pb::SegmentSeal {
            base: last + 1,
            entries: 1,
            end: 4096,
            ..pb::SegmentSeal::default()
        };
        let request = pb::InstallSnapshotRequest {
            vote: vote(term, from, true),
            checkpoint: Some(pb::Checkpoint {
                applied: log_id(term, last + 1),
                ..pb::Checkpoint::default()
            }),
            floor: Some(pb::Floor {
                last: log_id(term, last),
                next_position: 0,
            }),
            segments: vec![segment],
            rows: Vec::new(),
        };
        let mut client = forger.client_at(from, to, "");
        let sent = client.install_snapshot(stream::iter([request]));
        let trapped = tokio::select! {
            sent = timeout(PATIENCE, sent) => {
                sent.expect("an answer").expect_err("there is no such segment");
                false
            }
            dialled = trap.accept() => dialled.is_ok(),
        };
        assert!(!trapped, "node {from} had an address dialled");
    }
}

#[tokio::test(start_paused = true)]
async fn members_pass_on_no_commands_that_clients_do_not_have() {
    use pb::control_entry::Command as Control;
    let forger = Forger::new(2).await;
    let (leader, from) = (forger.leader_number(), forger.id(forger.follower_number()));
    let mut client = forger.client(from, leader);
    let register = pb::RegisterNode {
        name: "n9".to_owned(),
        ..pb::RegisterNode::default()
    };
    for command in [
        Control::RegisterNode(register),
        Control::ExpireSessions(pb::ExpireSessions { idle_before_ms: 3 }),
        Control::ForgetNode(pb::ForgetNode::default()),
    ] {
        let entry = pb::ControlEntry {
            command: Some(command),
        };
        let status = timeout(PATIENCE, client.execute(entry)).await.unwrap();
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_lags_hears_a_new_one_once_a_member_introduced_it() {
    let mut forger = Forger::new(3).await;
    let lagging = (0..3).rfind(|number| *number != forger.leader_number());
    let lagging = lagging.unwrap();
    let meets = forger.node(lagging).clone();
    tokio::spawn(async move { meets.meet_strangers().await });
    forger.network.cut(&format!("node{lagging}:1"));
    forger.join(3).await;
    let new = forger.id(3);
    assert_eq!(
        forger.node(lagging).0.hearing.standing(new),
        Standing::Unknown
    );
    // Without the leader all three others are needed, and the leader alone could tell.
    let leader = forger.leader_number();
    forger.network.cut(&format!("node{leader}:1"));
    forger.network.heal(&format!("node{lagging}:1"));
    let known = async {
        while forger.node(lagging).0.hearing.standing(new) == Standing::Unknown {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("it is introduced");
    let mut views = forger.node(lagging).watch_view();
    let others = views.wait_for(|view| view.leader.is_some_and(|id| id != forger.id(leader)));
    timeout(PATIENCE, others)
        .await
        .expect("they elect")
        .unwrap();
}
