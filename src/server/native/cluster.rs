//! `ferrolog.v1.ClusterService`: what an operator asks of a cluster.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::log::{Error, Offset};
use crate::name::{self, Shown};
use crate::net::identity::is_valid_name;
use crate::proto::v1::cluster_service_server::ClusterService;
use crate::proto::v1::{
    AllowNodeRequest, AllowNodeResponse, CreateJoinTokenRequest, CreateJoinTokenResponse,
    DisallowNodeRequest, DisallowNodeResponse, DrainNodeRequest, DrainNodeResponse, FailedReload,
    GetRetentionRequest, GetRetentionResponse, GetStatusRequest, GetStatusResponse, Node, NodeRole,
    RemoveNodeRequest, RemoveNodeResponse, RewritingProgress, SetRetentionRequest,
    SetRetentionResponse, TransferLeadershipRequest, TransferLeadershipResponse, TrimRequest,
    TrimResponse, UndrainNodeRequest, UndrainNodeResponse,
};
use crate::raft::{MembershipError, Note, Progress, ReplicatedLog, Retention, TOKEN_LIFE_MAX};

use super::logs;
use crate::server::auth::Action;
use crate::server::native;
use crate::server::{ApiContext, status};
use crate::tasks;

/// How long a token can be used, unless told otherwise.
const TOKEN_LIFE: Duration = Duration::from_hours(1);

/// Cursors that a retention waits for.
const CURSORS_MAX: usize = 64;

/// The verbs, which only a replicated log has.
pub struct Cluster(pub Arc<ApiContext<ReplicatedLog>>);

impl Cluster {
    fn failed_reloads(&self) -> Vec<FailedReload> {
        let failed = self.0.audit().failed_reloads().into_iter();
        let failed = failed.map(|(what, reason)| FailedReload {
            what: what.to_owned(),
            reason,
        });
        failed.collect()
    }

    /// Makes a change that is no command, such as those of the members, which the consensus engine makes in entries of
    /// its own: what is told of it stands in others, before it and behind it. If its begin cannot be told, it does not
    /// begin. `came_to` says in a word what was made.
    async fn told<T, O>(
        &self,
        request: &Request<T>,
        log: &ReplicatedLog,
        change: String,
        made: impl Future<Output = Result<O, MembershipError>> + Send + 'static,
        came_to: impl FnOnce(&O) -> &'static str + Send + 'static,
    ) -> Result<O, Status>
    where
        O: Send + 'static,
    {
        let rights = self.0.rights(request);
        let note = Note {
            origin: log.asked_by(rights.origin()).origin(),
            change: change.clone(),
            outcome: "begun".to_owned(),
            count: 1,
            ..Note::default()
        };
        let told = log.tell_changes(vec![note]).await;
        told.map_err(|error| status::execute(&error))?;
        // What it came to is told whether or not the caller waits for it.
        let noted = async move {
            let made = made.await;
            match &made {
                Ok(made) => rights.note(&change, came_to(made), ""),
                Err(error) => rights.note(&change, "failed", &error.to_string()),
            }
            made
        };
        let made = tasks::spawn("change of members", noted).await;
        let made = made.map_err(|_| status::draining())?;
        made.map_err(|error| status::membership(&error))
    }
}

fn progress(progress: Progress) -> RewritingProgress {
    RewritingProgress {
        due: progress.due as u32,
        asked: progress.is_asked,
        looked_percent: progress.looked_percent,
        superseded_records: progress.superseded_records,
        superseded_bytes: progress.superseded_bytes,
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let log = &self.0.cluster_for(&request, Action::Consume)?;
        let (view, identity, matched) = (log.view(), log.identity(), log.matched());
        let (first, next) = log.offsets();
        let segments = log.log().segments();
        let (clocks, freshness) = (log.clock_report(), native::freshness(log));
        let (heard_ms, (available, reserve)) = (log.heard_ms(), log.room());
        let [last_index, committed_index, applied_index] = log.indexes();
        let node = |known: &crate::raft::MemberView| Node {
            id: known.id,
            name: known.member.name.clone(),
            addr: known.member.addr.clone(),
            role: if known.voter {
                NodeRole::Voter
            } else {
                NodeRole::Learner
            }
            .into(),
            is_leader: view.leader == Some(known.id),
            matched_index: matched.get(&known.id).copied().flatten(),
            clock_offset_ms: clocks.offsets_ms.get(&known.id).copied(),
            heard_ms: heard_ms.get(&known.id).copied(),
            drained: log.is_drained(known.id),
        };
        let syncs = log.log().counts().syncs_lately.p99();
        let mut status = GetStatusResponse {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            node_name: identity.name.clone(),
            term: view.term,
            leader_id: view.leader.unwrap_or(0),
            first_offset: first.0,
            next_offset: next.0,
            last_index,
            committed_index,
            applied_index,
            nodes: view.members.iter().map(node).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            live_bytes: log.live_bytes(),
            rewriting: Some(progress(log.progress())),
            allowed_names: log.allowed(),
            damaged_segments: segments.iter().filter(|segment| segment.damaged).count() as u64,
            clock_ms: clocks.now_ms,
            clock_jumps: clocks.jumps,
            last_clock_jump_ms: clocks.last_jump_ms,
            log_time_ms: log.log_time_ms(),
            held_offset: freshness.held_offset,
            staleness_ms: freshness.staleness_ms,
            disk_available_bytes: available,
            disk_reserve_bytes: reserve,
            advertised_addr: log.addr().to_owned(),
            leads: view.writable,
            drained: log.is_drained(identity.node_id),
            fsync_p99_us: syncs.map(|syncs| syncs.took.as_micros() as u64),
            fsync_count: syncs.map_or(0, |syncs| syncs.count),
            failed_reloads: self.failed_reloads(),
            ..GetStatusResponse::default()
        };
        self.0.facts.tell(&mut status);
        Ok(Response::new(status))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let name = &request.get_ref().name;
        let change = format!("remove node {}", Shown(name));
        let came_to = |removed: &bool| match removed {
            true => "done",
            false => "nothing to remove",
        };
        let (of, name) = (log.clone(), name.clone());
        let removed = async move { of.remove(&name).await };
        let removed = self.told(&request, &log, change, removed, came_to).await?;
        Ok(Response::new(RemoveNodeResponse { removed }))
    }

    async fn allow_node(
        &self,
        request: Request<AllowNodeRequest>,
    ) -> Result<Response<AllowNodeResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let name = request.into_inner().name;
        if !is_valid_name(&name) {
            return Err(status::membership(&MembershipError::BadName { name }));
        }
        let allowed = log.allow(&name).await;
        allowed.map_err(|error| status::execute(&error))?;
        Ok(Response::new(AllowNodeResponse {}))
    }

    async fn disallow_node(
        &self,
        request: Request<DisallowNodeRequest>,
    ) -> Result<Response<DisallowNodeResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let withdrawn = log.withdraw(&request.get_ref().name).await;
        let withdrawn = withdrawn.map_err(|error| status::execute(&error))?;
        Ok(Response::new(DisallowNodeResponse { withdrawn }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let life = match request.get_ref().life_seconds {
            0 => TOKEN_LIFE,
            seconds => Duration::from_secs(seconds.into()),
        };
        if life > TOKEN_LIFE_MAX {
            return Err(status::invalid("a token lives for a day at most"));
        }
        let token = log.make_token(life).await;
        let token = token.map_err(|error| status::execute(&error))?;
        Ok(Response::new(CreateJoinTokenResponse { token }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let to = &request.get_ref().to;
        let change = match &**to {
            "" => "transfer leadership".to_owned(),
            to => format!("transfer leadership to {}", Shown(to)),
        };
        let (of, to) = (log.clone(), to.clone());
        let handed = async move { of.transfer(&to).await };
        let leader = self
            .told(&request, &log, change, handed, |_| "done")
            .await?;
        Ok(Response::new(TransferLeadershipResponse { leader }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let name = &request.get_ref().name;
        let change = format!("drain node {}", Shown(name));
        let (of, name) = (log.clone(), name.clone());
        let drained = async move { of.drain(&name, true).await };
        let leader = self
            .told(&request, &log, change, drained, |_| "done")
            .await?;
        Ok(Response::new(DrainNodeResponse { leader }))
    }

    async fn undrain_node(
        &self,
        request: Request<UndrainNodeRequest>,
    ) -> Result<Response<UndrainNodeResponse>, Status> {
        let log = self.0.cluster_for(&request, Action::Admin)?;
        let name = &request.get_ref().name;
        let change = format!("undrain node {}", Shown(name));
        let (of, name) = (log.clone(), name.clone());
        let undrained = async move { of.drain(&name, false).await };
        self.told(&request, &log, change, undrained, |_| "done")
            .await?;
        Ok(Response::new(UndrainNodeResponse {}))
    }

    async fn trim(&self, request: Request<TrimRequest>) -> Result<Response<TrimResponse>, Status> {
        let log = self
            .0
            .current_log_for(&request, &request.get_ref().log, Action::Admin)
            .await?;
        let wanted = Offset(request.get_ref().first_offset);
        // A slip of the pen must not give up what is there, or is yet to come.
        let (first, next) = log.offsets();
        if wanted > next {
            let asked = wanted;
            return Err(status::log(&Error::OutOfRange { asked, first, next }));
        }
        let first = log.trim(wanted).await;
        let first = first.map_err(|error| status::execute(&error));
        let first = self.0.as_named(&request.get_ref().log, first).await?;
        Ok(Response::new(TrimResponse {
            first_offset: first.0,
        }))
    }

    async fn get_retention(
        &self,
        request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        let log = self
            .0
            .current_log_for(&request, &request.get_ref().log, Action::Consume)
            .await?;
        let retention = log.retention();
        Ok(Response::new(GetRetentionResponse {
            retention: Some(logs::retention_to(retention)),
        }))
    }

    async fn set_retention(
        &self,
        request: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        let log = self
            .0
            .log_for(&request, &request.get_ref().log, Action::Admin)
            .await?;
        let SetRetentionRequest {
            log: name,
            retention: wanted,
        } = request.into_inner();
        let wanted = wanted.ok_or_else(|| status::invalid("retention is missing"))?;
        let retention = logs::retention_of(wanted)?;
        let is_compacted = log
            .known()
            .is_some_and(|known| known.config.compaction.is_some());
        logs::check_compaction(is_compacted, &retention)?;
        let set = log.set_retention(retention).await;
        let set = set.map_err(|error| status::execute(&error));
        self.0.as_named(&name, set).await?;
        Ok(Response::new(SetRetentionResponse {}))
    }
}

/// A wait for cursors without a cap would let a consumer that is gone fill the disk.
pub fn check_wait(retention: &Retention) -> Result<(), Status> {
    let (cursors, cap) = (&retention.wait_for_cursors, retention.wait_bytes_max);
    if cursors.is_empty() && cap == 0 {
        return Ok(());
    }
    let fine = |name: &String| name::check(name).is_ok();
    if cursors.len() > CURSORS_MAX || !cursors.iter().all(fine) {
        let what = format!("retention waits for up to {CURSORS_MAX} cursors, each with a name");
        return Err(status::invalid(what));
    }
    if cursors.is_empty() || cap <= retention.max_bytes.unwrap_or(0) {
        let what = "a retention that waits for cursors says up to how many bytes it does, more than it keeps otherwise \
             (wait_bytes_max over max_bytes); one that waits for none has no such limit";
        return Err(status::invalid(what));
    }
    Ok(())
}
