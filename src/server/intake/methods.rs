//! The methods that clients may call: what right each needs, and how large its requests may be.
//!
//! A method without a row here is not served. A new method gets a row, and a test holds the rows against the
//! descriptors that the build makes.

use std::collections::HashSet;

use tonic::Status;

use super::super::auth::Action;
use super::super::limits::STREAM_WINDOW;
use super::super::{Limits, status};
use super::read_ahead::AHEAD_BYTES_MAX;

/// The longest request without records, in bytes: names, numbers, tokens, a short list of names.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 16 << 10;
/// What stands around the one record of a `log.v1` request.
const RECORD_OVERHEAD: usize = 4 << 10;
/// A small message may hold many small things, each of which takes more than its bytes when it is decoded.
const SMALL_FACTOR: usize = 4;
/// What any message takes beside its bytes.
const MESSAGE_OVERHEAD: usize = 128;

/// What a method's messages carry. It decides the reason with which a message that is too long is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    Record,
    Batch,
    /// Several batches, in this field, or in one of that field.
    Batches(&'static [u64]),
    Small,
}

/// How a method's requests are judged.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The rights that let it be called: one of them is enough, and without any nobody needs one.
    pub actions: &'static [Action],
    /// One message and then its answer. The others are streams of messages, which wait for room.
    pub is_single: bool,
    carries: Carries,
    message_bytes_max: usize,
    /// The largest record or batch, as users know it.
    limit: usize,
}

impl Method {
    /// Bytes to take for a message of this length, if it may be so long.
    pub fn weight(&self, length: usize) -> Result<usize, Status> {
        if length > self.message_bytes_max {
            return Err(self.too_large(length));
        }
        let factor = match self.carries {
            Carries::Small => SMALL_FACTOR,
            Carries::Record | Carries::Batch | Carries::Batches(_) => 1,
        };
        Ok(length * factor + MESSAGE_OVERHEAD)
    }

    /// Whether its stream carries so little that it is read all the time.
    pub fn is_read_ahead(&self) -> bool {
        !self.is_single && self.carries == Carries::Small
    }

    /// How many unread bytes of a stream may lie in its window while a message of it is under way.
    pub fn unread_bytes_max(&self) -> usize {
        match self.carries {
            Carries::Small => AHEAD_BYTES_MAX,
            Carries::Record | Carries::Batch | Carries::Batches(_) => STREAM_WINDOW as usize,
        }
    }

    /// The fields by which its batches are found, if there may be several.
    pub fn batches(&self) -> &'static [u64] {
        match self.carries {
            Carries::Batches(path) => path,
            Carries::Record | Carries::Batch | Carries::Small => &[],
        }
    }

    fn too_large(&self, length: usize) -> Status {
        match self.carries {
            Carries::Record => status::too_large(length, self.limit),
            Carries::Batch | Carries::Batches(_) => status::batch_too_large(length, self.limit),
            Carries::Small => status::message_too_large(length, self.limit),
        }
    }
}

/// What clients may call, and whether it goes on until somebody ends it: for counting.
const VERBS: &[(&str, bool)] = &[
    ("log.v1.Log/Produce", false),
    ("log.v1.Log/ProduceStream", true),
    ("log.v1.Log/Consume", false),
    ("log.v1.Log/ConsumeStream", true),
    ("log.v1.Log/GetServers", false),
    ("ferrolog.v1.LogService/Produce", false),
    ("ferrolog.v1.LogService/ProduceMany", false),
    ("ferrolog.v1.LogService/ProduceStream", true),
    ("ferrolog.v1.LogService/Consume", false),
    ("ferrolog.v1.LogService/ConsumeStream", true),
    ("ferrolog.v1.LogService/CreateLog", false),
    ("ferrolog.v1.LogService/UpdateLog", false),
    ("ferrolog.v1.LogService/DeleteLog", false),
    ("ferrolog.v1.LogService/CompactLog", false),
    ("ferrolog.v1.LogService/GetLog", false),
    ("ferrolog.v1.LogService/ListLogs", false),
    ("ferrolog.v1.LogService/WatchLogs", true),
    ("ferrolog.v1.LogService/OpenSession", false),
    ("ferrolog.v1.LogService/CloseSession", false),
    ("ferrolog.v1.LogService/ListSessions", false),
    ("ferrolog.v1.LogService/ClaimEpoch", false),
    ("ferrolog.v1.LogService/GetEpoch", false),
    ("ferrolog.v1.LogService/ListFences", false),
    ("ferrolog.v1.LogService/DeleteFence", false),
    ("ferrolog.v1.LogService/CommitCursor", false),
    ("ferrolog.v1.LogService/GetCursor", false),
    ("ferrolog.v1.LogService/ListCursors", false),
    ("ferrolog.v1.LogService/DeleteCursor", false),
    ("ferrolog.v1.LogService/GetLimits", false),
    ("ferrolog.v1.ClusterService/GetStatus", false),
    ("ferrolog.v1.ClusterService/AllowNode", false),
    ("ferrolog.v1.ClusterService/DisallowNode", false),
    ("ferrolog.v1.ClusterService/CreateJoinToken", false),
    ("ferrolog.v1.ClusterService/RemoveNode", false),
    ("ferrolog.v1.ClusterService/TransferLeadership", false),
    ("ferrolog.v1.ClusterService/DrainNode", false),
    ("ferrolog.v1.ClusterService/UndrainNode", false),
    ("ferrolog.v1.ClusterService/Trim", false),
    ("ferrolog.v1.ClusterService/GetRetention", false),
    ("ferrolog.v1.ClusterService/SetRetention", false),
    ("grpc.health.v1.Health/Check", false),
    ("grpc.health.v1.Health/Watch", true),
];

/// The methods by service and name, and whether each is a stream, whichever way.
pub fn verbs() -> impl Iterator<Item = (&'static str, bool)> {
    VERBS.iter().copied()
}

/// The verbs that ask for a change which is told in the log of changes.
const CHANGES: [&str; 13] = [
    "ferrolog.v1.LogService/CreateLog",
    "ferrolog.v1.LogService/UpdateLog",
    "ferrolog.v1.LogService/DeleteLog",
    "ferrolog.v1.LogService/CompactLog",
    "ferrolog.v1.LogService/ClaimEpoch",
    "ferrolog.v1.LogService/DeleteFence",
    "ferrolog.v1.LogService/DeleteCursor",
    "ferrolog.v1.LogService/CloseSession",
    "ferrolog.v1.ClusterService/AllowNode",
    "ferrolog.v1.ClusterService/DisallowNode",
    "ferrolog.v1.ClusterService/CreateJoinToken",
    "ferrolog.v1.ClusterService/Trim",
    "ferrolog.v1.ClusterService/SetRetention",
];

/// The verb of this path, if it asks for such a change.
pub fn change_of(path: &str) -> Option<&'static str> {
    let verb = path.strip_prefix('/')?;
    CHANGES.into_iter().find(|change| *change == verb)
}

/// All methods, with the limits of this node.
#[derive(Debug)]
pub struct Methods {
    record: usize,
    batch: usize,
    message: usize,
    verbs: HashSet<&'static str>,
}

impl Methods {
    pub fn new(limits: &Limits) -> Self {
        Self {
            record: limits.record_bytes_max,
            batch: limits.native_bytes_max(),
            message: limits.message_bytes_max(),
            verbs: verbs().map(|(verb, _)| verb).collect(),
        }
    }

    /// The service and the name of a path, as they are told; empty for those that are of no user's.
    pub fn verb_of(&self, path: &str) -> &'static str {
        let verb = path.strip_prefix('/').and_then(|verb| self.verbs.get(verb));
        verb.copied().unwrap_or_default()
    }

    /// The method of this path.
    pub fn of(&self, path: &str) -> Option<Method> {
        use Action::{Admin, Commit, Consume, Produce};
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        let (actions, is_single, carries): (&[_], _, _) = match service {
            "log.v1.Log" => match name {
                "Produce" => (&[Produce], true, Carries::Record),
                "ProduceStream" => (&[Produce], false, Carries::Record),
                "Consume" | "ConsumeStream" | "GetServers" => (&[Consume], true, Carries::Small),
                _ => return None,
            },
            "ferrolog.v1.LogService" => match name {
                "Produce" => (&[Produce], true, Carries::Batch),
                "ProduceMany" => (&[Produce], true, Carries::Batches(&[1])),
                "ProduceStream" => (&[Produce], false, Carries::Batches(&[2, 1])),
                "OpenSession" | "ClaimEpoch" => (&[Produce], true, Carries::Small),
                // A producer closes its own sessions, an administrator anybody's: the verb judges which it is.
                "CloseSession" => (&[Produce, Admin], true, Carries::Small),
                "ListSessions" | "DeleteFence" | "CreateLog" | "UpdateLog" | "DeleteLog"
                | "CompactLog" => (&[Admin], true, Carries::Small),
                "GetLog" | "ListLogs" | "WatchLogs" => {
                    (&[Produce, Consume, Commit, Admin], true, Carries::Small)
                }
                "CommitCursor" | "DeleteCursor" => (&[Commit], true, Carries::Small),
                "ConsumeStream" => (&[Consume], false, Carries::Small),
                "Consume" | "GetEpoch" | "ListFences" | "GetCursor" | "ListCursors" => {
                    (&[Consume], true, Carries::Small)
                }
                // Every sender should be able to ask for the limits.
                "GetLimits" => (&[Produce, Consume, Commit, Admin], true, Carries::Small),
                _ => return None,
            },
            "ferrolog.v1.ClusterService" => match name {
                "GetStatus" | "GetRetention" => (&[Consume], true, Carries::Small),
                "RemoveNode" | "TransferLeadership" | "AllowNode" | "DisallowNode"
                | "DrainNode" | "UndrainNode" | "CreateJoinToken" | "Trim" | "SetRetention" => {
                    (&[Admin], true, Carries::Small)
                }
                _ => return None,
            },
            _ => return of_anybody(service, name),
        };
        let (message_bytes_max, limit) = match carries {
            Carries::Record => (self.record + RECORD_OVERHEAD, self.record),
            Carries::Batch | Carries::Batches(_) => (self.message, self.batch),
            Carries::Small => (SMALL_MESSAGE_BYTES_MAX, SMALL_MESSAGE_BYTES_MAX),
        };
        Some(Method {
            actions,
            is_single,
            carries,
            message_bytes_max,
            limit,
        })
    }
}

/// Probes and tools ask these without any right: they tell nothing of what is kept.
fn of_anybody(service: &str, name: &str) -> Option<Method> {
    let is_single = match (service, name) {
        ("grpc.health.v1.Health", "Check" | "List" | "Watch") => true,
        (
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
        ) => false,
        _ => return None,
    };
    Some(Method {
        actions: &[],
        is_single,
        carries: Carries::Small,
        message_bytes_max: SMALL_MESSAGE_BYTES_MAX,
        limit: SMALL_MESSAGE_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::PUBLIC_DESCRIPTORS;

    #[test]
    fn every_method_that_is_told_is_judged_as_what_it_is() {
        let methods = Methods::new(&Limits::default());
        let mut seen = 0;
        for told in [PUBLIC_DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = prost_types::FileDescriptorSet::decode(told).unwrap();
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let (service, name) = (service.name(), method.name());
                        let path = format!("/{}.{service}/{name}", file.package());
                        let judged = methods
                            .of(&path)
                            .unwrap_or_else(|| panic!("no row: {path}"));
                        assert_eq!(judged.is_single, !method.client_streaming(), "{path}");
                        let free = file.package().starts_with("grpc.");
                        assert_eq!(judged.actions.is_empty(), free, "{path}");
                        let is_stream = method.client_streaming() || method.server_streaming();
                        assert!(
                            verbs().any(|verb| verb == (&path[1..], is_stream)),
                            "{path}"
                        );
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 20, "{seen} methods");
        assert_eq!(VERBS.len(), seen, "verbs that there are not");
        for change in CHANGES {
            assert!(methods.of(&format!("/{change}")).is_some(), "{change}");
        }
        for unknown in [
            "",
            "/",
            "/log.v1.Log",
            "/log.v1.Log/Fly",
            "/ferrolog.raft.v1.Raft/Vote",
        ] {
            assert!(methods.of(unknown).is_none(), "{unknown}");
        }
    }
}
