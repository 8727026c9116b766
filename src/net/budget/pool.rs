//! The room of one scope of the budget: for anything, and beside it for what is small.

use tokio::sync::Semaphore;

/// Which room was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Any,
    Small,
}

/// The room of one scope.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) any: Semaphore,
    pub(super) small: Semaphore,
    pub(super) limit: usize,
    small_limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize, small_part: usize) -> Self {
        // What tokio can count; no machine has so much memory.
        let limit = limit.clamp(1, u32::MAX as usize >> 1);
        let small_limit = limit.checked_div(small_part).unwrap_or(0);
        Self {
            any: Semaphore::new(limit),
            small: Semaphore::new(small_limit),
            limit,
            small_limit,
        }
    }

    pub(super) fn lane(&self, lane: Lane) -> &Semaphore {
        match lane {
            Lane::Any => &self.any,
            Lane::Small => &self.small,
        }
    }

    pub(super) fn held(&self) -> usize {
        let left = self.any.available_permits() + self.small.available_permits();
        self.limit + self.small_limit - left
    }
}
