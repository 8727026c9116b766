//! Watches of the catalogue of logs: each state of a log once, in one order, whichever node tells it and whatever goes.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrolog::client::{Client, ClientError, LogChange, LogSettings, LogWatch, WatchPosition};
use ferrolog::log::Offset;
use tokio::time::timeout;

use crate::harness::until;
use crate::harness::world::{ADDRS, PATIENCE, World};

async fn next(watch: &mut LogWatch) -> LogChange {
    let change = timeout(PATIENCE, watch.next()).await.expect("an answer");
    change.unwrap()
}

/// What stands in one line of a test.
fn said(change: &LogChange) -> String {
    match change {
        LogChange::Existing(log) => format!("existing {} {}", log.name, log.epoch),
        LogChange::Current => "current".to_owned(),
        LogChange::Created(log) => format!("created {} {}", log.name, log.epoch),
        LogChange::Updated(log) => format!("updated {} {}", log.name, log.epoch),
        LogChange::Deleted { name, .. } => format!("deleted {name}"),
    }
}

async fn take(watch: &mut LogWatch, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(said(&next(watch).await));
    }
    all
}

async fn create(client: &Client, name: &str) {
    let made = client
        .admin()
        .create_log(name, LogSettings::default())
        .await;
    made.unwrap();
}

async fn update(client: &Client, name: &str, label: &str) {
    let settings = LogSettings {
        labels: BTreeMap::from([("label".to_owned(), label.to_owned())]),
        ..LogSettings::default()
    };
    client
        .admin()
        .update_log(name, settings, None)
        .await
        .unwrap();
}

async fn delete(client: &Client, name: &str) {
    let id = client.admin().get_log(name).await.unwrap().id;
    assert!(client.admin().delete_log(name, id).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_what_there_is_and_goes_on_at_any_node() {
    let world = World::new(41).await;
    let client = world.client(&ADDRS);
    for name in ["b", "a/1", "a/2"] {
        create(&client, name).await;
    }
    let mut all = client.watch_logs("", None).unwrap();
    let mut few = client.watch_logs("a/", None).unwrap();
    assert!(all.position().is_none());
    let there = [
        "existing a/1 1",
        "existing a/2 1",
        "existing b 1",
        "existing default 1",
        "current",
    ];
    assert_eq!(take(&mut all, 5).await, there);
    assert_eq!(
        take(&mut few, 3).await,
        ["existing a/1 1", "existing a/2 1", "current"]
    );

    // Each is seen by a watch that waits for it, so that none is passed over by a later one.
    let (mut told, mut places) = (Vec::new(), vec![all.position().unwrap().clone()]);
    let mut see = async |all: &mut LogWatch| {
        told.push(said(&next(all).await));
        places.push(all.position().unwrap().clone());
    };
    create(&client, "a/3").await;
    see(&mut all).await;
    update(&client, "b", "x").await;
    see(&mut all).await;
    delete(&client, "a/1").await;
    see(&mut all).await;
    update(&client, "a/3", "y").await;
    see(&mut all).await;
    create(&client, "a/1").await;
    see(&mut all).await;
    // What changes nothing is no change.
    update(&client, "b", "x").await;
    create(&client, "a/2").await;
    update(&client, "default", "z").await;
    see(&mut all).await;
    let expected = [
        "created a/3 1",
        "updated b 2",
        "deleted a/1",
        "updated a/3 2",
        "created a/1 1",
        "updated default 2",
    ];
    assert_eq!(told, expected);
    assert!(places.iter().all(|place| place.listed.is_none()));
    let few = take(&mut few, 4).await;
    assert_eq!(
        few,
        [
            "created a/3 1",
            "deleted a/1",
            "updated a/3 2",
            "created a/1 1"
        ]
    );

    // Of a log that changed twice since then, the last change alone; and one that is new since then was made.
    let since = |place: usize| match place {
        0 => vec![
            expected[1],
            expected[2],
            "created a/3 2",
            expected[4],
            expected[5],
        ],
        place => expected[place..].to_vec(),
    };
    for addr in ADDRS {
        let client = world.client(&[addr]);
        for (place, from) in places.iter().enumerate() {
            let mut watch = client.watch_logs("", Some(from.clone())).unwrap();
            let wanted = since(place);
            assert_eq!(
                take(&mut watch, wanted.len()).await,
                wanted,
                "{from:?} at {addr}"
            );
        }
    }
    // The place moves on with the cluster, without a change.
    let quiet = places.last().unwrap().clone();
    let sent = client.produce("x".into()).await;
    sent.unwrap();
    let mut watch = client.watch_logs("", Some(quiet.clone())).unwrap();
    let moved = async {
        loop {
            let waits = timeout(Duration::from_secs(2), watch.next()).await;
            assert!(waits.is_err(), "{waits:?}");
            if watch.position().unwrap().index > quiet.index {
                return;
            }
        }
    };
    timeout(PATIENCE, moved).await.expect("heartbeats tell");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_is_cut_short_goes_on_where_it_was_and_repeats_nothing() {
    let world = World::alone(42).await;
    let client = world.client(&[ADDRS[0]]);
    for number in 0..600 {
        create(&client, &format!("{number:03}")).await;
    }
    let mut watch = client.watch_logs("", None).unwrap();
    let mut told = take(&mut watch, 100).await;
    let place = watch.position().unwrap().clone();
    assert_eq!(place.listed.as_deref(), Some("099"));
    // Behind the place and before it: what changed meanwhile comes as a change, once.
    update(&client, "050", "x").await;
    update(&client, "300", "x").await;
    delete(&client, "301").await;
    create(&client, "0500").await;
    let mut watch = client.watch_logs("", Some(place)).unwrap();
    told.extend(take(&mut watch, 600 - 100 - 2 + 1 + 1).await);
    let mut there: Vec<_> = (0..600)
        .map(|number| format!("existing {number:03} 1"))
        .collect();
    there.retain(|line| line != "existing 300 1" && line != "existing 301 1");
    there.extend(["existing default 1".to_owned(), "current".to_owned()]);
    assert_eq!(told, there);
    let changes = [
        "updated 050 2",
        "updated 300 2",
        "deleted 301",
        "created 0500 1",
    ];
    assert_eq!(take(&mut watch, 4).await, changes);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_missed_or_told_twice_while_nodes_go_and_come_back() {
    const LOGS: usize = 90;
    let mut world = World::new(43).await;
    let client = world.client(&ADDRS);
    let mut watch = client.watch_logs("x/", None).unwrap();
    assert_eq!(take(&mut watch, 1).await, ["current"]);
    // One goes on through everything, the other one begins anew with each change.
    let names = |count: usize| {
        (0..count)
            .map(|number| format!("created x/{number} 1"))
            .collect::<Vec<_>>()
    };
    let again = client.clone();
    let mut from = watch.position().unwrap().clone();
    let follows = tokio::spawn(async move {
        let mut told = Vec::new();
        for _ in 0..LOGS {
            told.push(said(&next(&mut watch).await));
        }
        told
    });
    let resumes = tokio::spawn(async move {
        let mut told = Vec::new();
        for number in 0..LOGS {
            // At another node each time.
            let at = again.clone();
            let mut watch = at.watch_logs("x/", Some(from)).unwrap();
            told.push(said(&next(&mut watch).await));
            from = watch.position().unwrap().clone();
            assert!(from.listed.is_none(), "{number}");
        }
        told
    });
    for number in 0..LOGS {
        match number % 30 {
            5 => {
                let leader = world.leader();
                world.kill(leader).await;
                create(&client, &format!("x/{number}")).await;
                world.start(leader).await;
            }
            15 => {
                let leader = world.leader();
                world.node(leader).log().hand_on().await;
                create(&client, &format!("x/{number}")).await;
            }
            25 => {
                create(&client, &format!("x/{number}")).await;
                world.settled().await;
                world.power_cut(&[0, 1, 2]).await;
                world.settled().await;
            }
            _ => create(&client, &format!("x/{number}")).await,
        }
    }
    assert_eq!(
        timeout(PATIENCE, follows).await.unwrap().unwrap(),
        names(LOGS)
    );
    assert_eq!(
        timeout(PATIENCE, resumes).await.unwrap().unwrap(),
        names(LOGS)
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_got_a_snapshot_tells_what_it_never_applied() {
    let mut world = World::new(44).await;
    let client = world.client(&ADDRS);
    for name in ["a", "b", "c"] {
        create(&client, name).await;
    }
    let mut watch = client.watch_logs("", None).unwrap();
    take(&mut watch, 5).await;
    let from = watch.position().unwrap().clone();
    let leader = world.leader();
    let behind = (leader + 1) % ADDRS.len();
    world.network.cut(ADDRS[behind]);
    let near = world.client(&[ADDRS[leader]]);
    update(&near, "b", "x").await;
    delete(&near, "c").await;
    create(&near, "d").await;
    for _ in 0..60 {
        near.produce(vec![7; 4096].into()).await.unwrap();
    }
    let log = world.node(leader).log().clone();
    log.trim(Offset(50)).await.unwrap();
    until("files go", async || {
        (log.log().first_entry().0 > 20).then_some(())
    })
    .await;
    world.network.heal(ADDRS[behind]);
    let far = world.client(&[ADDRS[behind]]);
    let expected = ["updated b 2", "deleted c", "created d 1"];
    let mut resumed = far.watch_logs("", Some(from)).unwrap();
    assert_eq!(take(&mut resumed, 3).await, expected);
    let got = world.node(behind).log().log().first_entry().0;
    assert!(got > 20, "it has the entries themselves, from {got} on");
    // And after a start on what it stored.
    world.kill(behind).await;
    world.start(behind).await;
    let mut anew = far.watch_logs("", None).unwrap();
    let there = [
        "existing a 1",
        "existing b 2",
        "existing d 1",
        "existing default 1",
        "current",
    ];
    assert_eq!(take(&mut anew, 5).await, there);
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_deletions_are_forgotten_is_refused() {
    let world = World::alone(45).await;
    let client = world.client(&[ADDRS[0]]);
    create(&client, "stays").await;
    let mut watch = client.watch_logs("", None).unwrap();
    take(&mut watch, 3).await;
    let from = watch.position().unwrap().clone();
    drop(watch);
    for round in 0..41 {
        let calls = (0..100).map(|number| {
            let (client, name) = (client.clone(), format!("{round} {number}"));
            async move {
                create(&client, &name).await;
                delete(&client, &name).await;
            }
        });
        futures::future::join_all(calls).await;
    }
    let mut old = client.watch_logs("", Some(from.clone())).unwrap();
    let told = timeout(PATIENCE, old.next()).await.unwrap();
    assert!(matches!(told, Err(ClientError::ResumeTooOld)), "{told:?}");
    let over = timeout(PATIENCE, old.next()).await.unwrap();
    assert!(matches!(over, Err(ClientError::Closed)), "{over:?}");
    let mut anew = client.watch_logs("", None).unwrap();
    assert_eq!(
        take(&mut anew, 3).await,
        ["existing default 1", "existing stays 1", "current"]
    );
    let ahead = WatchPosition::from(from.index + 1_000_000);
    let mut ahead = client.watch_logs("", Some(ahead)).unwrap();
    let told = timeout(PATIENCE, ahead.next()).await.unwrap();
    assert!(
        matches!(told, Err(ClientError::InvalidArgument { .. })),
        "{told:?}"
    );
}
