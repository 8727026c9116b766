//! What somebody meets who is new to the program: the first steps, and the texts of mistakes.

mod habits;
mod mistakes;
mod operations;
