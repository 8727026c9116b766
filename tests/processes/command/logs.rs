//! `ferrolog log create`, `list`, `show` and `delete`, and `--log` on the commands that work on one log.
#![allow(clippy::disallowed_methods, reason = "it makes the files to append")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::command::{Ended, Lone, alone_args, command, run};

/// A node alone, and files beside it.
struct Cluster {
    node: Lone,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let node = Lone::start(&alone_args(&dir.path().join("n1"))).await;
        Self { node, dir }
    }

    async fn run(&self, words: &[&str]) -> Ended {
        run(&self.node.plain(words)).await
    }

    async fn text(&self, words: &[&str]) -> String {
        self.run(words).await.expect_success()
    }

    async fn json(&self, words: &[&str]) -> Value {
        parsed(&self.text(&[words, &["--output", "json"]].concat()).await)
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("input");
        std::fs::write(&path, text).expect("a file");
        path
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_log_is_made_filled_read_shown_and_deleted() {
    let cluster = Cluster::start().await;
    let made = cluster
        .text(&["log", "create", "orders", "--label", "team=sales"])
        .await;
    assert!(made.contains("the log orders is there, with id "), "{made}");
    // Twice the same is one log.
    let again = cluster
        .json(&["log", "create", "orders", "--label", "team=sales"])
        .await;
    let other = cluster.run(&["log", "create", "orders"]).await;
    other.expect_refusal(&["other settings", "ferrolog log show"]);
    let twice = ["log", "create", "x", "--label", "a=1", "--label", "a=2"];
    cluster.run(&twice).await.expect_refusal(&["given twice"]);

    let file = cluster.file("one\ntwo\nthree\n");
    cluster
        .text(&["produce", "--log", "orders", utf8(&file)])
        .await;
    let file = cluster.file("elsewhere\n");
    cluster.text(&["produce", utf8(&file)]).await;
    assert_eq!(
        cluster.text(&["consume", "--log", "orders"]).await,
        "one\ntwo\nthree\n"
    );
    assert_eq!(cluster.text(&["consume"]).await, "elsewhere\n");
    let wanted = ["--expected-next-offset", "1", "--log", "orders"];
    let file = cluster.file("four\n");
    let differs = cluster
        .run(&[&["produce", utf8(&file)], &wanted[..]].concat())
        .await;
    differs.expect_refusal(&["the log does not end at offset 1 but at 3"]);

    let shown = cluster.json(&["log", "show", "orders"]).await;
    assert_eq!(shown["id"], again["id"]);
    let counts = ["first_offset", "next_offset", "records", "labels"].map(|key| &shown[key]);
    assert_eq!(json!(counts), json!([0, 3, 3, { "team": "sales" }]));
    let bytes = shown["appended_bytes"].as_u64().expect("a number");
    assert!(bytes >= 11, "{bytes}");
    let shown = cluster.text(&["log", "show", "orders"]).await;
    for line in ["records         3\n", "labels          team=sales"] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }

    let list = cluster.text(&["log", "list"]).await;
    let lines: Vec<Vec<_>> = list
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let heads = [
        "NAME", "ID", "FIRST", "NEXT", "RECORDS", "BYTES", "ON", "DISK", "LAST", "APPEND", "LAG",
        "SLOWEST", "CURSOR",
    ];
    assert_eq!(lines[0], heads);
    assert_eq!((&lines[1][..2], lines[1][3]), (&["default", "0"][..], "1"));
    assert_eq!(
        (lines[2][0], &lines[2][2..5]),
        ("orders", &["0", "3", "3"][..])
    );
    assert!(lines[2][5].ends_with('B'), "bytes with their unit: {list}");
    let list = cluster.json(&["log", "list", "--prefix", "ord"]).await;
    assert_eq!(list["logs"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["logs"][0]["kept_bytes"], bytes);
    assert_eq!(list["logs"][0]["stored_bytes"], 0, "no segment is full");
    assert_eq!(list["logs"][0]["lag"], Value::Null);
    let none = cluster.text(&["log", "list", "--prefix", "nothing"]).await;
    assert_eq!(none, "there are no logs\n");

    let id = again["id"].to_string();
    let gone = cluster.text(&["log", "delete", "orders"]).await;
    assert_eq!(gone, "orders is deleted\n");
    let gone = cluster.text(&["log", "delete", "orders"]).await;
    assert_eq!(gone, "there is no log orders; nothing was changed\n");
    let hints = [
        "there is no log \"orders\"",
        "ferrolog log list",
        "ferrolog log create NAME",
    ];
    let missing = cluster.run(&["consume", "--log", "orders"]).await;
    missing.expect_refusal(&hints);
    let missing = cluster
        .run(&["produce", "--log", "orders", utf8(&file)])
        .await;
    missing.expect_refusal(&hints);

    // A log that was made anew is safe from the old one's id.
    let new = cluster.json(&["log", "create", "orders"]).await;
    assert_ne!(new["id"], again["id"]);
    let kept = cluster
        .text(&["log", "delete", "orders", "--id", &id])
        .await;
    let expected = format!("there is no log orders with id {id}; nothing was changed\n");
    assert_eq!(kept, expected);
    assert_eq!(cluster.text(&["consume", "--log", "orders"]).await, "");
    let kept = cluster.run(&["log", "delete", "default"]).await;
    kept.expect_refusal(&["the default log cannot be deleted"]);
}

#[tokio::test]
async fn a_log_is_set_up_in_parts_and_kept_so() {
    let cluster = Cluster::start().await;
    let make = [
        "log",
        "create",
        "orders",
        "--record-bytes-max",
        "1KiB",
        "--label",
        "team=sales",
    ];
    cluster.text(&make).await;
    let file = cluster.file("one\ntwo\nthree\n");
    let produce = ["produce", "--log", "orders", utf8(&file)];
    cluster.text(&produce).await;
    let cursor = [
        "cursor", "set", "billing", "1", "--create", "--log", "orders",
    ];
    cluster.text(&cursor).await;

    let set = async |more: &[&str]| {
        cluster
            .run(&[&["log", "set", "orders"], more].concat())
            .await
    };
    let bytes = ["--retention-bytes", "1GiB", "--retention-age", "7d"];
    set(&bytes).await.expect_success();
    let wait = ["--retention-wait-for", "billing", "--retention-cap", "2GiB"];
    set(&wait).await.expect_success();
    let labels = ["--label", "tier=gold", "--label", "team=ops"];
    let shown = set(&labels).await.expect_success();
    for line in [
        "retention       kept: 1GiB, for 7d; what billing did not read yet",
        "largest record  1KiB",
        "labels          team=ops, tier=gold",
        "settings' epoch 4",
    ] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    let shown = cluster.json(&["log", "show", "orders"]).await;
    let kept = json!({
        "max_bytes": 1_u64 << 30,
        "max_age_ms": 604_800_000_u64,
        "wait_for_cursors": ["billing"],
        "wait_max_bytes": 2_u64 << 30,
    });
    assert_eq!(shown["retention"], kept);
    assert_eq!(shown["record_bytes_max"], 1024);
    assert_eq!(
        (&shown["slowest_cursor"], &shown["lag"]),
        (&json!("billing"), &json!(2))
    );
    let list = cluster.text(&["log", "list", "--prefix", "ord"]).await;
    let last = list.lines().last().expect("a row");
    assert!(last.ends_with("2  billing"), "{list}");

    // What cannot be is refused, and changes nothing.
    for (bad, told) in [
        (
            &["--retention-wait-for", "nobody"][..],
            "there is no cursor nobody",
        ),
        (&["--record-bytes-max", "1GiB"], "up to that of the nodes"),
        (
            &["--retention-cap", "1MiB"],
            "wait_bytes_max over max_bytes",
        ),
        (&["--label", "a=1", "--label", "a=2"], "given twice"),
        (&["--remove-label", "nothing"], "has no label nothing"),
        (&["--label", "a=1", "--expected-epoch", "3"], "4"),
        (&[], "nothing is to be set"),
    ] {
        set(bad).await.expect_refusal(&[told]);
    }
    let again = cluster.json(&["log", "show", "orders"]).await;
    assert_eq!(again, shown);

    let large = cluster.file(&format!("{}\n", "x".repeat(1025)));
    let refused = cluster
        .run(&["produce", "--log", "orders", utf8(&large)])
        .await;
    refused.expect_refusal(&["1025 bytes is over the log's own limit of 1024 bytes"]);
    let free = ["--record-bytes-max", "none", "--remove-label", "tier"];
    set(&free).await.expect_success();
    cluster
        .text(&["produce", "--log", "orders", utf8(&large)])
        .await;
    let timed = ["--timestamps-required", "true"];
    set(&timed).await.expect_success();
    let refused = cluster.run(&produce).await;
    refused.expect_refusal(&["has no client timestamp"]);
    let shown = cluster.json(&["log", "show", "orders"]).await;
    assert_eq!(shown["labels"], json!({ "team": "ops" }));
    assert_eq!(shown["next_offset"], 4);
}

#[tokio::test]
async fn cursors_and_trims_are_of_one_log_and_the_environment_names_it() {
    let cluster = Cluster::start().await;
    let file = cluster.file("one\ntwo\nthree\n");
    let id = cluster.json(&["log", "create", "orders"]).await["id"].to_string();
    for log in ["orders", "default"] {
        cluster.text(&["produce", "--log", log, utf8(&file)]).await;
    }
    let follow = [
        "consume", "--cursor", "c", "--create", "--count", "2", "--log", "orders",
    ];
    assert_eq!(cluster.text(&follow).await, "one\ntwo\n");
    let list = cluster.json(&["cursor", "list", "--log", "orders"]).await;
    assert_eq!(list["cursors"][0]["offset"], 2);
    assert_eq!(
        cluster.text(&["cursor", "list"]).await,
        "there are no cursors\n"
    );
    let missing = cluster.run(&["cursor", "set", "c", "1"]).await;
    missing.expect_refusal(&["there is no cursor c"]);
    cluster
        .text(&["cursor", "--log", "orders", "set", "c", "1"])
        .await;

    let trimmed = cluster.text(&["log", "trim", "2", "--log", "orders"]).await;
    assert_eq!(trimmed, "the log begins at offset 2 now\n");
    assert_eq!(cluster.text(&["consume"]).await, "one\ntwo\nthree\n");

    // The variable names the log, a flag beats it, and nothing is the default log.
    let consume = async |name: &str, words: &[&str]| {
        let mut command = command(&cluster.node.plain(&[&["consume"], words].concat()));
        let ended = command.env("FERROLOG_LOG_NAME", name).output().await;
        String::from_utf8(ended.expect("it ends").stdout).expect("text")
    };
    assert_eq!(consume("orders", &[]).await, "three\n");
    assert_eq!(
        consume("orders", &["--log", "default"]).await,
        "one\ntwo\nthree\n"
    );
    assert_eq!(consume("", &[]).await, "one\ntwo\nthree\n");

    let Cluster { node, dir } = cluster;
    node.kill().await;
    let data = dir.path().join("n1");
    let dump = async |words: &[&str]| {
        let words = [&["log", "dump", utf8(&data)], words].concat();
        let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        run(&words).await
    };
    let values = |text: String| {
        let values = text
            .lines()
            .map(|line| line.rsplit('\t').next().unwrap_or("").to_owned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(
        values(dump(&[]).await.expect_success()),
        ["one", "two", "three"]
    );
    let orders = values(dump(&["--log-id", &id]).await.expect_success());
    assert_eq!(orders.last().map(String::as_str), Some("three"));
    dump(&["--log-id", &id, "--entries"])
        .await
        .expect_refusal(&["--entries"]);
}
