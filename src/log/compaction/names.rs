//! Whether two nodes hold the same sealed segments, rewritten by the same entries.

use ring::digest::{Context, SHA256};

use crate::log::{Index, Log};

/// Bytes of a digest of segments.
pub const NAMES_DIGEST_BYTES: usize = 32;

impl Log {
    /// A digest of which sealed segments hold the entries from `from` to before `to`, and by which entries each was
    /// rewritten: SHA-256 (FIPS 180-4). `None` if no whole segments do.
    pub fn digest_of_names(&self, from: Index, to: Index) -> Option<[u8; NAMES_DIGEST_BYTES]> {
        let (mut context, mut next) = (Context::new(&SHA256), from);
        for segment in self.segments() {
            // What another node holds before may have records that the asking one has given up.
            (segment.base >= from).then_some(())?;
            if segment.base >= to {
                continue;
            }
            let is_next = segment.base == next && segment.next_position.is_some();
            is_next.then_some(())?;
            next = segment.next_index;
            let rewritten = segment.name.rewritten.map_or(0, |at| at.0);
            for number in [segment.base.0, rewritten] {
                context.update(&number.to_le_bytes());
            }
        }
        (next == to).then_some(())?;
        context.finish().as_ref().try_into().ok()
    }
}
