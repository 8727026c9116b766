//! ferrolog
#![allow(missing_docs)]
pub mod env;
pub mod log;
