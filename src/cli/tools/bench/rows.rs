//! What can be measured: the rows' names, and what the help says of them.

pub(super) const HELP: &str = "\
Without --servers it starts three nodes of its own on this machine, in plaintext unless --tls is given, and
measures their memory and disk too.

Rows:
  unary1, unary64, unary1024        single calls to the leader, so many in flight
  stream1024                        one produce stream to the leader, 1024 records in flight
  batch100x100, batch100x1024       two produce streams to the leader, batches of 100 records of so many bytes
  consume-leader, consume-follower  one consume stream over a million records
  consume-batch, consume-batch-follower
                                    the same through the native API: records of 100 bytes in batches of 100
  nodes                             disk bytes per record byte, memory per node (own nodes only)

With --logs N it makes N logs and does the same work over one of them and over all in turn: unary64, unary1024,
batch100x100 and consume-batch (100 readers, each of 100 logs in one stream, beside 100 of one log), and `nodes` tells
what the logs cost at rest. The table has the ratios.
Four rows more, which want --logs:
  together                          calls that append 10 x 10 records to ten logs, beside batches of 100 to one
  prefix                            one client that reads all logs by their prefix, beside one that reads one log
  along                             one client that follows all logs by their prefix while a stream appends to them,
                                    beside one that follows one log: records a second until it has them all
  one-by-one                        one reader of a log out of all, from its start, and then of the next
And two that are measured only when they are asked for, on own nodes:
  idle                              what `nodes` tells, beside ten million records; what a checkpoint writes after
                                    ten logs were appended to; a new node that joins under 5,000 records a second
  room                              ten million records, half of the logs deleted: how long until their room is back,
                                    and how fast a log is read before and after

With --keys N it keeps a table of N keys in a log that is compacted by key, sets each --updates times at random, and
tells how many records are kept of each key, what the nodes' memory came to, and how long a new reader takes for all of it.
What each node has is held against a plain map.

With --expiring N it keeps N logs that forget their records after one to sixteen minutes, or never, at half of the speed
that 64 callers reach, for --seconds; and that --runs times with rewriting of segments and without, in turn. It tells what
the data took on the disk beside what lived by its own account, what was written for each byte, and what calls took.

Examples:
  ferrolog bench
  ferrolog bench --rows unary64,stream1024 --runs 5 --tls
  ferrolog bench --rows batch100x100,consume-batch
  ferrolog bench --servers n1:7400,n2:7400,n3:7400 --insecure --rows unary64 --output json
  ferrolog bench --logs 1000 --runs 3 --seconds 3
  ferrolog bench --logs 99999 --rows idle
  ferrolog bench --logs 10000 --rows room
  ferrolog bench --keys 1000000 --updates 20
  ferrolog bench --expiring 1000 --seconds 30m --runs 1";

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RowName {
    Unary1,
    Unary64,
    Unary1024,
    Stream1024,
    Batch100x100,
    Batch100x1024,
    ConsumeLeader,
    ConsumeFollower,
    ConsumeBatch,
    ConsumeBatchFollower,
    Nodes,
    Together,
    Prefix,
    Along,
    OneByOne,
    Idle,
    Room,
}

impl RowName {
    pub(super) const ALL: [Self; 11] = [
        Self::Unary1,
        Self::Unary64,
        Self::Unary1024,
        Self::Stream1024,
        Self::Batch100x100,
        Self::Batch100x1024,
        Self::ConsumeLeader,
        Self::ConsumeFollower,
        Self::ConsumeBatch,
        Self::ConsumeBatchFollower,
        Self::Nodes,
    ];

    /// Whether the row needs a filled log.
    pub(super) fn reads(self) -> bool {
        matches!(
            self,
            Self::ConsumeLeader | Self::ConsumeFollower | Self::Nodes
        )
    }

    /// Whether the row needs batches in the log.
    pub(super) fn reads_batches(self) -> bool {
        matches!(self, Self::ConsumeBatch | Self::ConsumeBatchFollower)
    }
}
