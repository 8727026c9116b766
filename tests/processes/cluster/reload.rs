//! What a running cluster takes up: certificates of other authorities, and another policy. Records go on, and nobody
//! stays in who was let out.
#![allow(
    clippy::disallowed_methods,
    reason = "an operator puts files in the place of others"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use ferrolog::cli::local_cluster::Signal;
use ferrolog::client::{AppenderOptions, Client, ClientError, ConsumeOptions, LogSettings, Record};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::harness::command;
use crate::harness::{Stage, refused, until};

/// Nobody who was let out stays for longer.
const OUT_WITHIN: Duration = Duration::from_secs(5);
/// Records that are acknowledged between two steps of a rotation.
const BETWEEN: u64 = 30;

/// Puts a file in the place of another, at once.
fn put(path: &Path, text: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    let mode = fs::metadata(path).expect("the old file").permissions();
    fs::set_permissions(&new, mode).expect("its mode");
    fs::rename(&new, path).expect("in its place");
}

/// Certificates of an authority of their own, for the nodes and the client of a stage.
async fn authority(stage: &Stage, name: &str) -> PathBuf {
    let dir = stage.path().join(name);
    let out = dir.to_str().expect("a path in UTF-8");
    let minted = ["certs", "--out", out].map(str::to_owned);
    command::run(&minted).await.expect_success();
    dir
}

/// How often the nodes said that they took up certificates.
fn taken(stage: &Stage) -> Vec<usize> {
    let told = |place| {
        let log = stage.log_since(place, 0);
        log.matches("took up the certificates").count()
    };
    (0..3).map(told).collect()
}

/// Until each node has done so once more, by a signal or by itself.
async fn taken_up(stage: &Stage, before: &[usize]) {
    until("the certificates are taken up", async || {
        let now = taken(stage);
        let more = now.iter().zip(before).all(|(now, before)| now > before);
        more.then_some(())
    })
    .await;
}

struct Rotation<'a> {
    stage: &'a Stage,
    client: &'a Client,
    done: watch::Receiver<u64>,
}

impl Rotation<'_> {
    async fn progress(&mut self) {
        let until = *self.done.borrow() + BETWEEN;
        let waited = self.done.wait_for(|done| *done >= until);
        timeout(Duration::from_secs(30), waited)
            .await
            .expect("records go on")
            .expect("the writer goes on");
    }

    /// From one authority to another, as docs/operations.md says: first all trust both, then each proves itself by the
    /// new one, then all trust the new one alone.
    async fn run(&mut self, old: &Path, new: &Path) {
        let certs = self.stage.path().join("certs");
        let read = |dir: &Path, name: &str| fs::read(dir.join(name)).expect("a file");
        let (ca, key) = ("ca.pem", "client-key.pem");
        let both = [read(old, ca), read(new, ca)].concat();
        let before = taken(self.stage);
        put(&certs.join(ca), &both);
        for place in 0..3 {
            let told = self.stage.cluster.signal(place, Signal::HUP);
            told.expect("a signal");
        }
        taken_up(self.stage, &before).await;
        let of_client = |name: &str| certs.join(name);
        let client = || {
            let taken =
                self.client
                    .take_up_tls(of_client(ca), of_client("client.pem"), of_client(key));
            taken.expect("the client's files");
        };
        client();
        self.progress().await;

        let before = taken(self.stage);
        for name in ["n1", "n2", "n3", "client"] {
            for file in [format!("{name}.pem"), format!("{name}-key.pem")] {
                put(&certs.join(&file), &read(new, &file));
            }
        }
        // Without a signal: the nodes look themselves.
        client();
        taken_up(self.stage, &before).await;
        self.progress().await;

        let before = taken(self.stage);
        put(&certs.join(ca), &read(new, ca));
        taken_up(self.stage, &before).await;
        client();
        self.progress().await;
    }
}

/// Appends records on and on; how many were acknowledged, and what the first failure said.
async fn write(
    client: Client,
    done: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
) -> (u64, Option<ClientError>) {
    let mut appender = client
        .appender(AppenderOptions::default())
        .expect("an appender");
    let mut acked = 0;
    while !*stop.borrow() {
        let record = Record::from(Bytes::from(format!("record {acked}")));
        match appender.append(vec![record]).await {
            Ok(appended) => assert_eq!(appended.first_offset, acked),
            Err(error) => return (acked, Some(error)),
        }
        acked += 1;
        done.send_replace(acked);
    }
    appender.close().await;
    (acked, None)
}

#[tokio::test]
async fn certificates_are_rotated_to_other_authorities_while_records_go_on() {
    let stage = Stage::start_alone().await;
    let certs = stage.path().join("certs");
    let first = stage.path().join("first");
    fs::create_dir(&first).expect("a directory");
    for file in fs::read_dir(&certs).expect("certificates") {
        let file = file.expect("a file");
        fs::copy(file.path(), first.join(file.file_name())).expect("copied");
    }
    let (second, third) = (
        authority(&stage, "second").await,
        authority(&stage, "third").await,
    );
    let term = stage.status(stage.leader().await).await.term;
    let old = stage.client();

    let (done, seen) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let client = stage.client();
    let writer = tokio::spawn(write(client.clone(), done, stopped));
    let mut rotation = Rotation {
        stage: &stage,
        client: &client,
        done: seen,
    };
    rotation.run(&first, &second).await;
    rotation.run(&second, &third).await;
    stop.send_replace(true);
    let (acked, failed) = writer.await.expect("the writer");
    assert!(failed.is_none(), "after {acked}: {failed:?}");
    assert_eq!(stage.status(stage.leader().await).await.term, term);

    // A client of the first authority, which held connections from before, is out.
    let late = refused(old.admin().status(None).await, "another authority");
    assert!(matches!(late, ClientError::Tls { .. }), "{late}");
    // A bad file changes nothing.
    let before = taken(&stage);
    put(&certs.join("n1.pem"), b"nothing");
    until("the bad file is told of", async || {
        let told = stage.log_since(0, 0);
        told.contains("the certificates stay as they were")
            .then_some(())
    })
    .await;
    assert_eq!(taken(&stage), before);
    let left = ("not-taken-up".to_owned(), "n1".to_owned());
    let found = command::findings(&stage.cluster).await;
    assert_eq!(found, (vec![left], Some(1)), "the doctor names it");
    let good = fs::read(third.join("n1.pem")).expect("a file");
    put(&certs.join("n1.pem"), &good);
    until("the good file is taken up", async || {
        let found = command::findings(&stage.cluster).await;
        (found == (Vec::new(), Some(0))).then_some(())
    })
    .await;
    client
        .produce(Bytes::from("still"))
        .await
        .expect("it goes on");
    println!("{acked} records through two rotations, none refused, term {term} throughout");
}

#[tokio::test]
async fn who_loses_a_right_is_out_at_once_and_who_gets_one_is_in() {
    let policy = "p, reader, orders, consume\n";
    let stage = Stage::start_under(policy, &["reader", "other"]).await;
    let admin = stage.client().admin();
    let made = admin.create_log("orders", LogSettings::default()).await;
    made.expect("a log");
    let of = |name: &str| {
        let builder = Client::builder().servers(stage.cluster.addrs());
        let client = builder.stream_layer(stage.layer_of(name)).build();
        client.expect("a client").log("orders")
    };
    let follow = |client: &Client| {
        let options = ConsumeOptions {
            follow: true,
            ..ConsumeOptions::default()
        };
        client.consume(options).expect("a consumer")
    };
    let (reader, other) = (of("reader"), of("other"));
    let mut following = follow(&reader);
    let orders = stage.client().log("orders");
    orders.produce(Bytes::from("one")).await.expect("a record");
    following.next().await.expect("one").expect("a record");
    let denied = refused(follow(&other).next().await.expect("an answer"), "no right");
    assert!(
        matches!(denied, ClientError::PermissionDenied { .. }),
        "{denied}"
    );

    let acl = stage.path().join("acl.csv");
    let old = fs::read_to_string(&acl).expect("the policy");
    put(&acl, old.replace("p, reader,", "p, other,").as_bytes());
    until("each node took the policy up", async || {
        let told = |place| stage.log_since(place, 0).contains("took up the policy");
        (0..3).all(told).then_some(())
    })
    .await;
    let begun = Instant::now();
    let out = timeout(OUT_WITHIN, following.next())
        .await
        .expect("in time");
    let out = refused(out.expect("an answer"), "a right that is gone");
    assert!(matches!(out, ClientError::PermissionDenied { .. }), "{out}");
    println!("out within {:?}", begun.elapsed());
    let told = follow(&other).next().await.expect("a record");
    told.expect("the other one may read now");
    // A line that is none changes nothing.
    put(&acl, b"p, reader\n");
    until("the bad file is told of", async || {
        let told = stage.log_since(0, 0);
        told.contains("the policy stays as it was").then_some(())
    })
    .await;
    let (found, _) = command::findings(&stage.cluster).await;
    let named = |node: &str| ("not-taken-up".to_owned(), node.to_owned());
    assert!(found.contains(&named("n1")), "{found:?}");
    let told = follow(&other).next().await.expect("a record");
    told.expect("as before");
}
