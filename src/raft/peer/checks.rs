//! Checks what peers say, in requests and in answers, before the engine hears it.
//!
//! The engine expects sound peers. A message that breaks the protocol makes it panic, or it believes the message:
//! a vote in the highest term that there is would end elections for ever. Here such a message becomes an error.

use std::collections::VecDeque;

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use parking_lot::Mutex;

use crate::log::{Index, Log, NUMBER_MAX};
use crate::raft::entry::types::{EntryPayload, LogId, SnapshotMeta, TypeConfig, Vote};

/// How far a peer's term may be ahead of this node's. Each election raises the term by one, so a century of
/// elections stays far below this, and no peer can use the terms up.
pub const TERM_JUMP_MAX: u64 = 1 << 32;

/// A request or an answer that no sound peer sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// A term or an index that no cluster reaches.
    #[error("{what} {number} is larger than any there can be")]
    TooLarge { what: &'static str, number: u64 },
    /// A term further ahead than [`TERM_JUMP_MAX`].
    #[error("term {term} is more than {TERM_JUMP_MAX} ahead of {ours}, which is this node's")]
    TermJump { term: u64, ours: u64 },
    /// A node sends the vote of another one as its own.
    #[error("node {caller} sends a vote for node {voted_for}")]
    OtherVote { caller: u64, voted_for: u64 },
    /// A candidate sends a vote that is granted already, or a leader one that is not.
    #[error("{0}")]
    WrongVote(&'static str),
    /// An index that does not follow the one before it.
    #[error("{what}: index {found} where {expected} comes next")]
    Gap {
        what: &'static str,
        found: u64,
        expected: u64,
    },
    /// A term that is lower than the one before it in the log, or higher than the sender's vote.
    #[error("{what} is of term {term}, which cannot be beside term {other}")]
    WrongTerm {
        what: &'static str,
        term: u64,
        other: u64,
    },
    /// A membership without voters.
    #[error("a membership names no voters")]
    NoVoters,
    /// An entry that would replace a committed one.
    #[error(
        "it contradicts raft index {index}, which is committed here up to {committed}: one of the \
         two nodes has lost its log. Find out which holds the records, then remove the other with \
         `ferrolog cluster remove` and join it again with an empty data directory"
    )]
    Contradiction { index: u64, committed: u64 },
    /// An answer to another request than the one that was sent.
    #[error("it answers {answered}, and was asked for {asked}")]
    OtherAnswer { answered: String, asked: String },
}

/// The two nodes of a message: this one and its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// This node.
    pub me: u64,
    /// The node that calls or answers.
    pub peer: u64,
    /// The term that this node has reached.
    pub term: u64,
}

fn number(what: &'static str, number: u64) -> Result<(), Unsound> {
    if number > NUMBER_MAX {
        return Err(Unsound::TooLarge { what, number });
    }
    Ok(())
}

fn log_id(id: Option<&LogId>) -> Result<(), Unsound> {
    let Some(id) = id else {
        return Ok(());
    };
    number("index", id.index)?;
    number("term", id.leader_id.term)
}

fn not_beyond(what: &'static str, id: Option<&LogId>, vote: &Vote) -> Result<(), Unsound> {
    let (term, other) = (id.map_or(0, |id| id.leader_id.term), vote.leader_id.term);
    if term > other {
        return Err(Unsound::WrongTerm { what, term, other });
    }
    Ok(())
}

impl Pair {
    fn term(&self, term: u64) -> Result<(), Unsound> {
        number("term", term)?;
        if term.saturating_sub(self.term) > TERM_JUMP_MAX {
            let ours = self.term;
            return Err(Unsound::TermJump { term, ours });
        }
        Ok(())
    }

    /// Checks a vote that the peer sends as its own.
    fn own_vote(&self, vote: &Vote) -> Result<(), Unsound> {
        self.term(vote.leader_id.term)?;
        let (caller, voted_for) = (self.peer, vote.leader_id.voted_for);
        if voted_for != caller {
            return Err(Unsound::OtherVote { caller, voted_for });
        }
        Ok(())
    }

    fn leader_vote(&self, vote: &Vote) -> Result<(), Unsound> {
        self.own_vote(vote)?;
        if !vote.committed {
            return Err(Unsound::WrongVote("who leads has a vote that was granted"));
        }
        Ok(())
    }

    /// Checks a candidate's request for a vote.
    pub fn vote_request(&self, request: &VoteRequest<TypeConfig>) -> Result<(), Unsound> {
        self.own_vote(&request.vote)?;
        if request.vote.committed {
            return Err(Unsound::WrongVote("who asks for votes has none granted"));
        }
        log_id(request.last_log_id.as_ref())?;
        not_beyond(
            "its last entry",
            request.last_log_id.as_ref(),
            &request.vote,
        )
    }

    /// Checks a leader's request that this node take over.
    pub fn transfer(&self, request: &TransferLeaderRequest<TypeConfig>) -> Result<(), Unsound> {
        self.leader_vote(request.from_leader())?;
        log_id(request.last_log_id())?;
        not_beyond(
            "its last entry",
            request.last_log_id(),
            request.from_leader(),
        )
    }

    /// Checks what a leader says of its snapshot.
    pub fn snapshot(&self, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Unsound> {
        self.leader_vote(vote)?;
        let (last, members) = (meta.last_log_id.as_ref(), &meta.last_membership);
        log_id(last)?;
        log_id(members.log_id().as_ref())?;
        not_beyond("its last entry", last, vote)?;
        let index = |id: Option<&LogId>| id.map_or(0, |id| id.index);
        let (found, expected) = (index(members.log_id().as_ref()), index(last));
        if found > expected {
            let what = "its membership is behind its end";
            return Err(Unsound::Gap {
                what,
                found,
                expected,
            });
        }
        Ok(())
    }

    /// Checks a leader's request to append entries.
    pub fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Unsound> {
        self.leader_vote(&request.vote)?;
        log_id(request.prev_log_id.as_ref())?;
        log_id(request.leader_commit.as_ref())?;
        not_beyond(
            "what it commits",
            request.leader_commit.as_ref(),
            &request.vote,
        )?;
        let mut last = request.prev_log_id;
        for entry in &request.entries {
            let id = entry.log_id;
            log_id(Some(&id))?;
            let expected = last.map_or(0, |last| last.index + 1);
            if id.index != expected {
                let (what, found) = ("its entries leave a gap", id.index);
                return Err(Unsound::Gap {
                    what,
                    found,
                    expected,
                });
            }
            let (term, other) = (
                id.leader_id.term,
                last.map_or(0, |last| last.leader_id.term),
            );
            if term < other {
                let what = "an entry";
                return Err(Unsound::WrongTerm { what, term, other });
            }
            if let EntryPayload::Membership(membership) = entry.payload()
                && (membership.get_joint_config().is_empty()
                    || membership
                        .get_joint_config()
                        .iter()
                        .any(|voters| voters.is_empty()))
            {
                return Err(Unsound::NoVoters);
            }
            last = Some(id);
        }
        not_beyond("its last entry", last.as_ref(), &request.vote)
    }

    /// Checks the vote in an answer: the last that the peer gave, to whomever.
    pub fn answered_vote(&self, vote: &Vote) -> Result<(), Unsound> {
        self.term(vote.leader_id.term)?;
        // A node saves a vote for itself before it asks for others', so no peer can know of a later one.
        if vote.leader_id.voted_for == self.me && vote.leader_id.term > self.term {
            return Err(Unsound::WrongVote(
                "it gave this node a vote that it never asked for",
            ));
        }
        Ok(())
    }

    /// Checks a voter's answer to this node as a candidate.
    pub fn vote_answer(&self, answer: &VoteResponse<TypeConfig>) -> Result<(), Unsound> {
        self.answered_vote(&answer.vote)?;
        log_id(answer.last_log_id.as_ref())?;
        not_beyond("its last entry", answer.last_log_id.as_ref(), &answer.vote)
    }
}

/// The first index under which this log holds another entry than a leader's request names.
pub fn contradicts(log: &Log, request: &AppendEntriesRequest<TypeConfig>) -> Option<u64> {
    let first = log.first_entry();
    let differs = |id: &&LogId| {
        let term = id.leader_id.term;
        match log.term(Index(id.index)) {
            Ok(held) => held.0 != term,
            // The entry was removed. It came before the first entry that is held, and so cannot have a later
            // term than that one.
            Err(_) if Index(id.index) < first => log.term(first).is_ok_and(|next| next.0 < term),
            Err(_) => false,
        }
    };
    let carried = request.entries.iter().map(|entry| &entry.log_id);
    let prev = request.prev_log_id.as_ref();
    let ids = prev.into_iter().chain(carried);
    let end = ids.clone().last().map_or(0, |last| last.index + 1);
    let commit = request.leader_commit.as_ref();
    let commit = commit.filter(|commit| commit.index < end);
    // Where the committed index lies within this request, its term must be that of the entry there.
    let torn = commit.filter(|commit| {
        let mut same = ids.clone().filter(|id| id.index == commit.index);
        same.any(|id| id != *commit)
    });
    if let Some(torn) = torn {
        return Some(torn.index);
    }
    let found = ids.chain(commit).filter(differs).map(|id| id.index);
    found.min()
}

/// The requests to a follower that are not answered yet, the oldest first; answers come in the same order.
#[derive(Debug, Default)]
pub struct Unanswered(Mutex<VecDeque<(Option<LogId>, Option<LogId>)>>);

impl Unanswered {
    /// Notes a request that is sent now.
    pub fn sent(&self, request: &AppendEntriesRequest<TypeConfig>) {
        let last = request.entries.last().map(|entry| entry.log_id);
        let prev = request.prev_log_id;
        self.0.lock().push_back((prev, last.or(prev)));
    }

    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        !self.0.lock().is_empty()
    }

    /// Checks an answer against the oldest request, and removes that request.
    pub fn answered(
        &self,
        pair: &Pair,
        result: &StreamAppendResult<TypeConfig>,
    ) -> Result<(), Unsound> {
        let (prev, last) = self.0.lock().pop_front().unwrap_or_default();
        let shown = |id: &Option<LogId>| {
            id.as_ref()
                .map_or("nothing".to_owned(), |id| id.to_string())
        };
        let other = |answered: &Option<LogId>, asked: &Option<LogId>| Unsound::OtherAnswer {
            answered: shown(answered),
            asked: shown(asked),
        };
        match result {
            Ok(matched) if *matched != last => Err(other(matched, &last)),
            Err(StreamAppendError::Conflict(id)) if Some(*id) != prev => {
                Err(other(&Some(*id), &prev))
            }
            Err(StreamAppendError::HigherVote(vote)) => pair.answered_vote(vote),
            Ok(_) | Err(StreamAppendError::Conflict(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Term;
    use crate::raft::entry::types;

    const PAIR: Pair = Pair {
        me: 1,
        peer: 2,
        term: 5,
    };

    fn request(prev: u64, entries: u64) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| types::log_id(Term(5), Index(index));
        let blank = |index| openraft::entry::RaftEntry::new_blank(id(index));
        AppendEntriesRequest {
            vote: Vote::new_committed(5, 1),
            prev_log_id: Some(id(prev)),
            entries: (prev + 1..=prev + entries).map(blank).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn answers_belong_to_what_was_sent() {
        let id = |index| types::log_id(Term(5), Index(index));
        let unanswered = Unanswered::default();
        let answer = |prev, entries, result| {
            unanswered.sent(&request(prev, entries));
            unanswered.answered(&PAIR, &result)
        };
        assert_eq!(answer(7, 2, Ok(Some(id(9)))), Ok(()));
        assert_eq!(answer(7, 0, Ok(Some(id(7)))), Ok(()));
        assert_eq!(
            answer(7, 2, Err(StreamAppendError::Conflict(id(7)))),
            Ok(())
        );
        // More than was sent, less, another term's, nothing; and a conflict elsewhere.
        let other = types::log_id(Term(4), Index(9));
        for wrong in [Some(id(10)), Some(id(8)), Some(other), None] {
            answer(7, 2, Ok(wrong)).unwrap_err();
        }
        for wrong in [id(6), id(8), other] {
            answer(7, 2, Err(StreamAppendError::Conflict(wrong))).unwrap_err();
        }
        // Nothing was asked.
        unanswered.answered(&PAIR, &Ok(Some(id(1)))).unwrap_err();
    }

    #[test]
    fn an_answer_gives_this_node_no_vote_and_uses_no_terms_up() {
        let answered = |term, voted_for| PAIR.answered_vote(&Vote::new(term, voted_for));
        assert_eq!(answered(6, 3), Ok(()));
        assert_eq!(answered(5, 1), Ok(()));
        answered(6, 1).unwrap_err();
        answered(u64::MAX, 3).unwrap_err();
        answered(TERM_JUMP_MAX + 6, 3).unwrap_err();
        let last = types::log_id(Term(7), Index(1));
        let answer = VoteResponse::new(Vote::new(6, 3), Some(last), false);
        PAIR.vote_answer(&answer).unwrap_err();
    }
}
