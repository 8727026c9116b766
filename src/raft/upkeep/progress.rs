//! What is left to do until the room of what was given up is back.

use std::collections::BTreeSet;

use super::Upkeep;

/// What a node has yet to do, and what a leader knows besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The rewritings that were decided on and are not done here.
    pub due: usize,
    /// Whether a leader was asked to compact a log, and has not begun to look for what may go.
    pub is_asked: bool,
    /// While a leader looks for superseded records: how far it is, in percent.
    pub looked_percent: Option<u32>,
    /// What a leader's last look found and is stored here still.
    pub superseded_records: u64,
    pub superseded_bytes: u64,
}

impl Upkeep {
    /// How far rewriting and compaction are.
    pub fn progress(&self) -> Progress {
        let due = self.not_done().len();
        let segments = self.node.log.segments();
        let names: BTreeSet<_> = segments.iter().map(|one| one.name).collect();
        let asked = self.compacted().asked;
        let searched = self.searched.lock();
        let mut progress = Progress {
            due,
            is_asked: (asked > searched.asked || searched.is_more_to_say(&segments))
                && self.node.view().writable
                && searched.looked_percent.is_none()
                && !searched.is_off,
            looked_percent: searched.looked_percent,
            ..Progress::default()
        };
        for (_, found) in searched
            .found
            .iter()
            .filter(|(name, _)| names.contains(name))
        {
            progress.superseded_records += found.records;
            progress.superseded_bytes += found.bytes;
        }
        progress
    }
}
