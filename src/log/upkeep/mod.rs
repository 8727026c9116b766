//! What is done to a log besides appending and reading: sealing, trimming, mending, copying.

pub mod copies;
mod listing;
pub mod repair;
pub mod scrub;
pub mod sealing;
pub mod trim;
