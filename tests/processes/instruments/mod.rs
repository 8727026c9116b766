//! The harness's own instruments: a checker that finds nothing proves nothing.

mod checker;
mod checker_reads;
mod proxy;
