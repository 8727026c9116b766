//! Who calls: what is checked before a peer is heard.

use std::sync::Arc;

use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::net::identity::is_valid_name;
use crate::net::mux::PeerInfo;
use crate::net::traceparent::TRACEPARENT;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::audited::Origin;
use crate::raft::error::MembershipError;
use crate::raft::error::refusal::membership_status;
use crate::raft::members::JOIN;
use crate::raft::members::hearing::{Standing, no_member};
use crate::raft::members::starts::replaced_by;
use crate::raft::node::Node;
use crate::raft::peer::sender::WIRE;
use crate::raft::write::execute;
use crate::reason::Reason;
use crate::spans::Tracer;

use super::ReplicatedLog;
use super::service::{RaftService, bad};

/// Who may make a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A node that this one knows as a member.
    Member,
    /// Also a node that a member introduced. The entry that makes the caller a member may be one that this node
    /// still lacks, and that comes by this very call.
    Introduced,
    /// Also a node that belongs to no cluster yet.
    Anyone,
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> &'a str {
    metadata
        .get(key)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

pub fn number(metadata: &MetadataMap, key: &str) -> u64 {
    text(metadata, key).parse().unwrap_or(0)
}

/// Who asked for a command that is passed on; `None` if it does not say.
pub fn origin(metadata: &MetadataMap, tracer: &Tracer) -> Result<Option<Arc<Origin>>, Status> {
    let Some(told) = metadata.get_bin(execute::ORIGIN) else {
        return Ok(None);
    };
    let bytes = told
        .to_bytes()
        .map_err(|_| Status::invalid_argument("an origin that is none"))?;
    let origin = pb::Origin::decode(bytes).map_err(|error| bad(error.into()))?;
    Ok(Some(Arc::new(Origin {
        trace: tracer.trace(Some(text(metadata, TRACEPARENT))),
        ..Origin::from_pb(origin)
    })))
}

impl RaftService {
    fn seated(&self) -> Result<&ReplicatedLog, Status> {
        let seat = self.seat.get();
        seat.ok_or_else(|| Reason::Starting.status("this node belongs to no cluster yet"))
    }

    /// Checks who calls; gives the replicated log.
    pub(crate) fn check<T>(
        &self,
        request: &Request<T>,
        from: From,
    ) -> Result<&ReplicatedLog, Status> {
        let metadata = request.metadata();
        let wire = text(metadata, "ferrolog-wire");
        if wire != WIRE {
            let what = format!("raft protocol version {wire:?}; this node speaks {WIRE}");
            return Err(Status::failed_precondition(what));
        }
        let log = self.seated()?;
        let (ours, theirs) = (
            &log.identity().cluster_id,
            text(metadata, "ferrolog-cluster"),
        );
        let stranger = from == From::Anyone && theirs.is_empty();
        if theirs != ours && !stranger {
            return Err(membership_status(&MembershipError::OtherCluster {
                theirs: theirs.to_owned(),
                ours: ours.clone(),
            }));
        }
        let (me, meant) = (log.identity().node_id, number(metadata, "ferrolog-to"));
        if meant != me && (from != From::Anyone || meant != 0) {
            let what = format!("the call is for node {meant}, this is node {me}");
            return Err(Status::failed_precondition(what));
        }
        let caller = number(metadata, "ferrolog-from");
        if caller == me && from != From::Anyone {
            let what = format!("node {me} is this node, and another one calls by its id");
            return Err(Status::permission_denied(what));
        }
        let start = number(metadata, "ferrolog-start");
        if log
            .0
            .node
            .state
            .read(|fsm| fsm.registrations.is_replaced(caller, start))
        {
            return Err(membership_status(&replaced_by(&log.0.node, caller)));
        }
        let member = log.view().member(caller).is_some();
        match log.0.hearing.standing(caller) {
            Standing::Known(name) if member || from != From::Member => {
                check_certificate(request, &name)?;
            }
            // Whoever asks to join has a name of its own, and it is checked there.
            _ if from == From::Anyone => {}
            Standing::Unknown => {
                log.0.hearing.want_introduction();
                return Err(no_member(caller));
            }
            Standing::Known(_) | Standing::Gone => return Err(no_member(caller)),
        }
        hear_address(&log.0.node, request, caller);
        Ok(log)
    }

    /// Who asks to join; `None` if it is a member, which asks for another, and tells what that came to itself.
    pub(crate) fn stranger(&self, request: &Request<pb::JoinRequest>) -> Option<Origin> {
        let log = self.seated().ok()?;
        let view = log.view();
        let known = view.member(number(request.metadata(), "ferrolog-from"));
        if known.is_some_and(|known| check_certificate(request, &known.member.name).is_ok()) {
            return None;
        }
        let peer = request.extensions().get::<PeerInfo>();
        let shown = peer.and_then(|peer| peer.identity.as_ref()?.node_name.clone());
        let said = || Some(request.get_ref().name.clone()).filter(|name| is_valid_name(name));
        Some(Origin {
            subject: shown.or_else(said).unwrap_or_default(),
            address: peer.map(|peer| peer.addr.clone()).unwrap_or_default(),
            node: log.identity().name.clone(),
            verb: JOIN.to_owned(),
            ..Origin::default()
        })
    }

    /// Who this node is and who the members are, if one asks that is known or was introduced.
    pub(crate) fn introduction<T>(&self, request: &Request<T>) -> pb::IdentifyResponse {
        let (metadata, log) = (request.metadata(), self.seated());
        let Ok(log) = log else {
            return pb::IdentifyResponse::default();
        };
        // The facts that a node needs before it begins a cluster or joins one.
        let cluster_id = log.identity().cluster_id.clone();
        let ours = text(metadata, "ferrolog-cluster") == log.identity().cluster_id;
        match log.0.hearing.standing(number(metadata, "ferrolog-from")) {
            Standing::Known(name) if ours && check_certificate(request, &name).is_ok() => {
                pb::IdentifyResponse {
                    cluster_id,
                    members: log.0.hearing.introduction(),
                    node_id: log.identity().node_id,
                    start: log.0.node.start,
                }
            }
            _ => pb::IdentifyResponse {
                cluster_id,
                ..pb::IdentifyResponse::default()
            },
        }
    }
}

/// With mutual TLS, the caller's certificate must carry the name that it claims.
pub fn check_certificate<T>(request: &Request<T>, name: &str) -> Result<(), Status> {
    let peer = request.extensions().get::<PeerInfo>();
    let Some(identity) = peer.and_then(|peer| peer.identity.as_ref()) else {
        return Ok(());
    };
    match &identity.node_name {
        Some(shown) if shown == name => Ok(()),
        shown => {
            let shown = shown.as_deref().unwrap_or("no node");
            let what = format!(
                "the caller says it is {name}, its certificate says {shown}: give it the \
                 certificate made for {name} (`ferrolog certs --nodes {name}`)"
            );
            Err(Status::permission_denied(what))
        }
    }
}

/// Whether a node asks to join by itself, or a member passes its call on. `shown` says whether the caller's certificate is
/// that of the node.
pub fn check_joining(
    (is_member, caller): (bool, u64),
    request: &pb::JoinRequest,
    shown: Result<(), Status>,
) -> Result<(), Status> {
    if is_member {
        return Ok(());
    }
    // Right after its start a node does not know the members yet. The node that joins would take a refusal as final.
    let is_other = caller != 0 && caller != request.node_id;
    shown.map_err(|denied| match is_other {
        false => denied,
        true => membership_status(&MembershipError::NoLeader {
            reason: format!("node {caller}, which passed this on, is not known here yet"),
        }),
    })
}

/// A member that calls says where it is reached; its certificate says that it is the member.
fn hear_address<T>(node: &Node, request: &Request<T>, caller: u64) {
    let addr = text(request.metadata(), "ferrolog-addr");
    let view = node.view();
    let Some(known) = view.member(caller).filter(|_| !addr.is_empty()) else {
        return;
    };
    if caller != node.id() && check_certificate(request, &known.member.name).is_ok() {
        node.transport.addresses().heard(caller, addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::error::refusal::is_final;

    #[test]
    fn a_node_that_does_not_know_the_members_yet_refuses_nobody_for_good() {
        let request = pb::JoinRequest {
            node_id: 3,
            ..pb::JoinRequest::default()
        };
        let denied = || Err(Status::permission_denied("its certificate says n2"));
        let judged = |from, shown| check_joining(from, &request, shown);
        judged((true, 2), denied()).unwrap();
        judged((false, 3), Ok(())).unwrap();
        judged((false, 0), Ok(())).unwrap();
        for caller in [0, 3] {
            let refused = judged((false, caller), denied()).unwrap_err();
            assert!(is_final(&refused), "it asks for itself: {refused}");
        }
        let refused = judged((false, 2), denied()).unwrap_err();
        assert!(
            !is_final(&refused),
            "a member may have passed it on: {refused}"
        );
    }
}
