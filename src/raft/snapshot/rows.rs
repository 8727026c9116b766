//! The rows of a snapshot's state, as they are sent.
//!
//! A node keeps its last snapshot for as long as it runs. Encoded, the rows of a hundred thousand logs take a tenth of
//! what they take as messages.

use std::fmt;
use std::sync::Arc;

use prost::Message;

use crate::proto::raft_v1 as pb;

/// Rows, one after another, each behind its length; clones share them.
#[derive(Clone, Default)]
pub struct Rows {
    bytes: Arc<Vec<u8>>,
    count: usize,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({} in {} bytes)", self.count, self.bytes.len())
    }
}

impl FromIterator<pb::StateRow> for Rows {
    fn from_iter<I: IntoIterator<Item = pb::StateRow>>(rows: I) -> Self {
        let mut made = Self::default();
        made.extend(rows);
        let bytes = Arc::get_mut(&mut made.bytes).expect("it was made here");
        // They stay: what was only room for more goes.
        bytes.shrink_to_fit();
        made
    }
}

impl Extend<pb::StateRow> for Rows {
    fn extend<I: IntoIterator<Item = pb::StateRow>>(&mut self, rows: I) {
        let bytes = Arc::make_mut(&mut self.bytes);
        for row in rows {
            row.encode_length_delimited(bytes)
                .expect("a vector has room");
            self.count += 1;
        }
    }
}

impl Rows {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows as messages, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = pb::StateRow> + use<> {
        let (bytes, mut at) = (self.bytes.clone(), 0);
        std::iter::from_fn(move || {
            // From a slice, so that no row keeps all of them in memory.
            let mut rest = &bytes[at..];
            if rest.is_empty() {
                return None;
            }
            let row = pb::StateRow::decode_length_delimited(&mut rest);
            at = bytes.len() - rest.len();
            Some(row.expect("it was encoded here"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_their_order() {
        let row = |name: &str| {
            let cursor = pb::Cursor {
                name: name.to_owned(),
                ..pb::Cursor::default()
            };
            let row = (!name.is_empty()).then_some(pb::state_row::Row::Cursor(cursor));
            pb::StateRow { row }
        };
        // An empty one takes a byte, too.
        let all = ["a", "", "bc"].map(row);
        let mut rows: Rows = all[..2].iter().cloned().collect();
        let two = rows.clone();
        rows.extend([all[2].clone()]);
        assert!(rows.iter().eq(all.iter().cloned()) && rows.count() == 3);
        assert!(two.iter().eq(all[..2].iter().cloned()), "a clone stays");
        assert!(Rows::default().iter().next().is_none());
    }
}
