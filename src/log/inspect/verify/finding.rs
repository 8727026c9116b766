//! What a look at a log's files can find, and what to do about it.

use std::path::PathBuf;

use crate::log::format::files::SegmentName;
use crate::log::{Index, Position};

/// What was found in a directory.
#[derive(Debug, Default)]
pub struct Report {
    /// Oldest first.
    pub segments: Vec<SegmentReport>,
    /// In the order in which the files were read.
    pub findings: Vec<Finding>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its first raft index.
    pub base: Index,
    /// What its files are called after.
    pub name: SegmentName,
    /// The entries found in it.
    pub entries: u64,
    /// The position of its first record, and the one after its last; `None` if its rows do not tell.
    pub positions: Option<(Position, Position)>,
    /// Where its frames end in the store file.
    pub bytes: u64,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Whether it holds what it should.
    pub state: SegmentState,
}

/// How a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// All checks.
    Sound,
    /// It ends in bytes of a write that a crash cut short.
    Torn,
    /// Something in it does not check.
    Damaged,
}

impl SegmentState {
    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Torn => "torn tail",
            Self::Damaged => "damaged",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub position: u64,
    /// Whether it belongs to a sealed segment, which another node can replace.
    pub sealed: bool,
    /// What it is.
    pub what: What,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|found| found.what.is_damage())
    }
}

/// What can be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    // What a crash may leave, and the next start puts right.
    #[error("a torn tail of {bytes} bytes: a write that was never acknowledged")]
    TornTail { bytes: u64 },
    #[error("a cut after byte {end} of segment {base} is announced and not made")]
    CutAnnounced { base: Index, end: u32 },
    #[error("an announcement of a cut that was never finished")]
    CutUnfinished,
    #[error("it lies below the floor, raft index {floor}")]
    BelowFloor { floor: Index },
    #[error("it is replaced by the snapshot that is being put in place")]
    Replaced,
    #[error("a segment with what lives of it has taken its place")]
    Rewritten,
    #[error("it was to take the place of others, and was not finished")]
    RewritingUnfinished,
    #[error("it holds no frame")]
    NeverWritten,
    #[error("the seal covers more than the checkpoint")]
    SealUncovered,
    #[error("rows of entries that the checkpoint covers are not there")]
    RowsStale,
    #[error("the rows do not lead to the checkpoint's next position {next}")]
    RowsReplayed { next: Position },
    #[error("{rows} rows name entries that are not in the store")]
    RowsAhead { rows: usize },

    // Damage.
    #[error("{0}")]
    Header(&'static str),
    #[error("format version {0} is not known")]
    Version(u32),
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("the store of the segment is not there")]
    StoreMissing,
    #[error("the store ends at byte {len}, and its seal says {end}")]
    StoreShort { len: u64, end: u32 },
    #[error("raft index {expected} should come next, and the segment begins at {found}")]
    Gap { expected: Index, found: Index },
    #[error("a frame does not check (raft index {index})")]
    Frame { index: Index },
    #[error("a frame has raft index {found} in the place of {expected}")]
    FrameIndex { found: Index, expected: Index },
    #[error("a frame has a lower term than the one before (raft index {index})")]
    FrameTerm { index: Index },
    #[error("the filling behind a frame is not zero (raft index {index})")]
    Filling { index: Index },
    #[error("the records of raft index {index} do not decode: {what}")]
    Batches { index: Index, what: String },
    #[error("the index of the segment is not there")]
    IndexMissing,
    #[error("row {number} does not check")]
    Row { number: usize },
    #[error("row {number} disagrees with the store: {what}")]
    RowDisagrees { number: usize, what: &'static str },
    #[error("rows are missing that cannot be derived, since the log was trimmed")]
    RowsLost,
    #[error("rows without a store: the entries that they name were committed")]
    RowsWithoutStore,
    #[error("the seal does not check")]
    Seal,
    #[error("the seal disagrees with its segment: {0}")]
    SealDiffers(&'static str),
    #[error("the directory of the rows is not the one that they make")]
    Directory,
    #[error("the log ends before raft index {next}, and the checkpoint covers {synced}")]
    LostTail { next: Index, synced: Index },
    #[error("the second copy of the vote does not check")]
    VoteCopy,
    #[error("{0}")]
    Stable(String),
}

impl What {
    /// Its name, for programs and for frozen fixtures: the variant's.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        let end = text.find(|c: char| !c.is_ascii_alphanumeric());
        text[..end.unwrap_or(text.len())].to_owned()
    }

    /// Whether it is more than a crash leaves behind.
    pub fn is_damage(&self) -> bool {
        !matches!(
            self,
            Self::TornTail { .. }
                | Self::CutAnnounced { .. }
                | Self::CutUnfinished
                | Self::BelowFloor { .. }
                | Self::Replaced
                | Self::Rewritten
                | Self::RewritingUnfinished
                | Self::NeverWritten
                | Self::SealUncovered
                | Self::RowsStale
                | Self::RowsReplayed { .. }
                | Self::RowsAhead { .. }
        )
    }

    /// What to do about it.
    pub fn advice(&self, sealed: bool) -> &'static str {
        const REJOIN: &str = "keep the file, remove this node from the cluster and join it again \
                              with an empty data directory";
        match self {
            Self::TornTail { .. } => "nothing: the next start cuts it",
            Self::CutAnnounced { .. } => "nothing: the next start makes the cut",
            Self::RowsStale | Self::RowsAhead { .. } => "nothing: the next start derives the rows",
            Self::RowsReplayed { .. } => "nothing: the next start applies every entry again",
            Self::CutUnfinished
            | Self::BelowFloor { .. }
            | Self::Replaced
            | Self::Rewritten
            | Self::RewritingUnfinished
            | Self::NeverWritten
            | Self::SealUncovered => "nothing: the next start removes it",
            Self::Version(_) => "use the version of ferrolog that wrote it",
            Self::VoteCopy => {
                "start the node: the copy in the stable store counts; look after the disk"
            }
            Self::Seal => {
                "start the node: it reads the store instead and seals the segment again; look \
                 after the disk, which changed bytes"
            }
            Self::Directory => {
                "start the node: it makes the directory again, of the rows; look after the disk, which changed bytes"
            }
            Self::Filling { .. } => {
                "no record is touched; look after the disk, which changed bytes"
            }
            Self::IndexMissing | Self::Row { .. } => {
                "start the node: it derives the rows again; look after the disk"
            }
            Self::RowDisagrees { .. } if !sealed => {
                "move the index file away and start the node: it derives the rows again"
            }
            Self::Gap { .. } => REJOIN,
            _ if sealed => {
                "start the node: it fetches the segment from another node, and keeps the damaged \
                 files in quarantine"
            }
            _ => REJOIN,
        }
    }
}
