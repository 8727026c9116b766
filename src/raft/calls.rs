//! What the handle is asked for, and which part does it.

use std::time::Duration;

use crate::live::Live;
use crate::log::{Index, LogId, Offset};
use crate::proto::raft_v1 as pb;
use crate::raft::entry::audited::Note;
use crate::raft::entry::catalog::{CreateLog, DeleteLog, SetRetention, Trim, UpdateLog};
use crate::raft::entry::command::{ClaimEpoch, CommitCursor, Retention};
use crate::raft::entry::outcome::Made;
use crate::raft::error::{ExecuteError, MembershipError, ReadError};
use crate::raft::read::Freshness;
use crate::raft::state::cursors::Cursor;
use crate::raft::state::fences::Epoch;
use crate::raft::state::fsm::Fsm;
use crate::raft::state::history::LogChanges;
use crate::raft::state::logs::KnownLog;
use crate::raft::state::sessions::SessionInfo;
use crate::raft::upkeep::progress::Progress;
use crate::raft::view::View;
use crate::raft::write::commands::Claim;

use super::ReplicatedLog;

impl ReplicatedLog {
    // Commands.

    /// Opens a session of a producer; the same subject with the same secret gets the same one.
    pub async fn open_session(&self, subject: &str, secret: u128) -> Result<u64, ExecuteError> {
        let call = self.call();
        self.0.commands.open_session(subject, secret, call).await
    }

    /// Forgets a session: its opener's, if an owner is given, and else anybody's.
    pub async fn close_session(
        &self,
        session: u64,
        owner: Option<u128>,
    ) -> Result<(), ExecuteError> {
        let call = self.call();
        self.0.commands.close_session(session, owner, call).await
    }

    /// Up to `count` sessions behind `after`, as far as this node has applied.
    pub fn sessions(&self, after: u64, count: usize) -> Vec<SessionInfo> {
        self.0.commands.sessions(after, count)
    }

    /// Gives a name to a new holder.
    pub async fn claim_epoch(&self, claim: ClaimEpoch) -> Result<Claim, ExecuteError> {
        let call = self.call();
        self.0.commands.claim_epoch(claim, call).await
    }

    /// Who holds a name, as far as this node has applied.
    pub fn epoch(&self, name: &str) -> Option<Epoch> {
        self.0.commands.epoch(name)
    }

    /// Up to `count` claimed names behind `after`, as far as this node has applied.
    pub fn fences(&self, after: &str, count: usize) -> Vec<(String, Epoch)> {
        self.0.commands.fences(after, count)
    }

    /// Forgets a name that was claimed; false if there was none.
    pub async fn delete_fence(&self, name: &str) -> Result<bool, ExecuteError> {
        let call = self.call();
        self.0.commands.delete_fence(name, call).await
    }

    /// Sets a cursor.
    pub async fn commit_cursor(&self, commit: CommitCursor) -> Result<(), ExecuteError> {
        let call = self.call();
        self.0.commands.commit_cursor(commit, call).await
    }

    /// Forgets a cursor; false if there was none.
    pub async fn delete_cursor(&self, name: &str) -> Result<bool, ExecuteError> {
        let call = self.call();
        self.0.commands.delete_cursor(self.2, name, call).await
    }

    /// A cursor, as far as this node has applied.
    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.0.commands.cursor(self.2, name)
    }

    /// Up to `count` cursors by name, behind `after`.
    pub fn cursors(&self, after: &str, count: usize) -> Vec<(String, Cursor)> {
        self.0.commands.cursors(self.2, after, count)
    }

    /// Gives up the records before `first`, on every replica alike; gives the first offset that may
    /// be read from now on. Any member takes the call.
    pub async fn trim(&self, first: Offset) -> Result<Offset, ExecuteError> {
        let (call, log) = (self.call(), self.2);
        self.0.commands.trim(Trim { log, first }, call).await
    }

    /// Makes a log, or finds the one that there is.
    pub async fn create_log(&self, create: CreateLog) -> Result<Made, ExecuteError> {
        let call = self.call();
        self.0.commands.create_log(create, call).await
    }

    /// Replaces a log's configuration.
    pub async fn update_log(&self, update: UpdateLog) -> Result<Made, ExecuteError> {
        let call = self.call();
        self.0.commands.update_log(update, call).await
    }

    /// Deletes a log; false if there was none.
    pub async fn delete_log(&self, delete: DeleteLog) -> Result<bool, ExecuteError> {
        let call = self.call();
        self.0.commands.delete_log(delete, call).await
    }

    /// Has a log compacted as soon as may be.
    pub async fn compact_log(&self, log: LogId) -> Result<(), ExecuteError> {
        let call = self.call();
        self.0.commands.compact_log(log, call).await
    }

    /// What is known of this log, as far as this node has applied; `None` if it was deleted.
    pub fn known(&self) -> Option<KnownLog> {
        let known = |fsm: &Fsm| fsm.logs.get(self.2).cloned();
        self.0.node.state.read(known)
    }

    /// Up to `count` logs by name whose names begin with `prefix`, behind `after`, of those to be shown. At most
    /// `looked_max` names are looked at: the last one is given, too, if there may be more behind it.
    pub fn logs(
        &self,
        prefix: &str,
        after: &str,
        (count, looked_max): (usize, usize),
        is_shown: impl Fn(&str) -> bool,
    ) -> (Vec<(LogId, KnownLog)>, Option<String>) {
        self.0.node.state.read(|fsm| {
            let (mut found, mut looked) = (Vec::new(), None);
            for (place, (id, log)) in fsm.logs.list(prefix, after).enumerate() {
                if found.len() == count || place == looked_max {
                    return (found, looked);
                }
                looked = Some(log.name.clone());
                if is_shown(&log.name) {
                    found.push((id, log.clone()));
                }
            }
            (found, None)
        })
    }

    /// Up to `count` changes of the catalogue behind `after`, of logs to be shown; `None` if it is too old: some were
    /// forgotten.
    pub fn log_changes(
        &self,
        after: Index,
        count: usize,
        is_shown: impl Fn(&str) -> bool,
    ) -> Option<LogChanges> {
        let state = &self.0.node.state;
        state.read(|fsm| {
            fsm.logs
                .changes(after, fsm.applied_index(), count, is_shown)
        })
    }

    /// The last index that this node has applied.
    pub fn applied_index(&self) -> Index {
        self.0.node.state.read(Fsm::applied_index)
    }

    /// Tells these in the log of changes. Any member takes the call.
    pub async fn tell_changes(&self, notes: Vec<Note>) -> Result<(), ExecuteError> {
        self.0.commands.tell(notes, self.call()).await
    }

    /// Sets how much of the log is kept. Any member takes the call.
    pub async fn set_retention(&self, retention: Retention) -> Result<(), ExecuteError> {
        let (log, call) = (self.2, self.call());
        let set = SetRetention { log, retention };
        self.0.commands.set_retention(set, call).await
    }

    /// Lets a node of this name join, once.
    pub async fn allow(&self, name: &str) -> Result<(), ExecuteError> {
        let call = self.call();
        self.0.commands.allow(name, call).await
    }

    /// Takes that back; false if the name was not allowed, or has joined.
    pub async fn withdraw(&self, name: &str) -> Result<bool, ExecuteError> {
        let call = self.call();
        self.0.commands.withdraw(name, call).await
    }

    /// Makes a token that lets one node join, within `life`.
    pub async fn make_token(&self, life: Duration) -> Result<String, ExecuteError> {
        let call = self.call();
        self.0.commands.make_token(life, call).await
    }

    /// The names that may join, as far as this node has applied.
    pub fn allowed(&self) -> Vec<String> {
        self.0.commands.allowed()
    }

    // Reads.

    /// How far this node is.
    pub fn freshness(&self) -> Freshness {
        self.0.reads.freshness(self.2)
    }

    /// Returns once this node is known to be at most `bound` behind.
    ///
    /// No clock but this node's is trusted: the bound counts from before the leader was asked.
    pub async fn be_fresh(&self, bound: Duration) -> Result<(), ReadError> {
        self.0.reads.be_fresh(bound, self.deadline()).await
    }

    /// Returns once this node has applied the records before `next`.
    pub async fn apply_to(&self, next: Offset) -> Result<(), ReadError> {
        self.0.reads.apply_to(self.2, next, self.deadline()).await
    }

    /// Returns once this node has applied everything that was acknowledged, by any node, before
    /// the call.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        self.0.reads.pass(self.deadline()).await
    }

    /// Has the leader confirm soon how far this node is; waits for nothing.
    pub fn nudge_freshness(&self) {
        self.0.reads.nudge();
    }

    // Members.

    /// Gives a node its id, or makes a node that has one a voter. Any member takes the call.
    pub async fn join(
        &self,
        request: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, MembershipError> {
        self.0.members.join(request).await
    }

    /// Finishes changes that an earlier leader began and did not end: as long as a membership is
    /// joint, both its majorities are needed, and a lost node may cost one of them. Never returns.
    pub async fn finish_changes(&self) {
        self.0.members.finish_changes().await
    }

    /// Takes a node out of the cluster, by name. False if there was none. Any member takes the
    /// call.
    pub async fn remove(&self, name: &str) -> Result<bool, MembershipError> {
        self.0.members.remove(name).await
    }

    /// Asks the other members, and those at `peers`, to make this node a voter under its present
    /// address, until they do.
    pub async fn join_cluster(&self, peers: &[String]) -> Result<(), MembershipError> {
        self.0.members.join_cluster(peers).await
    }

    /// Whether a membership holds this node as a voter under its present address, and this start of
    /// it is the one that is registered.
    pub fn is_settled_in(&self, view: &View) -> bool {
        self.0.members.is_settled_in(view)
    }

    /// Hands leadership to a voter, to the one that is furthest on if `name` is empty. Gives the
    /// new leader's name. Any member takes the call.
    pub async fn transfer(&self, name: &str) -> Result<String, MembershipError> {
        self.0.members.transfer(name).await
    }

    /// Has the node of this name stay out of leadership, or lead again; gives the leader's name by then. Any member
    /// takes the call, and passes it to the node itself.
    pub async fn drain(&self, name: &str, drained: bool) -> Result<String, MembershipError> {
        self.0.members.drain(name, drained).await
    }

    /// The bytes of batches in this node's full segments of which a record can be read, as it saw them last.
    pub fn live_bytes(&self) -> u64 {
        self.0.upkeep.live_bytes()
    }

    /// What this node has yet to do until the room of what was given up is back.
    pub fn progress(&self) -> Progress {
        self.0.upkeep.progress()
    }

    /// Whether a member stays out of leadership, as far as this node has heard.
    pub fn is_drained(&self, id: u64) -> bool {
        let drained = &self.0.node.drained;
        match id == self.0.node.id() {
            true => drained.is_own(),
            false => drained.is_peer(id),
        }
    }

    /// Keeps this node out of leadership while it is drained and another one can lead. Never returns.
    pub async fn stay_drained(&self) {
        self.0.members.stay_drained().await
    }

    /// Hands leadership on, if this node leads and another voter takes it.
    pub async fn hand_on(&self) {
        self.0.members.hand_on().await
    }

    /// Hands leadership on when this node's disk keeps its proposals waiting. Never returns.
    pub async fn keep_pace(&self) {
        self.0.members.keep_pace().await
    }

    /// Hands leadership on if this node leads and nobody gets through to it. Never returns.
    pub async fn stay_reachable(&self) {
        self.0.members.stay_reachable().await
    }

    /// Asks the members that this node knows for the others, whenever a stranger calls. Never
    /// returns.
    pub async fn meet_strangers(&self) {
        self.0.hearing.meet_strangers().await
    }

    // Upkeep.

    /// Seals, trims and keeps retention. Never returns.
    pub async fn keep_up(&self) {
        self.0.upkeep.keep_up().await
    }

    /// Gives back, a piece at a time, what removed segments take. Never returns.
    pub async fn free(&self) {
        self.0.upkeep.free().await
    }

    /// Rewrites sealed segments with what lives of them. As leader it decides on those of which `dead_percent`
    /// hundredths are dead, or on none if that is 0. Never returns.
    pub async fn rewrite(&self, dead_percent: Live<u64>) {
        self.0.upkeep.rewrite(dead_percent).await
    }

    /// Looks for records of compacted logs that later ones stand for, while this node leads, unless `dead_percent` is 0.
    /// Never returns.
    pub async fn compact(&self, dead_percent: Live<u64>) {
        self.0.upkeep.compact(dead_percent).await
    }

    /// Mends damaged segments as they are found. Never returns.
    pub async fn mend(&self) {
        self.0.upkeep.mend().await
    }

    /// Reads every sealed segment now and then, `bytes_per_second` at most, so that damage is found
    /// while other nodes are whole. Never returns.
    pub async fn scrub(&self, bytes_per_second: Live<u64>) {
        self.0.upkeep.scrub(bytes_per_second).await
    }

    /// Reads every sealed segment once; gives the bytes read and the segments found damaged.
    pub async fn scrub_once(&self, bytes_per_second: u64) -> (u64, u64) {
        let pace = Live::new(bytes_per_second);
        self.0.upkeep.scrub_once(&pace).await
    }
}
