//! How long a connection lives: no longer than the certificate that its peer showed, nor than an age, and not beyond a
//! reload by which that certificate, or what its subject may do, is no longer what it was.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::net::identity::Identity;
use crate::net::tls::{Chain, Tls};

/// Says of each connection, when it begins, how to know later whether a reload ends it.
#[derive(Clone)]
pub struct Recheck(Arc<dyn Fn(&Identity) -> Ends + Send + Sync>);

/// Whether a connection ends at a reload, besides those whose certificates are no longer trusted. It is asked after each.
type Ends = Box<dyn FnMut() -> bool + Send + Sync>;

impl Recheck {
    /// Asks this of each connection that begins.
    pub fn new<F>(begins: impl Fn(&Identity) -> F + Send + Sync + 'static) -> Self
    where
        F: FnMut() -> bool + Send + Sync + 'static,
    {
        Self(Arc::new(move |identity| Box::new(begins(identity))))
    }
}

impl Default for Recheck {
    fn default() -> Self {
        Self::new(|_| || false)
    }
}

impl fmt::Debug for Recheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recheck").finish_non_exhaustive()
    }
}

/// Becomes ready when the connection must end.
pub(super) struct Term(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Term {
    /// Of a peer that showed this chain, who is this one.
    pub(super) fn new(
        tls: Tls,
        chain: Chain,
        identity: &Identity,
        age_max: Duration,
        mut reloads: watch::Receiver<Recheck>,
    ) -> Self {
        let left = tls.time_left(&chain);
        let over = Instant::now() + left.min(age_max);
        let mut ends = (reloads.borrow().0)(identity);
        Self(Box::pin(async move {
            loop {
                tokio::select! {
                    () = sleep_until(over) => return,
                    changed = reloads.changed() => if changed.is_err() {
                        return sleep_until(over).await;
                    },
                }
                if ends() || !tls.trusts(&chain) {
                    return;
                }
            }
        }))
    }

    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
