//! Whole nodes in this process, over disks and streams in memory, where what happens when is the test's to say.

mod bit_rot;
mod client;
mod clocks;
mod exposition;
#[path = "../harness/mod.rs"]
mod harness;
mod late_answers;
mod members;
mod metrics;
mod quorum_loss;
mod reaching_nodes;
mod room;
mod simulation;
mod slow_disk;
#[cfg(feature = "otlp")]
mod traces;
mod watching;
