//! Several logs read in one stream: everything once, in one order, whichever node answers and whatever happens.

use std::collections::BTreeMap;

use ferrolog::client::{
    Client, ClientError, ConsumeOptions, ConsumedRecord, Consumer, LogSettings, ProducerOptions,
    Reason, Selection, Start,
};
use tokio::time::timeout;

use super::front::{Front, Plan};
use crate::harness::until;
use crate::harness::world::{ADDRS, PATIENCE, World};

/// A record: its position, its log, its offset there, and its value.
type Found = (u64, String, u64, String);

fn prefix(prefix: &str) -> Selection {
    Selection::Prefix(prefix.to_owned())
}

fn logs(names: &[&str]) -> Selection {
    Selection::Logs(names.iter().map(|name| (*name).to_owned()).collect())
}

fn options(selection: Selection, from: Start) -> ConsumeOptions {
    ConsumeOptions {
        selection: Some(selection),
        from,
        ..ConsumeOptions::default()
    }
}

fn found(record: ConsumedRecord) -> Found {
    let value = String::from_utf8_lossy(&record.record.value).into_owned();
    let position = record.position.expect("a selection tells it");
    (position, record.log.to_string(), record.offset, value)
}

/// What comes up to where the log ends.
async fn read(
    client: &Client,
    selection: Selection,
    from: Start,
) -> Result<Vec<Found>, ClientError> {
    let mut consumer = client.consume(options(selection, from))?;
    let mut all = Vec::new();
    while let Some(record) = timeout(PATIENCE, consumer.next()).await.expect("an answer") {
        all.push(found(record?));
    }
    Ok(all)
}

/// So many of the next records.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<Found> {
    let mut all = Vec::new();
    while all.len() < count {
        let record = timeout(PATIENCE, consumer.next()).await.expect("an answer");
        all.push(found(record.expect("it follows").unwrap()));
    }
    all
}

/// Appends to several logs in turn; each counts its records from `from` on.
async fn append(client: &Client, names: &[&str], from: u64, count: u64) {
    let producer = |name: &&str| {
        let log = client.log(*name);
        log.producer(ProducerOptions::default()).unwrap()
    };
    let producers: Vec<_> = names.iter().map(producer).collect();
    for number in from..from + count {
        for (name, producer) in names.iter().zip(&producers) {
            let sent = producer.send(format!("{name} {number}")).await.unwrap();
            // One after the other, so that the logs' records lie among each other.
            timeout(PATIENCE, sent).await.unwrap().unwrap();
        }
    }
    for producer in producers {
        producer.finish().await.unwrap();
    }
}

async fn create(client: &Client, names: &[&str]) {
    let admin = client.admin();
    for name in names {
        let made = admin.create_log(name, LogSettings::default());
        made.await.unwrap();
    }
}

/// Positions grow, and each log's offsets have no gap from `firsts` on, 0 unless it says otherwise.
fn check(all: &[Found], firsts: &BTreeMap<&str, u64>) {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for (number, (position, log, offset, value)) in all.iter().enumerate() {
        assert!(number == 0 || all[number - 1].0 < *position, "in order");
        let due = next.entry(log.as_str());
        let due = due.or_insert_with(|| firsts.get(log.as_str()).copied().unwrap_or(0));
        assert_eq!(*offset, *due, "no gap in {log}");
        assert_eq!(*value, format!("{log} {offset}"));
        *due += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn every_node_tells_the_same_order_from_any_position() {
    let world = World::new(11).await;
    let client = world.client(&ADDRS);
    create(&client, &["a/1", "a/2", "b"]).await;
    append(&client, &["a/2", "b", "a/1", "default"], 0, 40).await;
    let all = read(&client, prefix("a/"), Start::Earliest).await.unwrap();
    assert_eq!(all.len(), 80);
    check(&all, &BTreeMap::new());
    for addr in ADDRS {
        let node = world.client(&[addr]);
        // This node has applied what was acknowledged after that.
        node.admin().get_log("b").await.unwrap();
        let again = read(&node, prefix("a/"), Start::Earliest).await.unwrap();
        assert_eq!(again, all, "at {addr}");
        let listed = read(&node, logs(&["a/2", "a/1"]), Start::Earliest).await;
        assert_eq!(listed.unwrap(), all, "at {addr}");
        for from in [0, 1, 2, 77, all[50].0, all[50].0 + 1] {
            let rest = read(&node, prefix("a/"), Start::Position(from))
                .await
                .unwrap();
            let wanted = all.iter().filter(|found| found.0 >= from);
            assert!(rest.iter().eq(wanted), "from {from} at {addr}");
        }
        let every = read(&node, prefix(""), Start::Earliest).await.unwrap();
        assert_eq!(every.len(), 160);
        check(&every, &BTreeMap::new());
        assert_eq!(
            read(&node, prefix("none/"), Start::Earliest).await.unwrap(),
            []
        );
        assert_eq!(read(&node, prefix(""), Start::Latest).await.unwrap(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn logs_come_and_go_while_two_readers_follow() {
    let world = World::new(12).await;
    let client = world.client(&ADDRS);
    create(&client, &["a/1", "a/2", "b"]).await;
    append(&client, &["a/1", "b"], 0, 10).await;
    let follow = |addrs: &[&'static str], selection| {
        let options = ConsumeOptions {
            follow: true,
            ..options(selection, Start::Earliest)
        };
        world.client(addrs).consume(options).unwrap()
    };
    let mut readers = [
        follow(&ADDRS, prefix("a/")),
        follow(&[ADDRS[2], ADDRS[1], ADDRS[0]], prefix("a/")),
    ];
    let mut listed = follow(&ADDRS, logs(&["a/1", "a/2"]));
    let mut seen = [Vec::new(), Vec::new()];
    for (reader, seen) in readers.iter_mut().zip(&mut seen) {
        seen.extend(take(reader, 10).await);
    }
    assert_eq!(take(&mut listed, 10).await, seen[0]);

    // A log that is made later comes in; one that is made anew under a name is another.
    create(&client, &["a/3"]).await;
    append(&client, &["a/3", "b", "a/2"], 0, 10).await;
    for (reader, seen) in readers.iter_mut().zip(&mut seen) {
        seen.extend(take(reader, 20).await);
    }
    assert_eq!(take(&mut listed, 10).await.len(), 10, "a/3 was not named");
    let admin = client.admin();
    let gone = admin.get_log("a/2").await.unwrap();
    admin.delete_log("a/2", gone.id).await.unwrap();
    let error = timeout(PATIENCE, listed.next()).await.unwrap();
    assert!(
        matches!(error, Some(Err(ClientError::LogDeleted))),
        "{error:?}"
    );
    append(&client, &["a/1"], 10, 10).await;
    for (reader, seen) in readers.iter_mut().zip(&mut seen) {
        seen.extend(take(reader, 10).await);
    }
    assert_eq!(seen[0], seen[1]);
    check(&seen[0], &BTreeMap::new());
    let left = read(&client, prefix("a/"), Start::Earliest).await.unwrap();
    assert!(
        left.iter()
            .eq(seen[0].iter().filter(|found| found.1 != "a/2"))
    );

    // What was trimmed is passed over, and a position before it stands for what comes next.
    client.log("a/1").admin().trim(13).await.unwrap();
    let trimmed = read(&client, prefix("a/1"), Start::Earliest).await.unwrap();
    assert_eq!(trimmed.len(), 7);
    check(&trimmed, &BTreeMap::from([("a/1", 13)]));
}

#[tokio::test(start_paused = true)]
async fn readers_go_on_while_nodes_go_and_come_back() {
    let mut world = World::new(15).await;
    let client = world.client(&ADDRS);
    create(&client, &["a/1", "a/2", "b"]).await;
    let mut readers: Vec<Consumer> = Vec::new();
    for selection in [prefix("a/"), logs(&["a/2", "a/1"])] {
        let options = ConsumeOptions {
            follow: true,
            ..options(selection, Start::Earliest)
        };
        readers.push(client.consume(options).unwrap());
    }
    let mut seen = vec![Vec::new(); readers.len()];
    let names = ["a/1", "b", "a/2"];
    for round in 0..4u64 {
        let leader = world.leader();
        // The leader twice, and a follower.
        let gone = (leader + usize::from(round == 2)) % ADDRS.len();
        append(&client, &names, round * 20, 10).await;
        world.kill(gone).await;
        append(&client, &names, round * 20 + 10, 10).await;
        for (reader, seen) in readers.iter_mut().zip(&mut seen) {
            seen.extend(take(reader, 40).await);
        }
        world.start(gone).await;
        world.settled().await;
    }
    check(&seen[0], &BTreeMap::new());
    assert_eq!(seen[0], seen[1]);
    for addr in ADDRS {
        let node = world.client(&[addr]);
        node.admin().get_log("b").await.unwrap();
        let all = read(&node, prefix("a/"), Start::Earliest).await.unwrap();
        assert_eq!(all, seen[0], "at {addr}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_anywhere_gives_everything_once() {
    let world = World::alone(13).await;
    let client = world.client(&[ADDRS[0]]);
    create(&client, &["a/1", "a/2", "b"]).await;
    append(&client, &["a/1", "b", "a/2"], 0, 30).await;
    let wanted = read(&client, prefix("a/"), Start::Earliest).await.unwrap();
    let broken = |answered| Plan::Break {
        stored: 0,
        answered,
        status: tonic::Status::unavailable("broken on purpose"),
    };
    let plans = [0, 1, 2, 1, 2, 2].map(broken);
    let front = Front::of_one(&world, &["a:1", "b:1"], plans).await;
    let client = front.client(&["a:1", "b:1"], 60);
    let all = read(&client, prefix("a/"), Start::Earliest).await.unwrap();
    assert_eq!(all, wanted);
    // A reader that keeps its position and begins anew after each record.
    let (mut next, mut again) = (Start::Earliest, Vec::new());
    loop {
        let mut consumer = client.consume(options(prefix("a/"), next)).unwrap();
        let Some(record) = timeout(PATIENCE, consumer.next()).await.unwrap() else {
            break;
        };
        again.push(found(record.unwrap()));
        next = Start::Position(consumer.position().await.unwrap());
    }
    assert_eq!(again, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_selections_gives_everything_once_wherever_it_goes_on() {
    let mut world = World::new(15).await;
    let client = world.client(&ADDRS);
    create(&client, &["a/1", "a/2", "b"]).await;
    let cursors = client.selection_cursors();
    cursors.create("reader", 0).await.unwrap();
    // A log's cursor of this name is another one.
    client.admin().create_cursor("reader", 0).await.unwrap();
    let (mut got, mut stands) = (Vec::new(), 0);
    for round in 0..12 {
        append(&client, &["a/1", "b", "a/2"], round * 8, 8).await;
        // Each round reads a part, at another node, and then one more that nobody learns of.
        let node = world.client(&[ADDRS[round as usize % 3]]);
        let from = Start::Cursor("reader".to_owned());
        let mut consumer = node.consume(options(prefix("a/"), from)).unwrap();
        for _ in 0..11 + round % 5 {
            match timeout(PATIENCE, consumer.next()).await.unwrap() {
                Some(record) => got.push(found(record.unwrap())),
                None => break,
            }
        }
        let next = consumer.position().await.unwrap();
        let _lost = timeout(PATIENCE, consumer.next()).await.unwrap();
        cursors.commit("reader", next, Some(stands)).await.unwrap();
        stands = next;
        let leader = world.leader();
        match round % 4 {
            0 => world.node(leader).log().hand_on().await,
            1 => {
                world.kill(leader).await;
                append(&client, &["b"], 1000 + round, 1).await;
                world.start(leader).await;
            }
            2 => world.power_cut(&[0, 1, 2]).await,
            _ => {}
        }
        world.settled().await;
    }
    for addr in ADDRS {
        let node = world.client(&[addr]);
        let known = node.selection_cursors().get("reader").await.unwrap();
        assert_eq!(known.unwrap().offset, stands, "at {addr}");
        assert_eq!(
            node.admin().cursor("reader").await.unwrap().unwrap().offset,
            0
        );
        let rest = read(&node, prefix("a/"), Start::Cursor("reader".to_owned()));
        let all = [got.clone(), rest.await.unwrap()].concat();
        check(&all, &BTreeMap::new());
        assert_eq!(all.len(), 2 * 12 * 8, "at {addr}");
        let whole = read(&node, prefix("a/"), Start::Earliest).await.unwrap();
        assert_eq!(all, whole, "at {addr}");
    }

    let other = cursors.commit("reader", stands, Some(stands + 1)).await;
    assert!(matches!(other, Err(ClientError::CursorDiffers { current: Some(at) }) if at == stands));
    let ahead = cursors.commit("reader", 1_000_000, None).await;
    assert!(
        matches!(
            ahead,
            Err(ClientError::PastEnd {
                asked: 1_000_000,
                ..
            })
        ),
        "{ahead:?}"
    );
    let names: Vec<_> = cursors.list().await.unwrap();
    assert_eq!((names.len(), &*names[0].name), (1, "reader"));
    assert!(cursors.delete("reader").await.unwrap());
    assert!(!cursors.delete("reader").await.unwrap());
    let none = read(&client, prefix("a/"), Start::Cursor("reader".to_owned())).await;
    assert!(
        matches!(&none, Err(ClientError::NoSuchCursor { name }) if name == "reader"),
        "{none:?}"
    );
    assert!(client.admin().cursor("reader").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_got_a_snapshot_knows_the_cursors_of_selections() {
    let world = World::new(16).await;
    let leader = world.leader();
    let behind = (leader + 1) % ADDRS.len();
    world.network.cut(ADDRS[behind]);
    let near = world.client(&[ADDRS[leader]]);
    for _ in 0..60 {
        near.produce(vec![7; 4096].into()).await.unwrap();
    }
    near.selection_cursors().create("reader", 5).await.unwrap();
    let log = world.node(leader).log().clone();
    log.trim(ferrolog::log::Offset(50)).await.unwrap();
    until("files go", async || {
        (log.log().first_entry().0 > 20).then_some(())
    })
    .await;
    world.network.heal(ADDRS[behind]);
    let far = world.client(&[ADDRS[behind]]);
    let known = until("it is heard of", async || {
        far.selection_cursors().get("reader").await.ok().flatten()
    });
    assert_eq!(known.await.offset, 5);
    // A cursor of selections holds nothing back, and what was given up is passed over.
    let all = read(&far, prefix("def"), Start::Cursor("reader".to_owned())).await;
    let offsets = all.unwrap().into_iter().map(|(_, _, offset, _)| offset);
    assert_eq!(offsets.collect::<Vec<_>>(), (50..60).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_selection_that_makes_no_sense_is_refused() {
    let world = World::alone(14).await;
    let client = world.client(&[ADDRS[0]]);
    create(&client, &["a"]).await;
    append(&client, &["a"], 0, 3).await;
    let many: Vec<_> = (0..1001).map(|_| "a").collect();
    let refused = [
        (logs(&[]), Start::Earliest, "names 1 to 1000 logs"),
        (logs(&many), Start::Earliest, "names 1 to 1000 logs"),
        (
            logs(&["a", "a"]),
            Start::Earliest,
            "names the log \"a\" twice",
        ),
        (logs(&["default", ""]), Start::Earliest, "twice"),
        (prefix("a"), Start::Offset(1), "places in one log"),
        (prefix("a"), Start::Timestamp(1), "places in one log"),
        (prefix("a"), Start::Tail(1), "places in one log"),
    ];
    for (selection, from, what) in refused {
        let error = read(&client, selection, from).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::InvalidRequest), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let missing = read(&client, logs(&["a", "b"]), Start::Earliest).await;
    let missing = missing.unwrap_err();
    assert!(
        matches!(&missing, ClientError::NoSuchLog { .. }),
        "{missing}"
    );
    // That the log was made is told in a record, too.
    let past = read(&client, prefix(""), Start::Position(5))
        .await
        .unwrap_err();
    assert!(
        matches!(past, ClientError::PastEnd { asked: 5, next: 4 }),
        "{past}"
    );
    // A position is none of one log's places.
    let one = ConsumeOptions {
        from: Start::Position(1),
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(one).unwrap();
    let error = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert_eq!(error.unwrap_err().reason(), Some(Reason::InvalidRequest));
    let at_least = ConsumeOptions {
        consistency: ferrolog::client::Consistency::AtLeast(1),
        ..options(prefix("a"), Start::Earliest)
    };
    let mut consumer = client.consume(at_least).unwrap();
    let error = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert_eq!(error.unwrap_err().reason(), Some(Reason::InvalidRequest));
}
