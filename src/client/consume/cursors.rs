//! Cursors of selections: named positions among the records of all logs.

use crate::client::{Admin, ClientError, CursorInfo};

/// The cursors that belong to no log: each stands at a position, from which any selection can be read on with
/// [`Start::Cursor`](crate::client::Start::Cursor) or [`Start::Position`](crate::client::Start::Position). They hold
/// back no log's retention.
pub struct SelectionCursors(Admin);

impl SelectionCursors {
    pub(in crate::client) fn new(admin: Admin) -> Self {
        Self(admin.of_selections())
    }

    /// Sets a cursor to a position. With `expected`, the call fails unless it stands there.
    ///
    /// # Errors
    ///
    /// As [`Admin::commit_cursor`].
    pub async fn commit(
        &self,
        name: &str,
        position: u64,
        expected: Option<u64>,
    ) -> Result<(), ClientError> {
        self.0.commit_cursor(name, position, expected).await
    }

    /// Sets a cursor, only if there is none of this name yet.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_cursor`].
    pub async fn create(&self, name: &str, position: u64) -> Result<(), ClientError> {
        self.0.create_cursor(name, position).await
    }

    /// Where a cursor stands: its `offset` is the position. `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// As [`Admin::cursor`].
    pub async fn get(&self, name: &str) -> Result<Option<CursorInfo>, ClientError> {
        self.0.cursor(name).await
    }

    /// All cursors that the caller may read, by name.
    ///
    /// # Errors
    ///
    /// As [`Admin::cursors`].
    pub async fn list(&self) -> Result<Vec<CursorInfo>, ClientError> {
        self.0.cursors().await
    }

    /// Removes a cursor; false if there was none of this name.
    ///
    /// # Errors
    ///
    /// As [`Admin::delete_cursor`].
    pub async fn delete(&self, name: &str) -> Result<bool, ClientError> {
        self.0.delete_cursor(name).await
    }
}
