//! The families that a node tells: their names, what they are, and what they mean. `docs/operations.md` has them with
//! what to do about them; a test holds that page, the dashboard and the alert rules against this table.

/// What the numbers of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Only grows while the node runs. Its name ends in `_total`.
    Counter,
    Gauge,
    /// A histogram of times, in seconds.
    Times,
}

/// A family of series. Where there are several, labels tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub sort: Sort,
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident: $sort:ident $name:literal, $help:literal;)+) => {
        $(pub const $constant: Family = Family {
            name: $name,
            sort: Sort::$sort,
            help: $help,
        };)+

        /// All of them.
        pub const ALL: &[Family] = &[$($constant),+];
    };
}

families! {
    // The node.
    BUILD_INFO: Gauge "ferrolog_build_info", "1, with the version of the program";
    NODE_INFO: Gauge "ferrolog_node_info", "1, with the node's name and id and the cluster's id, once it belongs to one";
    READY: Gauge "ferrolog_ready", "Whether the node is a member, knows a leader and keeps up, as /readyz says";

    // Consensus.
    IS_LEADER: Gauge "ferrolog_raft_is_leader", "Whether this node leads, and a majority has confirmed it lately";
    HAS_LEADER: Gauge "ferrolog_raft_has_leader", "Whether this node knows a leader that it has heard within a second";
    TERM: Gauge "ferrolog_raft_term", "The term";
    MEMBERS: Gauge "ferrolog_raft_members", "Members, by whether they vote";
    ELECTIONS: Counter "ferrolog_raft_elections_total", "Elections that this node began";
    LEADER_CHANGES: Counter "ferrolog_raft_leader_changes_total", "Leaders that this node came to know, each time another one";
    LAST_INDEX: Gauge "ferrolog_raft_last_index", "The last entry that this node holds";
    COMMITTED_INDEX: Gauge "ferrolog_raft_committed_index", "The last entry that this node knows to be committed";
    APPLIED_INDEX: Gauge "ferrolog_raft_applied_index", "The last entry that this node has applied";
    HEARTBEATS_MISSED: Counter "ferrolog_raft_heartbeats_missed_total", "Heartbeats of this node as the leader that a peer did not answer in time";
    ROUND_TRIP: Gauge "ferrolog_raft_round_trip_seconds", "What the last heartbeat to a peer took, and its answer back";
    PEER_LAG: Gauge "ferrolog_raft_peer_lag_entries", "Entries that a peer is behind the leader; told by the leader";
    CLOCK_OFFSET: Gauge "ferrolog_clock_offset_seconds", "How far a peer's clock is ahead of this node's; told by the leader";
    CLOCK_JUMPS: Counter "ferrolog_clock_jumps_total", "Jumps of this node's clock";

    // Writing.
    PROPOSALS_PENDING: Gauge "ferrolog_proposals_pending_bytes", "Bytes of batches that wait for their turn or for their outcome";
    PROPOSALS_WAITING: Gauge "ferrolog_proposals_waiting", "Batches in the queue of the node's proposer";
    PROPOSALS_COMMITTED: Counter "ferrolog_proposals_committed_total", "Batches of this node's clients that were committed";
    PROPOSALS_REFUSED: Counter "ferrolog_proposals_refused_total", "Batches of this node's clients that were not, by reason";
    WRITE_STAGE: Times "ferrolog_write_stage_seconds", "What each stage of a write took";
    RECORDS_IN: Counter "ferrolog_records_in_total", "Records that this node's clients appended";
    BYTES_IN: Counter "ferrolog_bytes_in_total", "Bytes of the batches that this node's clients appended";
    UNSYNCED: Gauge "ferrolog_unsynced_bytes", "Bytes that wait for this node's disk";

    // Reading.
    RECORDS_OUT: Counter "ferrolog_records_out_total", "Records that this node's clients read";
    BYTES_OUT: Counter "ferrolog_bytes_out_total", "Bytes of answers with records, as they were built";
    READS: Counter "ferrolog_reads_total", "Reads, by the consistency that was asked for";
    STALENESS: Gauge "ferrolog_staleness_seconds", "All that was acknowledged this long ago is applied here; grows while nobody asks";

    // What is kept.
    RECORDS_APPLIED: Counter "ferrolog_records_applied_total", "Records of all logs that were ever applied, since the cluster began";
    LOGS: Gauge "ferrolog_logs", "Logs";
    LOG_RECORDS: Gauge "ferrolog_log_records", "Records that a log keeps, of the logs that keep the most";
    LOG_BYTES: Counter "ferrolog_log_appended_bytes_total", "Bytes ever appended to a log, of the logs that keep the most records";
    SESSIONS: Gauge "ferrolog_sessions", "Producers' sessions";
    FENCES: Gauge "ferrolog_fences", "Names that were claimed";
    CURSORS: Gauge "ferrolog_cursors", "Cursors";
    CURSOR_LAG: Gauge "ferrolog_cursor_lag_records", "Records behind a cursor, of the cursors that are furthest behind";

    // Calls.
    REQUESTS: Counter "ferrolog_requests_total", "Calls that ended, by verb and status code";
    SPANS: Counter "ferrolog_spans_total", "Spans of traced calls that the collector took";
    SPANS_LOST: Counter "ferrolog_spans_lost_total", "Spans that it did not take in time";
    REQUEST_SECONDS: Times "ferrolog_request_seconds", "What a call took from its headers to the end of its answer; streams are left out";
    CALLS: Gauge "ferrolog_calls", "Calls and streams under way, by verb";
    BUDGET_USED: Gauge "ferrolog_budget_used_bytes", "What clients make the node hold now, by account";
    BUDGET_LIMIT: Gauge "ferrolog_budget_limit_bytes", "What they may make it hold at most";
    BUDGET_WAITS: Counter "ferrolog_budget_waits_total", "How often something waited for room in an account";
    BUDGET_REFUSALS: Counter "ferrolog_budget_refusals_total", "How often there was no room in an account at once";

    // Connections.
    CONNECTIONS: Gauge "ferrolog_connections", "Connections, by what they have proven";
    CONNECTIONS_TAKEN: Counter "ferrolog_connections_taken_total", "Connections that proved themselves and were served";
    CONNECTIONS_REFUSED: Counter "ferrolog_connections_refused_total", "Connections that were closed before that, by reason";
    TLS_FAILURES: Counter "ferrolog_tls_failures_total", "Handshakes that failed, by cause";
    DENIED: Counter "ferrolog_denied_calls_total", "Calls that the access policy denied";
    RELOAD_FAILURES: Counter "ferrolog_reload_failures_total", "How often files of the node could not be taken up, by what they hold";
    RELOAD_FAILED: Gauge "ferrolog_reload_failed", "Whether they are still not taken up";
    CERTIFICATE_END: Gauge "ferrolog_certificate_expiry_timestamp_seconds", "When the node's certificate ends, in seconds since 1970";

    // The disk.
    SEGMENTS: Gauge "ferrolog_segments", "Segments on this node's disk";
    SEGMENT_BYTES: Gauge "ferrolog_segment_bytes", "What they take, about";
    SEGMENT_LIVE_BYTES: Gauge "ferrolog_segment_live_bytes", "Bytes of batches in full segments of which a record can be read, as of the last look";
    REWRITES_DUE: Gauge "ferrolog_rewrites_due", "Rewritings of full segments that were decided on and this node has not done";
    SUPERSEDED: Gauge "ferrolog_superseded_bytes", "Bytes of superseded records that the leader's last look found, and that are not rewritten yet";
    SEGMENTS_DAMAGED: Gauge "ferrolog_segments_damaged", "Segments that wait for repair";
    SCRUBBED: Counter "ferrolog_scrubbed_bytes_total", "Bytes of sealed segments that were read to find damage";
    REPAIRS: Counter "ferrolog_repairs_total", "Tries to mend a damaged segment, by outcome";
    SNAPSHOTS: Counter "ferrolog_snapshots_total", "Snapshots, by whether this node sent or took them";
    CHECKPOINTS: Counter "ferrolog_checkpoints_total", "Checkpoints of the replicated state that this node saved";
    STATE_WRITTEN: Counter "ferrolog_state_written_bytes_total", "Bytes that checkpoints, votes and floors made this node write";
    DISK_FREE: Gauge "ferrolog_disk_available_bytes", "Room on the disk of the data directory";
    DISK_RESERVE: Gauge "ferrolog_disk_reserve_bytes", "Below so much room records are refused";

    // The process.
    LINES_LOST: Counter "ferrolog_log_lines_lost_total", "Lines of the node's own log that standard error did not take";
    PROCESS_MEMORY: Gauge "ferrolog_process_resident_memory_bytes", "Memory of the process";
    PROCESS_CPU: Counter "ferrolog_process_cpu_seconds_total", "Processor time of the process";
    PROCESS_FDS: Gauge "ferrolog_process_open_fds", "Descriptors that the process has open";
    PROCESS_FDS_MAX: Gauge "ferrolog_process_max_fds", "Descriptors that it may have open";
    RUNTIME_WORKERS: Gauge "ferrolog_runtime_workers", "Threads of a runtime, without those for blocking work";
    RUNTIME_TASKS: Gauge "ferrolog_runtime_tasks", "Tasks of a runtime that live";
    RUNTIME_QUEUE: Gauge "ferrolog_runtime_queue_depth", "Tasks in a runtime's common queue, which wait for a thread";
    RUNTIME_BUSY: Counter "ferrolog_runtime_busy_seconds_total", "How long the threads of a runtime were at work, in all";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_what_they_are_and_are_given_once() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            let (name, help) = (family.name, family.help);
            assert!(name.starts_with("ferrolog_"), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, family.sort == Sort::Counter, "{name}");
            assert!(family.sort != Sort::Times || name.ends_with("_seconds"));
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
    }
}
