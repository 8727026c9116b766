//! The command line, the files beside it, and the programs made with the library.

mod alarms;
mod cut_short;
mod deploy;
mod examples;
mod log_files;
mod logs;
mod many_logs;
mod seeing;
mod settings;
mod standard_error;
