//! What clients may make a node hold at most, by kind of account.

/// The limits of one kind of account, in bytes. A message that is larger than the connection's limit takes the
/// whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// How many bytes all clients together may hold.
    pub node_bytes_max: usize,
    /// How many bytes all connections of one subject may hold.
    pub subject_bytes_max: usize,
    /// How many bytes one connection may hold.
    pub connection_bytes_max: usize,
    /// Beside each of these limits, one part in so many of it is kept for small messages. 0: nothing is kept.
    pub small_part: usize,
}

impl AccountLimits {
    /// The bytes of the node, with the part that is kept for small messages.
    pub(super) const fn with_small(&self) -> usize {
        match self.small_part {
            0 => self.node_bytes_max,
            part => self.node_bytes_max + self.node_bytes_max / part,
        }
    }
}

/// Messages and answers: from before they are read or built until the client has been answered, or has taken
/// them.
pub const BYTES: AccountLimits = AccountLimits {
    node_bytes_max: 40 << 20,
    subject_bytes_max: 24 << 20,
    connection_bytes_max: 24 << 20,
    small_part: 8,
};

/// Windows of streams that have a message under way: so much may have come on them that nobody has read yet.
/// A connection's window must be larger than its part, so that the other streams can always move.
pub const UNREAD: AccountLimits = AccountLimits {
    node_bytes_max: 24 << 20,
    subject_bytes_max: 12 << 20,
    connection_bytes_max: 8 << 20,
    small_part: 0,
};

/// Calls: what each costs beside its messages.
pub const CALLS: AccountLimits = AccountLimits {
    node_bytes_max: 24 << 20,
    subject_bytes_max: 12 << 20,
    connection_bytes_max: 12 << 20,
    small_part: 0,
};

/// Answers of reads, from before they are read until the connection has sent them. They are apart from what
/// is on its way in: a call holds its own message while its answer waits for room.
pub const ANSWERS: AccountLimits = AccountLimits {
    node_bytes_max: 24 << 20,
    subject_bytes_max: 12 << 20,
    connection_bytes_max: 8 << 20,
    small_part: 8,
};

/// What clients make a node hold at most, in bytes. With what is counted elsewhere or not at all (followers' messages,
/// the latest records, decoders, sockets' buffers) a node stays below 300 MiB, whoever attacks it.
pub const NODE_BYTES_MAX: usize = 128 << 20;
const _: () = assert!(
    BYTES.with_small() + UNREAD.with_small() + CALLS.with_small() + ANSWERS.with_small()
        <= NODE_BYTES_MAX,
    "all accounts full are more than a node may hold for its clients"
);
