//! `ferrolog produce` to many logs out of one pipe, and `ferrolog consume` of many as one.
#![allow(clippy::disallowed_methods, reason = "it makes the files to append")]

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::command::{Ended, Lone, alone_args, run};

/// A node alone with some logs, and files beside it.
struct Cluster {
    node: Lone,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(logs: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let node = Lone::start(&alone_args(&dir.path().join("n1"))).await;
        let cluster = Self { node, dir };
        for log in logs {
            cluster.text(&["log", "create", log]).await;
        }
        cluster
    }

    async fn run(&self, words: &[&str]) -> Ended {
        run(&self.node.plain(words)).await
    }

    async fn text(&self, words: &[&str]) -> String {
        self.run(words).await.expect_success()
    }

    /// A line of JSON each.
    async fn lines(&self, words: &[&str]) -> Vec<Value> {
        let out = self.text(&[words, &["--output", "json"]].concat()).await;
        let parsed = out.lines().map(serde_json::from_str);
        parsed.collect::<Result<_, _>>().expect("JSON")
    }

    async fn produce(&self, input: impl AsRef<[u8]>, words: &[&str]) -> Ended {
        let path: PathBuf = self.dir.path().join("input");
        std::fs::write(&path, input).expect("a file");
        let file = path.to_str().expect("UTF-8");
        self.run(&[&["produce", file], words].concat()).await
    }
}

#[tokio::test]
async fn one_pipe_feeds_many_logs_and_a_prefix_reads_them_as_one() {
    let cluster = Cluster::start(&["orders/eu", "orders/us", "other"]).await;
    let input = "orders/eu\tone\norders/us\ttwo\nother\tthree\norders/eu\tfour\tlemons\n";
    let told = cluster
        .produce(input, &["--log-delimiter", "\\t", "--output", "json"])
        .await;
    let told: Value = serde_json::from_str(&told.expect_success()).expect("JSON");
    let of = |log: &str, records: u64| json!({ "log": log, "records": records, "first_offset": 0, "last_offset": records - 1 });
    let logs = json!([of("orders/eu", 2), of("orders/us", 1), of("other", 1)]);
    assert_eq!((&told["records"], &told["logs"]), (&json!(4), &logs));

    // Each log has its own, in order; in which order the logs' batches were committed the positions say.
    let eu = cluster.text(&["consume", "--log", "orders/eu"]).await;
    assert_eq!(eu, "one\nfour\tlemons\n");
    let text = cluster.text(&["consume", "--prefix", "orders/"]).await;
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let expected = [
        "orders/eu\tfour\tlemons",
        "orders/eu\tone",
        "orders/us\ttwo",
    ];
    assert_eq!(lines, expected);
    let shown = cluster
        .text(&[
            "consume",
            "--log",
            "other",
            "--log",
            "orders/us",
            "--log-delimiter",
            ": ",
        ])
        .await;
    let mut shown: Vec<_> = shown.lines().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["orders/us: two", "other: three"]);

    let all = cluster.lines(&["consume", "--prefix", ""]).await;
    let positions: Vec<_> = all
        .iter()
        .map(|line| line["position"].as_u64().unwrap())
        .collect();
    assert!(positions.is_sorted(), "{positions:?}");
    for (place, line) in all.iter().enumerate() {
        let next = format!("position:{}", positions[place] + 1);
        let rest = cluster
            .lines(&["consume", "--prefix", "", "--from", &next])
            .await;
        assert_eq!(rest, all[place + 1..], "behind {line}");
    }
    let latest = cluster
        .text(&["consume", "--prefix", "", "--from", "latest"])
        .await;
    assert_eq!(latest, "");
    let one = cluster.lines(&["consume", "--log", "other"]).await;
    assert_eq!(
        (&one[0]["log"], &one[0]["offset"]),
        (&json!("other"), &json!(0))
    );
    assert_eq!(
        one[0].get("position"),
        None,
        "offsets alone are told of one log"
    );
}

#[tokio::test]
async fn a_watch_shows_what_there_is_and_goes_on_where_it_ended() {
    let cluster = Cluster::start(&["orders/1", "other"]).await;
    let text = cluster
        .text(&["log", "watch", "--prefix", "orders/", "--count", "1"])
        .await;
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("existing", "orders/1"), "{text}");
    let there = cluster.lines(&["log", "watch", "--count", "4"]).await;
    let told = |lines: &[Value]| -> Vec<String> {
        let line = |line: &Value| {
            let name = line["log"]["name"].as_str().unwrap_or_default();
            format!("{} {name}", line["change"].as_str().expect("a word"))
        };
        lines.iter().map(line).collect()
    };
    let all = [
        "existing default",
        "existing orders/1",
        "existing other",
        "current ",
    ];
    assert_eq!(told(&there), all);
    let listed = there[..3].iter().all(|line| line["position"].is_null());
    assert!(listed, "there is none while they are told: {there:?}");
    let since = there[3]["position"].to_string();

    cluster.text(&["log", "create", "orders/2"]).await;
    cluster.text(&["log", "delete", "orders/1"]).await;
    let follow = ["log", "watch", "--since", &since, "--count", "2"];
    let changes = cluster.lines(&follow).await;
    assert_eq!(told(&changes), ["created orders/2", "deleted orders/1"]);
    let since = changes[0]["position"].to_string();
    let rest = ["log", "watch", "--since", &since, "--count", "1"];
    assert_eq!(cluster.lines(&rest).await, changes[1..]);
    let ahead = cluster.run(&["log", "watch", "--since", "99999"]).await;
    ahead.expect_refusal(&["99999", "give a position that an answer told"]);
}

#[tokio::test]
async fn a_cursor_of_several_logs_goes_on_where_it_was() {
    let cluster = Cluster::start(&["a/1", "a/2", "b"]).await;
    let input = "a/1:1\nb:x\na/2:2\na/1:3\na/2:4\n";
    let told = cluster.produce(input, &["--log-delimiter", ":"]).await;
    told.expect_success();
    let all = cluster.text(&["consume", "--prefix", "a/"]).await;
    let read = ["consume", "--prefix", "a/", "--cursor", "reader"];
    let none = cluster.run(&read).await;
    none.expect_refusal(&["there is no cursor reader", "--create"]);
    let mut parts = cluster
        .text(&[&read[..], &["--create", "--count", "1"]].concat())
        .await;
    parts += &cluster.text(&[&read[..], &["--count", "2"]].concat()).await;
    parts += &cluster.text(&read).await;
    assert_eq!(parts, all);
    assert_eq!(cluster.text(&read).await, "");
    let listed = cluster
        .text(&["cursor", "list", "--of-selections", "--output", "json"])
        .await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["cursors"][0]["name"], "reader");
    assert_eq!(
        cluster.text(&["cursor", "list"]).await,
        "there are no cursors\n"
    );
    cluster
        .text(&["cursor", "set", "reader", "0", "--of-selections"])
        .await;
    assert_eq!(cluster.text(&read).await, all);
    let gone = cluster
        .text(&["cursor", "delete", "reader", "--of-selections"])
        .await;
    assert_eq!(gone, "reader is deleted\n");
}

#[tokio::test]
async fn places_in_one_log_are_none_among_several() {
    let cluster = Cluster::start(&["a"]).await;
    for (words, said) in [
        (&["--prefix", "a", "--from", "3"][..], "position:N"),
        (
            &["--log", "a", "--log", "default", "--from", "tail:3"],
            "position:N",
        ),
        (&["--prefix", "a", "--consistency", "at-least:3"], "strong"),
        (&["--log", "a", "--from", "position:3"], "several --log"),
        (&["--prefix", "a", "--log", "a"], "cannot be used with"),
    ] {
        let ended = cluster.run(&[&["consume"], words].concat()).await;
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.err);
        assert!(ended.err.contains(said), "{words:?}: {}", ended.err);
    }
    let twice = cluster.run(&["consume", "--log", "a", "--log", "a"]).await;
    twice.expect_refusal(&["names the log \"a\" twice"]);
    let none = cluster.run(&["consume", "--log", "a", "--log", "b"]).await;
    none.expect_refusal(&["there is no log \"b\"", "ferrolog log list"]);
    let past = cluster
        .run(&["consume", "--prefix", "", "--from", "position:9"])
        .await;
    past.expect_refusal(&["9", "past the end"]);
}

#[tokio::test]
async fn what_was_consumed_is_produced_again_byte_for_byte() {
    let cluster = Cluster::start(&["src/1", "src/2", "copy/1", "copy/2", "one"]).await;
    let lines = [
        json!({ "log": "src/1", "value": "plain \u{0}\u{1b}\n\"\u{2028}\u{1f34b}" }),
        json!({ "log": "src/2", "value_base64": "//4AgA==", "key": "", "client_timestamp_ms": u64::MAX }),
        json!({ "log": "src/1", "value": "", "key_base64": "wyg=", "headers": [
            { "name": "", "value": "" }, { "name": "n", "value_base64": "gA==" }, { "name": "n", "value": "v" },
        ]}),
        json!({ "log": "src/2", "value": "1", "offset": 99, "position": 7, "append_timestamp_ms": 5 }),
    ];
    let input =
        |lines: &[Value]| -> String { lines.iter().map(|line| format!("{line}\n")).collect() };
    let told = cluster.produce(input(&lines), &["--input", "json"]).await;
    told.expect_success();

    let read = async |prefix: &str| {
        let mut lines = cluster.lines(&["consume", "--prefix", prefix]).await;
        for line in &mut lines {
            let line = line.as_object_mut().expect("an object");
            for given in ["position", "append_timestamp_ms"] {
                line.remove(given).unwrap_or_else(|| panic!("no {given}"));
            }
        }
        // The order between logs is the order in which their batches closed.
        lines.sort_by_key(|line| (line["log"].to_string(), line["offset"].as_u64()));
        lines
    };
    let mut renamed = cluster.lines(&["consume", "--prefix", "src/"]).await;
    assert_eq!(renamed.len(), lines.len());
    for line in &mut renamed {
        let log = line["log"]
            .as_str()
            .expect("a name")
            .replace("src/", "copy/");
        line["log"] = log.into();
    }
    let told = cluster.produce(input(&renamed), &["--input", "json"]).await;
    told.expect_success();
    let (mut was, is) = (read("src/").await, read("copy/").await);
    for line in &mut was {
        line["log"] = line["log"]
            .as_str()
            .expect("a name")
            .replace("src/", "copy/")
            .into();
    }
    assert_eq!(is, was);
    let binary = is.iter().find(|line| line.get("value_base64").is_some());
    assert_eq!(
        binary.expect("the binary one")["client_timestamp_ms"],
        u64::MAX
    );

    // --log is for all lines, whatever log they name.
    let told = cluster
        .produce(input(&renamed), &["--input", "json", "--log", "one"])
        .await;
    told.expect_success();
    let one = cluster.lines(&["consume", "--log", "one"]).await;
    let fields = |line: &Value| {
        ["value", "value_base64", "key", "key_base64", "headers"].map(|key| line[key].clone())
    };
    let (one, was): (Vec<_>, Vec<_>) = (
        one.iter().map(fields).collect(),
        renamed.iter().map(fields).collect(),
    );
    assert_eq!(one, was);
}

#[tokio::test]
async fn a_line_without_a_log_ends_it_and_the_rest_is_told() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let delimiter = &["--log-delimiter", ":"][..];
    let json = &["--input", "json"][..];
    let cases = [
        ("a:1\nb:2\nnothing\na:4\n", delimiter, "line 3 has no log"),
        ("a:1\nb:2\n b:3\na:4\n", delimiter, "line 3 names no log"),
        (
            "a:1\nb:2\nmissing:3\na:4\n",
            delimiter,
            "line 3, which is for the log \"missing\": there is no log",
        ),
        (
            "{\"log\":\"a\",\"value\":\"1\"}\n{\"log\":\"b\",\"value\":\"2\"}\n{\"value\":\"3\",\"lgo\":\"a\"}\n",
            json,
            "line 3 is no record: it is not the JSON of a record: unknown field `lgo`",
        ),
    ];
    for (round, (input, words, said)) in cases.into_iter().enumerate() {
        let ended = cluster
            .produce(input, &[words, &["--output", "json"]].concat())
            .await;
        assert_eq!(ended.code, Some(1), "{said}: {}", ended.err);
        let told: Value = serde_json::from_str(ended.err.trim()).expect("JSON");
        let error = told["error"].as_str().expect("a text");
        assert!(error.contains(said), "{error}");
        assert!(
            error.starts_with("only 2 records were acknowledged, the first ones of each of 2 logs"),
            "{error}"
        );
        assert_eq!(
            (&told["acknowledged"], &told["in_doubt"]),
            (&json!(2), &json!(0))
        );
        let of = |log: &str| json!({ "log": log, "records": 1, "first_offset": round, "last_offset": round });
        assert_eq!(told["logs"], json!([of("a"), of("b")]));
    }
    for log in ["a", "b"] {
        let kept = cluster.text(&["consume", "--log", log]).await;
        assert_eq!(
            kept.lines().count(),
            4,
            "nothing behind the wrong lines was appended: {kept}"
        );
    }
    for words in [["--log", "a"], ["--key-delimiter", ":"]] {
        let input = &[&["--log-delimiter", ":"][..], &words].concat();
        let json = &[&["--input", "json"][..], &words].concat();
        let ended = [
            cluster.produce("a:b:c", input).await,
            cluster.produce("{}", json).await,
        ];
        let refused = ended.iter().filter(|ended| ended.code == Some(2)).count();
        assert_eq!(refused, 1, "{words:?} clashes with one of them");
    }
}
