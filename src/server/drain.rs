//! The signal that a node begins to stop, for calls that would last.

use tokio::sync::watch;

/// Says when the node begins to stop; clones hear the same.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

impl Drain {
    /// The signal, and where it is heard.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (begin, begun) = watch::channel(false);
        (begin, Self(begun))
    }

    /// Whether the node stops.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the node begins to stop.
    pub async fn began(&mut self) {
        // An error says that the other end is gone: then the node has stopped.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}
