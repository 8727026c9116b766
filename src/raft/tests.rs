//! Tests over more than one room.

mod commands_tests;
mod hearing_tests;
mod members_tests;
mod nodes;
mod oracle_cases_tests;
mod oracle_plain_tests;
mod oracle_steps_tests;
mod oracle_tests;
mod seed_tests;
mod suite_tests;
mod table_tests;
