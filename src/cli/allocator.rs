//! How the C library's allocator gives memory back to the system.
//!
//! glibc keeps what is freed with whichever thread freed it, unless a block is large, and counts more and
//! more as not large, up to 32 MiB, with each large block that is freed. So a few messages of 4 MiB on each
//! thread would stay with a node for good: 100 to 150 MiB beside all that is counted. The allocator takes
//! its settings from the environment before the program begins. So a node begins once more, as the same
//! process, with what it needs.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::stderr;

/// From so many bytes on a block is given back as soon as it is freed, and this does not change any more.
const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
/// Above what small records need all the time: groups of 256 KiB, and what they are written from.
const THRESHOLD_BYTES: &str = "1048576";

/// Begins the program again with these settings, unless they are set. What was set is left as it is.
pub fn settle() {
    if !cfg!(target_env = "gnu") || env::var_os(THRESHOLD).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut again = Command::new(program);
    again.arg0(name).args(arguments);
    // It returns if it fails alone.
    let error = again.env(THRESHOLD, THRESHOLD_BYTES).exec();
    stderr::say(&format!(
        "warning: more memory may stay with this node than it needs ({error}): set \
         {THRESHOLD}={THRESHOLD_BYTES} in its environment"
    ));
}
