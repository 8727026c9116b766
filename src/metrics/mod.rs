//! What a node counts of itself, and how that is told.
//!
//! Each layer owns what it counts ([`Counter`], [`Times`], [`ByLabel`]) and tells it when a [`Page`] is asked for. What
//! is known anyway, such as who leads, is read at that moment and counted by nobody. So no layer knows who reads, the
//! way of a record takes no lock for a number, and nothing here is a static: two nodes of one process count apart. The
//! families that there are stand in one table, [`families`]; only this folder names the library that writes pages.

mod counts;
pub mod families;
mod labels;
mod lately;
mod page;
mod passed;
pub mod process;

pub use counts::{Counter, Level, Times};
pub(crate) use labels::labels;
pub use labels::{ByLabel, Label};
pub use lately::{Lately, Percentile};
pub use page::{Form, Page, Registry, Series, Value};
pub use passed::Passed;
