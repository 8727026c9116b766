//! What a node of a local cluster costs its machine.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::LocalCluster;
use crate::cli::files;
use crate::net::Kind;

/// How long a node may take for its page of numbers.
const PAGE_MAX: Duration = Duration::from_secs(30);
/// The most that a page may have, in bytes.
const PAGE_BYTES_MAX: u64 = 4 << 20;

impl LocalCluster {
    /// The node's resident memory.
    pub fn resident_bytes(&self, place: usize) -> anyhow::Result<u64> {
        files::resident_bytes(self.pid(place).context("the node does not run")?)
    }

    /// The resident memory of all nodes, in MiB.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
    pub fn resident_mib(&self) -> anyhow::Result<Vec<f64>> {
        let all = (0..self.node_count()).map(|place| self.resident_bytes(place));
        all.map(|bytes| Ok(bytes? as f64 / f64::from(1 << 20)))
            .collect()
    }

    /// What the node counts of itself under this name at `/metrics`, with labels as they stand on the page.
    pub async fn told(&self, place: usize, series: &str) -> anyhow::Result<u64> {
        let layer = self.stream_layer()?;
        let mut io = layer.dial(Kind::Http, self.addr(place), PAGE_MAX).await?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        io.write_all(request).await.context("ask for the numbers")?;
        let mut page = String::new();
        let mut page_of = io.take(PAGE_BYTES_MAX);
        let read = timeout(PAGE_MAX, page_of.read_to_string(&mut page)).await;
        read.context("a node's numbers are late")?
            .context("read a node's numbers")?;
        let name = self.name(place);
        let value = page.lines().find_map(|line| {
            let value = line.strip_prefix(series)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        match value {
            Some(value) => Ok(value),
            None => bail!("{name} does not tell {series}"),
        }
    }

    /// The CPU time that the node's process has used.
    pub fn cpu_time(&self, place: usize) -> anyhow::Result<Duration> {
        files::cpu_time(self.pid(place).context("the node does not run")?)
    }

    /// The bytes that the node's process has caused to be sent to storage.
    pub fn written_bytes(&self, place: usize) -> anyhow::Result<u64> {
        files::written_bytes(self.pid(place).context("the node does not run")?)
    }

    /// Has the system forget what it keeps in memory of the node's records.
    pub fn forget_cached(&self, place: usize) -> anyhow::Result<()> {
        let dir = self.data_dir(place);
        let stores = files::list(&dir)?.into_iter();
        let mut stores = stores.filter(|name| name.ends_with(".store"));
        stores.try_for_each(|name| files::forget_cached(&dir.join(name)))
    }

    /// What the node's data takes on disk, holes not counted.
    pub fn disk_bytes(&self, place: usize) -> anyhow::Result<u64> {
        files::disk_bytes(&self.data_dir(place))
    }
}
