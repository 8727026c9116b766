//! Messages from disk or network that are not ours.

/// A message from disk or network that is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("a message lacks its {0}")]
    Missing(&'static str),
    /// A field has a value that this version does not know.
    #[error("a message has an unknown {0}")]
    Unknown(&'static str),
    /// A batch of records was changed on its way, or in the sender's memory.
    #[error("a batch is not what its checksum says")]
    Changed,
    /// The bytes are no message.
    #[error("the bytes are no message")]
    Decode(#[from] prost::DecodeError),
    /// The members contradict each other.
    #[error("the membership is not valid: {0}")]
    Membership(String),
}

/// The number in 16 bytes, big endian. With more or fewer bytes, an error that names `what` they were to be.
pub fn number_of(bytes: &[u8], what: &'static str) -> Result<u128, WireError> {
    let bytes = bytes.try_into();
    bytes
        .map(u128::from_be_bytes)
        .map_err(|_| WireError::Unknown(what))
}
