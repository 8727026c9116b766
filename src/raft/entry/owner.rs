//! What proves that a call comes from who began something: a digest of its subject and its secret.
//!
//! The subject is the name in the caller's certificate, empty without TLS. The secret is drawn by
//! the client and known to it alone; only its digest is replicated and kept on disks. A node that
//! takes a call makes the digest, and the state machine compares. The digest is SHA-256 (FIPS 180-4), so that nobody
//! finds a secret that gives the same one. It is cut to 128 bits, which nobody can guess.

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use crate::raft::entry::wire_error::{WireError, number_of};

/// Stands for no proof: entries of a version without proofs have it.
pub const NOBODY: u128 = 0;

/// The proof of a session that this subject opened with this secret.
pub fn of_session(subject: &str, secret: u128) -> u128 {
    digest("session", subject, secret)
}

/// The proof of a claim, so that no claim of another subject is taken for its retry.
pub fn of_claim(subject: &str, token: u128) -> u128 {
    digest("claim", subject, token)
}

/// The proof of the holder of a name.
pub fn of_holder(subject: &str) -> u128 {
    digest("holder", subject, 0)
}

/// The digest of a token to join. All 32 bytes are kept, since the token is the only proof of its holder.
pub fn of_token(token: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&SHA256, token.as_bytes());
    let bytes = digest.as_ref().try_into();
    bytes.expect("SHA-256 has 32 bytes")
}

/// A proof as it is kept and travels.
pub fn to_pb(proof: u128) -> Bytes {
    match proof {
        NOBODY => Bytes::new(),
        proof => proof.to_be_bytes().to_vec().into(),
    }
}

/// A proof as it came. No bytes are [`NOBODY`].
pub fn from_pb(bytes: &[u8]) -> Result<u128, WireError> {
    if bytes.is_empty() {
        return Ok(NOBODY);
    }
    number_of(bytes, "proof of an owner")
}

fn digest(what: &str, subject: &str, secret: u128) -> u128 {
    let mut context = Context::new(&SHA256);
    // Every part has its length or its end: no two inputs are the same bytes.
    context.update(b"ferrolog ");
    context.update(what.as_bytes());
    context.update(&[0]);
    context.update(&secret.to_be_bytes());
    context.update(subject.as_bytes());
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    u128::from_be_bytes(*first).max(NOBODY + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_makes_another_proof() {
        let proofs = [
            of_session("ann", 1),
            of_session("ann", 2),
            of_session("bob", 1),
            of_session("", 1),
            of_claim("ann", 1),
            of_holder("ann"),
            of_holder(""),
        ];
        for (place, proof) in proofs.iter().enumerate() {
            assert!(*proof != NOBODY && !proofs[place + 1..].contains(proof));
        }
        // It is replicated and kept: it never changes.
        assert_eq!(of_session("ann", 1), of_session("ann", 1));
    }
}
