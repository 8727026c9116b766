//! The stable store: the vote, the identity, how far the log is committed, and the FSM's state, in redb.
//!
//! Only this folder uses redb. The database runs over the disk seam, so that tests let it crash with the rest.

mod database;
pub mod vote_file;

use std::path::Path;
use std::sync::Arc;

use prost::Message;
use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::disk::{Disk, crc32c};
use crate::metrics::Counter;
use crate::proto::raft_v1 as pb;
use crate::raft::entry::types::{self, LogId, Vote};
use crate::raft::entry::wire_error::WireError;
use crate::raft::error::StableError;

pub use database::system_error;

use database::Opened;
use vote_file::VoteFile;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stable");
/// The rows of the FSM's tables, by the key that each table gives them.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// The rows of a snapshot whose segments are being put in place.
const INCOMING: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("incoming");

/// The file's name in the data directory.
pub const FILE: &str = "stable.redb";

/// A row of the FSM's tables, by its key; `None` removes it.
pub type Row = (Vec<u8>, Option<Vec<u8>>);

/// Small values that must survive a crash; clones share the database.
#[derive(Debug, Clone)]
pub struct StableStore(Arc<StoreFiles>);

#[derive(Debug)]
struct StoreFiles {
    database: Opened,
    vote: VoteFile,
    checkpoints: Counter,
}

impl StableStore {
    /// Opens the store in `dir`, or makes an empty one.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, StableError> {
        let path = dir.join(FILE);
        let database = Opened::open(disk.clone(), dir)?;
        let failed = |error: std::io::Error| database::not_opened(&path, error);
        let vote = VoteFile::open(&**disk, dir).map_err(failed)?;
        let store = Self(Arc::new(StoreFiles {
            database,
            vote,
            checkpoints: Counter::default(),
        }));
        let others = disk.list(dir).map_err(failed)?;
        let in_use =
            others.iter().any(|name| name.ends_with(".store")) || store.0.vote.read().is_some();
        if in_use && store.identity()?.is_none() {
            let what = "missing or empty, and the directory is a node's";
            return Err(StableError::Damaged { path, what });
        }
        Ok(store)
    }

    fn get<M: Message + Default>(&self, key: &'static str) -> Result<Option<M>, StableError> {
        let failed = |source| StableError::Read { key, source };
        let bytes = self.0.database.with(failed, |database| {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })?;
        let decode = |bytes: Vec<u8>| match checked(key.as_bytes(), &bytes) {
            Some(message) => M::decode(message).map_err(WireError::from),
            None => Err(WireError::Unknown("checksum")),
        };
        let value = bytes.map(decode).transpose();
        value.map_err(|source| StableError::Decode { key, source })
    }

    /// Durable on return.
    fn put(&self, key: &'static str, message: &impl Message) -> Result<(), StableError> {
        let value = Some(message.encode_to_vec());
        self.write(key, &[(key, value)], |_| Ok(()))
    }

    /// Writes or removes all of `values` and does `more` or, if `key` cannot be written, none of it. Durable on
    /// return.
    fn write(
        &self,
        key: &'static str,
        values: &[(&'static str, Option<Vec<u8>>)],
        more: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StableError> {
        let failed = |source| StableError::Write { key, source };
        self.0.database.with(failed, |database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for (key, value) in values {
                    match value {
                        Some(value) => {
                            let value = with_checksum(key.as_bytes(), value);
                            table.insert(key, value.as_slice())?
                        }
                        None => table.remove(key)?,
                    };
                }
            }
            more(&transaction)?;
            Ok(transaction.commit()?)
        })
    }

    /// The last vote: the later one of the two copies.
    pub fn vote(&self) -> Result<Option<Vote>, StableError> {
        let vote = self.get::<pb::VoteState>("vote")?;
        let vote = vote.map(|vote| types::vote_from_pb(Some(&vote)));
        let vote = vote.transpose().map_err(decode("vote"))?;
        let copy = self.0.vote.read();
        if copy > vote {
            tracing::warn!("the stable store had lost the last vote; its second copy counts");
            return Ok(copy);
        }
        Ok(vote)
    }

    pub fn save_vote(&self, vote: &Vote) -> Result<(), StableError> {
        self.put("vote", &types::vote_to_pb(vote))?;
        let file = &self.0.vote;
        file.write(vote).map_err(|source| StableError::VoteFile {
            path: file.path().to_owned(),
            source,
        })
    }

    /// An entry that is known to be committed. More may be committed by now.
    pub fn committed(&self) -> Result<Option<LogId>, StableError> {
        let id = self.get::<pb::LogId>("committed")?;
        Ok(id.as_ref().map(types::log_id_from_pb))
    }

    /// Where the log begins; `None` if it begins with its first entry.
    pub fn floor(&self) -> Result<Option<pb::Floor>, StableError> {
        self.get("floor")
    }

    pub fn save_floor(&self, floor: &pb::Floor) -> Result<(), StableError> {
        self.put("floor", floor)
    }

    /// The snapshot whose segments were being put in place when the node stopped, if there was one.
    pub fn adoption(&self) -> Result<Option<pb::Adoption>, StableError> {
        self.get("adoption")
    }

    /// Notes that this node holds the snapshot from now on: a start finishes moving its segments into place.
    pub fn begin_adoption(
        &self,
        adoption: &pb::Adoption,
        rows: impl IntoIterator<Item = Row>,
    ) -> Result<(), StableError> {
        let value = Some(adoption.encode_to_vec());
        self.write("adoption", &[("adoption", value)], |transaction| {
            transaction.delete_table(INCOMING)?;
            let mut incoming = transaction.open_table(INCOMING)?;
            for (key, row) in rows {
                put_row(&mut incoming, &key, row.as_deref())?;
            }
            Ok(())
        })
    }

    /// Notes that the snapshot's segments are in place.
    pub fn end_adoption(&self, adoption: &pb::Adoption) -> Result<(), StableError> {
        // An earlier try may have failed and be durable.
        if self.adoption()?.is_none() {
            return Ok(());
        }
        let checkpoint = adoption.checkpoint.clone().unwrap_or_default();
        let floor = adoption.floor.as_ref().map(Message::encode_to_vec);
        let values = [
            (
                "committed",
                checkpoint.applied.as_ref().map(Message::encode_to_vec),
            ),
            ("checkpoint", Some(checkpoint.encode_to_vec())),
            ("floor", floor),
            ("adoption", None),
        ];
        self.write("adoption", &values, |transaction| {
            transaction.delete_table(ROWS)?;
            Ok(transaction.rename_table(INCOMING, ROWS)?)
        })
    }

    /// The FSM's last durable state without the rows of its tables.
    pub fn checkpoint(&self) -> Result<Option<pb::Checkpoint>, StableError> {
        self.get("checkpoint")
    }

    /// The rows of the FSM's tables.
    pub fn rows(&self) -> Result<Vec<pb::StateRow>, StableError> {
        self.rows_in(ROWS)
    }

    /// The rows of the snapshot whose segments are being put in place.
    pub fn incoming_rows(&self) -> Result<Vec<pb::StateRow>, StableError> {
        self.rows_in(INCOMING)
    }

    fn rows_in(
        &self,
        table: TableDefinition<'_, &[u8], &[u8]>,
    ) -> Result<Vec<pb::StateRow>, StableError> {
        const KEY: &str = "rows";
        let decode = |key: &[u8], row: &[u8]| match checked(key, row) {
            Some(row) => pb::StateRow::decode(row).map_err(WireError::from),
            None => Err(WireError::Unknown("checksum")),
        };
        let failed = |source| StableError::Read { key: KEY, source };
        let rows = self.0.database.with(failed, |database| {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(table) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, row) = row?;
                rows.push(decode(key.value(), row.value()));
            }
            Ok(rows)
        })?;
        let rows: Result<Vec<_>, _> = rows.into_iter().collect();
        rows.map_err(|source| StableError::Decode { key: KEY, source })
    }

    /// Saves a checkpoint with the rows that changed before it, or with all rows in place of the saved ones, and
    /// notes that what it covers is committed.
    pub fn save_checkpoint(
        &self,
        checkpoint: &pb::Checkpoint,
        rows: &[Row],
        is_all: bool,
    ) -> Result<(), StableError> {
        let committed = checkpoint.applied.as_ref().map(Message::encode_to_vec);
        let values = [
            ("checkpoint", Some(checkpoint.encode_to_vec())),
            ("committed", committed),
        ];
        self.write("checkpoint", &values, |transaction| {
            if is_all {
                transaction.delete_table(ROWS)?;
            }
            let mut table = transaction.open_table(ROWS)?;
            for (key, row) in rows {
                put_row(&mut table, key, row.as_deref())?;
            }
            Ok(())
        })?;
        self.0.checkpoints.one_more();
        Ok(())
    }

    /// The checkpoints that were saved since the store was opened.
    pub fn checkpoints(&self) -> u64 {
        self.0.checkpoints.get()
    }

    /// The bytes that were written to the database since then.
    pub fn written_bytes(&self) -> u64 {
        self.0.database.written_bytes()
    }

    /// The node's identity; `None` in a new directory.
    pub fn identity(&self) -> Result<Option<pb::Identity>, StableError> {
        self.get("identity")
    }

    pub fn save_identity(&self, identity: &pb::Identity) -> Result<(), StableError> {
        self.put("identity", identity)
    }
}

fn put_row(
    table: &mut Table<'_, &[u8], &[u8]>,
    key: &[u8],
    row: Option<&[u8]>,
) -> Result<(), redb::Error> {
    match row {
        Some(row) => table.insert(key, with_checksum(key, row).as_slice())?,
        None => table.remove(key)?,
    };
    Ok(())
}

/// A value as the table holds it: the message, then a CRC-32C of key and message.
fn with_checksum(key: &[u8], message: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), message);
    [message, &crc.to_le_bytes()].concat()
}

/// The message in a value; `None` if the checksum is wrong.
fn checked<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (message, crc) = value.split_last_chunk::<4>()?;
    let found = crc32c::crc32c_append(crc32c::crc32c(key), message);
    (found == u32::from_le_bytes(*crc)).then_some(message)
}

fn decode(key: &'static str) -> impl FnOnce(WireError) -> StableError {
    move |source| StableError::Decode { key, source }
}
