//! What is done to a log besides appending and reading: sealing, trimming, mending, copying.

pub mod copies;
pub mod repair;
pub mod sealing;
pub mod trim;
