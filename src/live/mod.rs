//! A value that may change while the node runs: a setting that is taken up anew.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// The value; clones share it.
#[derive(Clone)]
pub struct Live<T>(Arc<watch::Sender<T>>);

impl<T: Copy + PartialEq + Send + Sync> Live<T> {
    /// One that begins so.
    pub fn new(value: T) -> Self {
        Self(Arc::new(watch::Sender::new(value)))
    }

    /// What it is now.
    pub fn get(&self) -> T {
        *self.0.borrow()
    }

    /// What it is from now on, for all clones.
    pub fn set(&self, value: T) {
        self.0.send_replace(value);
    }

    /// Returns once it is another one than this.
    pub async fn changed_from(&self, value: T) {
        let mut changes = self.0.subscribe();
        // The sender lives as long as this does, so that this fails never.
        let _ = changes.wait_for(|now| *now != value).await;
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clones_share_it_and_who_waits_is_told() {
        let pace = Live::new(7_u64);
        let waits = pace.clone();
        let waits = tokio::spawn(async move { waits.changed_from(7).await });
        let same = timeout(Duration::from_secs(60), pace.changed_from(7)).await;
        assert!(same.is_err() && pace.get() == 7);
        pace.clone().set(8);
        waits.await.unwrap();
        assert_eq!(pace.get(), 8);
    }
}
