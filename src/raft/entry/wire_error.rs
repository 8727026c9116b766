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
    /// The bytes are no message.
    #[error("the bytes are no message")]
    Decode(#[from] prost::DecodeError),
    /// The members contradict each other.
    #[error("the membership is not valid: {0}")]
    Membership(String),
}
