//! What stands for a key.

use ring::digest::{Context, SHA256};

use crate::log::LogId;

/// 128 bits, in a form that is packed closely beside other numbers.
pub type Digest = [u64; 2];

/// A digest of a key in its log: the first 128 bits of its SHA-256 (FIPS 180-4).
pub fn digest_of(log: LogId, key: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&log.0.to_le_bytes());
    context.update(key);
    let digest = context.finish();
    let (eights, _) = digest.as_ref().as_chunks();
    [0, 1].map(|number| u64::from_le_bytes(eights[number]))
}
