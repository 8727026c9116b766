//! Every attack that takes memory, at once and at one node, beside sockets that say nothing.

use futures::future::join_all;
use tokio::join;

use super::arena::{Arena, MALLORY, WRITER};
use super::half_sent::{self, native_stream_message};
use super::sockets::{self, SILENT};
use super::{storm, unread, whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn all_attacks_together_take_no_more_than_each_may() {
    let arena = Arena::start().await;
    let place = arena.stage.leader().await;
    let term = arena.stage.status(place).await.term;
    let mut reads = unread::large(&arena, place).await.to_vec();
    reads.extend(unread::compressed(&arena, place).await);
    let bomb = storm::bomb();
    let silent = sockets::Flood::begin(arena.stage.cluster.addr(place), b"", SILENT).await;
    let attacks = async {
        let (denied, half) = (half_sent::without_the_right(), half_sent::with_the_right());
        let denied = denied
            .iter()
            .map(|flood| half_sent::hold(&arena, MALLORY, place, flood));
        let half = half
            .iter()
            .map(|flood| half_sent::hold(&arena, WRITER, place, flood));
        let reads = reads.iter().map(|asked| unread::hold(&arena, place, asked));
        let message = native_stream_message();
        let path = "/ferrolog.v1.LogService/ProduceStream";
        let pressed = whole::press(&arena, place, path, &message);
        let raged = storm::rage(&arena, &bomb);
        join!(
            join_all(denied),
            join_all(half),
            join_all(reads),
            pressed,
            raged
        );
    };
    let watched = arena.watch(place, attacks).await;
    drop(silent);
    println!("term {term} -> {}", arena.stage.status(place).await.term);
    watched.check("all together");
}
