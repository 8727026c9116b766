//! A segment as another node has it.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::{Log, RewrittenCopy, Seal};

/// Small, so that a segment comes in many.
const PART_BYTES: u32 = 300;

/// Copies a rewritten segment from another log, as a snapshot or a repair brings it.
pub fn copy_rewritten(from: &Log, disk: Arc<dyn Disk>, dir: &Path, seal: &Seal) {
    let mut copy = RewrittenCopy::new(disk, dir, seal).unwrap();
    let mut at = seal.base;
    loop {
        let (part, next) = from.store_part(seal.name(), at, PART_BYTES).unwrap();
        if part.is_empty() {
            break;
        }
        at = next;
        copy.add(&part).unwrap();
    }
    copy.finish().unwrap();
}
