//! `ferrolog log verify` and `ferrolog log dump`, run on directories: what they print, how they end, and that they
//! change nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "it harms files, and compares them"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::Stage;
use crate::harness::command::{Ended, json, run};

fn frozen(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("testdata/format/v2").join(name)
}

/// A copy of a frozen directory, to be harmed.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (path, bytes) in files(&frozen(name)) {
        let name = path.file_name().expect("a name");
        fs::write(dir.path().join(name), bytes).expect("a file");
    }
    dir
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let plain = paths.filter(|path| path.is_file());
    plain
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect()
}

async fn log(words: &[&str], dir: &Path) -> Ended {
    let mut args = vec!["log".to_owned(), words[0].to_owned()];
    args.push(dir.to_str().expect("UTF-8").to_owned());
    args.extend(words[1..].iter().map(|&word| word.to_owned()));
    run(&args).await
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

#[tokio::test]
async fn frozen_directories_are_sound_and_stay_as_they_are() {
    for name in [
        "clean",
        "sealed",
        "torn-tail",
        "stale-index",
        "cut",
        "trimmed",
    ] {
        let dir = copy(name);
        let before = files(dir.path());
        let found = json(
            &log(&["verify", "--output", "json"], dir.path())
                .await
                .expect_success(),
        );
        assert_eq!(found["sound"], true, "{name}: {found}");
        assert!(
            !found["segments"].as_array().expect("a list").is_empty(),
            "{name}"
        );
        log(&["dump"], dir.path()).await.expect_success();
        log(&["dump", "--entries"], dir.path())
            .await
            .expect_success();
        assert_eq!(files(dir.path()), before, "{name}");
    }
}

#[tokio::test]
async fn damage_is_named_and_is_the_exit_code() {
    let dir = copy("sealed");
    let store = dir.path().join("00000000000000000000.store");
    let mut bytes = fs::read(&store).expect("a store");
    bytes[132] ^= 1;
    fs::write(&store, bytes).expect("written");
    let ended = log(&["verify"], dir.path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for said in [
        "damage: ",
        "00000000000000000000.store at byte ",
        "damaged: ",
        "fetches the segment",
    ] {
        assert!(ended.out.contains(said), "no {said:?} in {}", ended.out);
    }
    // The batch that was harmed is of log 1.
    for words in [&["dump", "--log-id", "1"][..], &["dump", "--entries"]] {
        let ended = log(words, dir.path()).await;
        ended.expect_refusal(&["00000000000000000000.store is corrupt", "does not check"]);
    }
    let ended = log(&["verify", "--output", "json"], dir.path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let found = json(&ended.out);
    let file = found["findings"][0]["file"].as_str().expect("a path");
    assert_eq!(Path::new(file), store);
    assert_eq!(found["findings"][0]["kind"], "Frame");
    assert_eq!(found["segments"][0]["state"], "damaged");
    assert_eq!(found["segments"][1]["state"], "sound");
}

#[tokio::test]
async fn what_is_missing_is_no_sound_log() {
    // A node that voted had a stable store.
    let dir = copy("sealed");
    fs::write(dir.path().join("vote"), [0; 128]).expect("written");
    let ended = log(&["verify"], dir.path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("stable.redb"), "{ended:?}");

    let dir = copy("sealed");
    let index = dir.path().join("00000000000000000000.index");
    let index = fs::OpenOptions::new().write(true).open(index);
    index.expect("an index").set_len(40).expect("cut");
    let ended = log(&["verify"], dir.path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("row 0 does not check"), "{ended:?}");

    let dir = copy("sealed");
    for suffix in ["store", "index", "seal"] {
        let name = format!("00000000000000000032.{suffix}");
        fs::remove_file(dir.path().join(name)).expect("removed");
    }
    let ended = log(&["verify"], dir.path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("remove this node"), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_directory_is_wrong_usage() {
    let empty = tempfile::tempdir().expect("a directory");
    for dir in [empty.path(), &empty.path().join("none")] {
        for action in ["verify", "dump"] {
            let ended = log(&[action], dir).await;
            assert_eq!(ended.code, Some(2), "{ended:?}");
        }
    }
    assert_eq!(
        run(&["log".to_owned(), "verify".to_owned()]).await.code,
        Some(2)
    );
}

/// The records of a log from the first one on that was written and not trimmed, and its offset.
async fn dumped(dir: &Path, expected: &[Value], id: &str) -> (u64, Vec<Value>) {
    let number: u64 = id.parse().expect("an id");
    let its = |record: &&Value| record["log"] == number;
    let expected: Vec<_> = expected.iter().filter(its).collect();
    let first = expected[0]["offset"].as_u64().expect("a number");
    let printed = log(&["dump", "--log-id", id, "--output", "json"], dir).await;
    let mut dumped = lines(&printed.expect_success());
    // A bare directory knows no trim, only what is gone.
    let from = dumped.iter().position(|record| record["offset"] == first);
    dumped.drain(..from.expect("the first record"));
    assert_eq!(dumped.len(), expected.len(), "log {id}");
    for (record, expected) in dumped.iter().zip(expected) {
        assert_eq!(record["offset"], expected["offset"]);
        let length = record["value"].as_str().map(|value| value.len() as u64);
        assert_eq!(length, expected["length"].as_u64(), "{record}");
    }
    (first, dumped)
}

#[tokio::test]
async fn a_dump_is_what_was_written() {
    let expected = fs::read_to_string(frozen("trimmed").join("expected.json")).expect("a file");
    let expected = json(&expected);
    let all = expected["records"].as_array().expect("a list");
    let dir = copy("trimmed");
    for id in [2, 1] {
        let id = id.to_string();
        dumped(dir.path(), all, &id).await;
    }
    let (first, dumped) = dumped(dir.path(), all, "0").await;
    let from = (first + 2).to_string();
    let part = log(
        &["dump", "--from", &from, "--count", "3", "--output", "json"],
        dir.path(),
    )
    .await;
    let part = lines(&part.expect_success());
    assert_eq!(part, dumped[2..5]);
    let gone = log(&["dump", "--from", "0"], dir.path()).await;
    gone.expect_refusal(&["offset 0 was trimmed"]);
    let past = log(&["dump", "--from", "100000"], dir.path()).await;
    past.expect_refusal(&["offset 100000 is outside"]);
    let past = log(&["dump", "--entries", "--from", "100000"], dir.path()).await;
    past.expect_refusal(&["raft index 100000 is outside"]);

    let entries = log(
        &[
            "dump",
            "--entries",
            "--from",
            "80",
            "--count",
            "2",
            "--output",
            "json",
        ],
        dir.path(),
    );
    let entries = lines(&entries.await.expect_success());
    assert_eq!(
        (&entries[0]["index"], &entries[0]["says"]),
        (&80.into(), &"blank".into())
    );
    assert_eq!((entries.len(), &entries[1]["kind"]), (2, &"records".into()));
}

#[tokio::test]
async fn a_nodes_directory_is_checked_once_the_node_is_stopped() {
    let mut stage = Stage::start().await;
    let client = stage.client();
    for number in 0..20_u8 {
        let value = vec![number; 100].into();
        client.produce(value).await.expect("appended");
    }
    let dir = stage.path().join("n1");
    let ended = log(&["verify"], &dir).await;
    ended.expect_refusal(&["a node runs on", "stop it first"]);
    stage.cluster.kill(0).await.expect("killed");
    let before = files(&dir);
    let found = json(
        &log(&["verify", "--output", "json"], &dir)
            .await
            .expect_success(),
    );
    assert_eq!(
        (&found["sound"], &found["stable"]["node"]),
        (&true.into(), &"n1".into())
    );
    let entries = log(&["dump", "--entries", "--output", "json"], &dir)
        .await
        .expect_success();
    let voters = "membership: the voters n1 at 127.0.0.1:";
    assert!(entries.contains(voters), "{entries}");
    assert!(entries.contains("1 record in 1 batch\""), "{entries}");
    assert_eq!(files(&dir), before);

    let vote = dir.join("vote");
    let mut bytes = fs::read(&vote).expect("a vote");
    bytes[2] ^= 1;
    fs::write(&vote, bytes).expect("written");
    let ended = log(&["verify", "--output", "json"], &dir).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(json(&ended.out)["findings"][0]["kind"], "VoteCopy");

    let stable = dir.join("stable.redb");
    let bytes = fs::read(&stable).expect("a stable store");
    fs::write(&stable, &bytes[..bytes.len() / 2]).expect("written");
    let ended = log(&["verify", "--output", "json"], &dir).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let found = json(&ended.out);
    assert_eq!(found["findings"][0]["kind"], "Stable", "{found}");
}
