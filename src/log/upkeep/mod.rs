//! What is done to a log besides appending and reading: sealing, trimming, mending, copying.

pub mod copies;
pub mod kept_rows;
pub mod live;
mod moved_frames;
pub mod repair;
pub mod rewrite;
pub mod rewritten_copy;
pub mod scrub;
pub mod sealing;
mod swap;
pub mod trim;
