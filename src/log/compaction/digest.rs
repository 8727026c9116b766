//! What stands for a key.

use ring::digest::{Context, SHA256};

use crate::log::LogId;

/// A digest of a key in its log: the first 128 bits of its SHA-256 (FIPS 180-4).
pub fn digest_of(log: LogId, key: &[u8]) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(&log.0.to_le_bytes());
    context.update(key);
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    u128::from_le_bytes(*first)
}
