//! Compaction by key: of each key of a log the last record lives, and those before it go.
//!
//! One node looks for what was superseded, by the keys of all records, and says it as positions. So every node gives up
//! the same records, whatever it holds meanwhile, and no other node reads keys.

mod digest;
mod gone;
mod keys;
mod marked;
mod names;
mod rows;
mod search;

pub use gone::{GONE_BYTES_MAX, Gone, GoneWriter, Runs};
pub use marked::InSegment;
pub use search::{Bounds, Left, Search, Superseded};
