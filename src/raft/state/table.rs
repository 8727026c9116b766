//! A table of the replicated state: rows by key, and which of them changed since they were last made durable.
//!
//! A checkpoint writes the rows that changed, not all there are: what it costs grows with what happened since the
//! last one.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use crate::proto::raft_v1 as pb;

/// What a table keeps under each key.
pub trait Kept {
    type Key: Ord + Clone;

    /// The key in the stable store: no other row of any table has it.
    fn stored_key(key: &Self::Key) -> Vec<u8>;

    /// The row as it is stored and sent: the same bytes on every replica.
    fn to_pb(&self, key: &Self::Key) -> pb::StateRow;
}

/// What a row became: its key in the stable store, and its bytes there. `None` if it is gone.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Rows by key.
#[derive(Debug, Clone)]
pub struct Table<V: Kept> {
    rows: BTreeMap<V::Key, V>,
    /// Changed or gone since the last call of [`Self::take_changes`].
    changed: BTreeSet<V::Key>,
    /// What that call gave, until it is durable.
    saving: BTreeSet<V::Key>,
}

impl<V: Kept> Default for Table<V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            changed: BTreeSet::new(),
            saving: BTreeSet::new(),
        }
    }
}

/// Two tables are equal if their rows are, whatever is durable of them.
impl<V: Kept + PartialEq> PartialEq for Table<V> {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl<V: Kept + Eq> Eq for Table<V> {}

impl<V: Kept> Table<V> {
    /// The rows, in the order of their keys.
    pub fn rows(&self) -> &BTreeMap<V::Key, V> {
        &self.rows
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        V::Key: Borrow<Q>,
    {
        self.rows.get(key)
    }

    /// A row, to be changed.
    pub fn get_mut(&mut self, key: &V::Key) -> Option<&mut V> {
        let row = self.rows.get_mut(key)?;
        self.changed.insert(key.clone());
        Some(row)
    }

    /// A row, to be changed: an empty one if there is none.
    pub fn get_or_insert(&mut self, key: &V::Key) -> &mut V
    where
        V: Default,
    {
        self.changed.insert(key.clone());
        self.rows.entry(key.clone()).or_default()
    }

    /// Puts a row in; gives the one that it replaces.
    pub fn insert(&mut self, key: V::Key, row: V) -> Option<V> {
        self.changed.insert(key.clone());
        self.rows.insert(key, row)
    }

    /// Takes a row out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        V::Key: Borrow<Q>,
    {
        let (key, row) = self.rows.remove_entry(key)?;
        self.changed.insert(key);
        Some(row)
    }

    /// Puts in a row that is durable; gives the one that it replaces.
    pub fn restore(&mut self, key: V::Key, row: V) -> Option<V> {
        self.rows.insert(key, row)
    }

    /// All rows, as they are sent.
    pub fn to_pb(&self) -> impl Iterator<Item = pb::StateRow> + '_ {
        self.rows.iter().map(|(key, row)| row.to_pb(key))
    }

    /// Every row as a change, for a store that has none of them.
    pub fn stored(&self) -> impl Iterator<Item = Change> + '_ {
        let all = self.rows.iter();
        all.map(|(key, row)| (V::stored_key(key), Some(stored(row, key))))
    }

    /// Every row as a change, as [`Self::stored`]. [`Self::saved`] or [`Self::not_saved`] must follow.
    pub fn take_all(&mut self, into: &mut Vec<Change>) {
        self.saving.append(&mut self.changed);
        into.extend(self.stored());
    }

    /// The rows that changed since they were last taken. [`Self::saved`] or [`Self::not_saved`] must follow.
    pub fn take_changes(&mut self, into: &mut Vec<Change>) {
        self.saving.append(&mut self.changed);
        let changes = self.saving.iter().map(|key| {
            let row = self.rows.get(key);
            (V::stored_key(key), row.map(|row| stored(row, key)))
        });
        into.extend(changes);
    }

    /// What was taken is durable.
    pub fn saved(&mut self) {
        self.saving.clear();
    }

    /// What was taken is not durable: it is taken again.
    pub fn not_saved(&mut self) {
        self.changed.append(&mut self.saving);
    }
}

fn stored<V: Kept>(row: &V, key: &V::Key) -> Vec<u8> {
    row.to_pb(key).encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Word(&'static str);

    impl Kept for Word {
        type Key = u8;

        fn stored_key(key: &u8) -> Vec<u8> {
            vec![*key]
        }

        fn to_pb(&self, _: &u8) -> pb::StateRow {
            let cursor = pb::Cursor {
                name: self.0.to_owned(),
                ..pb::Cursor::default()
            };
            pb::StateRow {
                row: Some(pb::state_row::Row::Cursor(cursor)),
            }
        }
    }

    /// The keys of what changed, and whether there is a row.
    fn taken(table: &mut Table<Word>) -> Vec<(u8, bool)> {
        let mut changes = Vec::new();
        table.take_changes(&mut changes);
        let changes = changes.into_iter();
        changes.map(|(key, row)| (key[0], row.is_some())).collect()
    }

    #[test]
    fn only_what_changed_is_taken_and_again_until_it_is_durable() {
        let mut table = Table::default();
        table.restore(1, Word("durable"));
        table.restore(2, Word("durable"));
        assert!(taken(&mut table).is_empty());
        table.saved();
        table.insert(3, Word("new"));
        table.get_mut(&1).unwrap().0 = "changed";
        assert!(table.get_mut(&9).is_none());
        assert_eq!(table.remove(&2), Some(Word("durable")));
        assert_eq!(taken(&mut table), [(1, true), (2, false), (3, true)]);
        table.insert(4, Word("meanwhile"));
        table.not_saved();
        let all = [(1, true), (2, false), (3, true), (4, true)];
        assert_eq!(taken(&mut table), all);
        table.get_mut(&4).unwrap().0 = "once more";
        table.saved();
        assert_eq!(taken(&mut table), [(4, true)]);
        table.saved();
        let mut whole = Vec::new();
        table.take_all(&mut whole);
        let keys: Vec<_> = whole
            .iter()
            .map(|(key, row)| (key[0], row.is_some()))
            .collect();
        assert_eq!(keys, [(1, true), (3, true), (4, true)]);
    }
}
