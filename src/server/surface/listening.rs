//! The second address: for scrapers and probes that show no certificate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::net::Listener;
use crate::tasks;

use super::{Asker, Surface, serve_one};

/// Connections at once. Others wait until one ends, which is within its ten seconds.
const CONNECTIONS_MAX: usize = 64;
/// After an accept that failed: descriptors are freed by others.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves whoever connects. With the future go the port and the connections.
pub async fn serve_probes(surface: Arc<Surface>, mut listener: Box<dyn Listener>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await;
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((io, _)) => {
                let served = serve_one(surface.clone(), Asker::Anybody, io);
                connections.spawn(tasks::watched("probe", async move {
                    served.await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
