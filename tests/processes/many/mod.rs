//! Many logs on real nodes under faults: calls to several at once, and readers of all of them in one order.

mod following;
mod killed;
mod prefix;
mod together;
