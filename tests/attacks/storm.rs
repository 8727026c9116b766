//! Many small compressed batches at every node at once. To decompress one keeps a processor busy for a moment.

use bytes::Bytes;
use ferrolog::batch::{self, Builder, Compression, Record};
use ferrolog::proto::v1::{Batch, ProduceRequest};
use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::arena::{Arena, WRITER, length};
use super::harness::native::Client;

/// Calls under way at each node.
const CALLS: usize = 64;
const RECORDS: usize = 60;
const VALUE_BYTES: usize = 250 << 10;

/// A batch of fifteen megabytes that is compressed to a few kilobytes.
pub fn bomb() -> Batch {
    let mut builder = Builder::default();
    for _ in 0..RECORDS {
        builder.push(&Record::from(Bytes::from(vec![0; VALUE_BYTES])));
    }
    let (plain, count) = builder.take();
    Batch {
        records: batch::compress(&plain, Compression::Zstd).expect("it is small"),
        compression: Compression::Zstd as i32,
        count,
    }
}

/// Sends the same batch again and again; gives how many were appended.
async fn send(mut client: Client, batch: Batch, end: Instant) -> u64 {
    let mut appended = 0;
    while Instant::now() < end {
        let request = ProduceRequest {
            batch: Some(batch.clone()),
            ..ProduceRequest::default()
        };
        match timeout_at(end, client.produce(request)).await {
            Ok(Ok(_)) => appended += 1,
            // A refused call costs nothing: without a pause the attack would become a storm of refusals.
            Ok(Err(_)) => tokio::task::yield_now().await,
            Err(_) => break,
        }
    }
    appended
}

/// Sends small compressed batches to all nodes at once; gives how many were appended.
pub async fn rage(arena: &Arena, batch: &Batch) -> u64 {
    let end = Instant::now() + length();
    let clients = (0..3).map(|place| arena.client(WRITER, place));
    let calls = clients.flat_map(|client| vec![client; CALLS]);
    let sent = join_all(calls.map(|client| send(client, batch.clone(), end))).await;
    sent.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_compressed_batches_deposes_no_leader() {
    let arena = Arena::start().await;
    let (leader, batch) = (arena.stage.leader().await, bomb());
    let term = arena.stage.status(leader).await.term;
    let storm = async {
        let appended = rage(&arena, &batch).await;
        let kib = (batch.records.len() * usize::try_from(appended).expect("few")) >> 10;
        println!(
            "{appended} batches of {} bytes, {kib} KiB",
            batch.records.len()
        );
        assert!(appended > 0, "some are appended");
    };
    let watched = arena.watch(leader, storm).await;
    for place in 0..3 {
        let now = arena.stage.status(place).await;
        assert_eq!(now.term, term, "the term as node {place} sees it");
    }
    watched.check("small compressed batches at all nodes");
}
