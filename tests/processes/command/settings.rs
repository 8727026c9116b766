//! Settings as templates and shells leave them: variables that are set to nothing, and blanks in lists.
#![allow(clippy::disallowed_methods, reason = "an operator writes a policy")]

use std::path::Path;

use crate::harness::command::{Ended, Lone, alone_args, command, run};
use crate::harness::until;

const VARIABLES: [&str; 25] = [
    "CONFIG",
    "NAME",
    "DATA_DIR",
    "LISTEN",
    "ADVERTISE",
    "BOOTSTRAP",
    "JOIN",
    "TLS_CA",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CRL",
    "INSECURE",
    "ACL",
    "CONNECTIONS_MAX",
    "CONNECTION_AGE_MAX_SECONDS",
    "RECORD_BYTES_MAX",
    "SEGMENT_BYTES_MAX",
    "DISK_RESERVE_BYTES",
    "SCRUB_BYTES_PER_SECOND",
    "REWRITE_DEAD_PERCENT",
    "HEARTBEAT_MS",
    "CLOCK_BOUND_MS",
    "SERVERS",
    "LOG",
    "SOMETHING_ELSE",
];

async fn ended(mut command: tokio::process::Command) -> Ended {
    let ended = command.output().await.expect("the binary");
    Ended {
        code: ended.status.code(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_is_not_set() {
    let dir = tempfile::tempdir().expect("a directory");
    // A node, first: each of them would be wrong, or stand before a setting of its own.
    let mut serve = command(&alone_args(dir.path()));
    for name in VARIABLES {
        serve.env(format!("FERROLOG_{name}"), " ");
    }
    let node = Lone::begin(serve).await;
    let status = node.plain(&["cluster", "status", "--output", "json"]);
    until("it is a cluster", async || {
        (run(&status).await.code == Some(0)).then_some(())
    })
    .await;

    // A client by its variables alone.
    let mut client = command(&["cluster", "status"].map(str::to_owned));
    client.env("FERROLOG_SERVERS", format!(" , {} ,", node.addr));
    client.env("FERROLOG_INSECURE", "1");
    for name in ["TLS_CA", "TLS_CERT", "TLS_KEY"] {
        client.env(format!("FERROLOG_{name}"), "");
    }
    ended(client).await.expect_success();
    let mut client = command(&["cluster", "status"].map(str::to_owned));
    client.env("FERROLOG_SERVERS", &node.addr);
    client.env("FERROLOG_INSECURE", "");
    let refused = ended(client).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    refused.expect_refusal(&["how to speak to the nodes is not said"]);
}

/// What is logged is a word that means something, is there as JSON, and changes while the node runs.
#[tokio::test]
async fn the_level_of_the_log_is_checked_and_changes_while_the_node_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let refused = |text: &'static str| async move {
        let mut wrong = command(&["version"].map(str::to_owned));
        wrong.env("FERROLOG_LOG_LEVEL", text);
        let ended = ended(wrong).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        ended.expect_refusal(&["FERROLOG_LOG_LEVEL", "write off, error, warn"]);
    };
    refused("loud").await;
    refused("info,ferrolog::raft").await;
    let (file, data) = (dir.path().join("n1.toml"), dir.path().join("n1"));
    let path = file.to_str().expect("UTF-8").to_owned();
    let args = [alone_args(&data), vec!["--config".to_owned(), path]].concat();
    std::fs::write(&file, "log_level = 'loud'").expect("settings");
    let wrong = run(&args).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    wrong.expect_refusal(&["\"loud\" is no level"]);

    std::fs::write(&file, "log_level = 'warn'\nlog_format = 'json'").expect("settings");
    let mut node = Lone::start(&args).await;
    let status = node.plain(&["cluster", "status", "--output", "json"]);
    until("it leads", async || {
        (run(&status).await.code == Some(0)).then_some(())
    })
    .await;
    std::fs::write(&file, "log_level = 'ferrolog=debug'\nlog_format = 'json'").expect("settings");
    let pid = rustix::process::Pid::from_raw(node.pid().cast_signed()).expect("a process id");
    let tell = |signal| rustix::process::kill_process(pid, signal).expect("a signal");
    tell(rustix::process::Signal::HUP);
    // What a file says that cannot be read changes nothing, and is told.
    until("the change is told", async || {
        node.logged().contains("logs another level").then_some(())
    })
    .await;
    std::fs::write(&file, "log_level = 'lou").expect("settings");
    tell(rustix::process::Signal::HUP);
    until("the fault is told", async || {
        node.logged()
            .contains("the settings stay as they were")
            .then_some(())
    })
    .await;
    tell(rustix::process::Signal::TERM);
    let log = node.end().await;
    assert_eq!(log.code, Some(0), "{log:?}");
    let lines = log.err.lines().map(serde_json::from_str);
    let lines: Vec<serde_json::Value> = lines.collect::<Result<_, _>>().expect("JSON");
    let level = |line: &serde_json::Value| line["level"].as_str().unwrap_or_default().to_owned();
    let changed = lines.iter().position(|line| line["is"] == "ferrolog=debug");
    let (before, after) = lines.split_at(changed.expect("the change is told"));
    assert!(
        before.iter().all(|line| level(line) == "WARN"),
        "{before:?}"
    );
    let said = |what: &str| after.iter().any(|line| line["message"] == what);
    assert!(said("stopping"), "{after:?}");
    // The one that was made on purpose; a stop is no failure.
    let errors: Vec<_> = after.iter().filter(|line| level(line) == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
}

/// A policy is checked before it is put in place, and what it allows is told with the line.
#[tokio::test]
async fn a_policy_tells_which_line_decides() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("acl.csv");
    let text = "# rights\np, billing, orders/*, consume\np, ops, *, admin\n";
    std::fs::write(&file, text).expect("a policy");
    let path = file.to_str().expect("UTF-8");
    let check = async |words: &[&str]| {
        let words = [&["policy", "check", path], words].concat();
        let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        run(&words).await
    };
    assert!(check(&[]).await.expect_success().contains("2 rules"));
    let may = ["--subject", "billing", "--action", "consume", "--log"];
    let told = check(&[&may[..], &["orders/eu"]].concat()).await;
    let allowed = told.expect_success();
    assert!(
        allowed.contains("line 2: p, billing, orders/*, consume"),
        "{allowed}"
    );
    let denied = check(&[&may[..], &["other"]].concat()).await;
    assert_eq!(denied.code, Some(1));
    assert!(
        denied.out.contains("no line allows billing to consume"),
        "{}",
        denied.out
    );
    let ops = ["--subject", "ops", "--action", "admin"];
    assert!(check(&ops).await.expect_success().contains("line 3"));
    std::fs::write(&file, "p, billing\n").expect("a policy");
    check(&[]).await.expect_refusal(&["acl.csv", "line 1"]);
}

/// Where each setting comes from, by the words of the command itself, its variables and a file.
#[tokio::test]
async fn each_setting_is_shown_with_where_it_comes_from() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("n1.toml");
    let text = "name = 'file'\nlisten = '127.0.0.1:0'\ninsecure = true\nbootstrap = true\nheartbeat_ms = 1000\n\
                log_level = 'warn'\nlog_format = 'json'\nclock_bound_ms = 2000\njoin_token = 'very-secret'\n";
    std::fs::write(&file, text).expect("a file of settings");
    let path = file.to_str().expect("UTF-8");
    let data = dir.path().join("data");
    let words = [
        "config", "show", "--origin", "--config", path, "--output", "json",
    ];
    let flags = [
        "--data-dir",
        data.to_str().expect("UTF-8"),
        "--clock-bound-ms",
        "3s",
    ];
    let words: Vec<_> = [&words[..], &flags]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut show = command(&words);
    show.env("FERROLOG_NAME", "variable")
        .env("FERROLOG_CLOCK_BOUND_MS", "4s")
        .env("FERROLOG_LOG_LEVEL", "debug");
    let shown = ended(show).await;
    let shown = shown.expect_success();
    assert!(!shown.contains("very-secret"), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let setting = |key: &str| {
        let all = shown["settings"].as_array().expect("a list");
        let found = all.iter().find(|setting| setting["key"] == key);
        let found = found.unwrap_or_else(|| panic!("no {key} in {shown}"));
        [&found["value"], &found["origin"], &found["from"]]
            .map(|part| part.as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(setting("name"), ["variable", "variable", "FERROLOG_NAME"]);
    assert_eq!(
        setting("clock_bound_ms"),
        ["3s", "flag", "--clock-bound-ms"]
    );
    assert_eq!(setting("heartbeat_ms"), ["1s", "file", path]);
    assert_eq!(setting("segment_bytes_max"), ["64MiB", "default", "-"]);
    assert_eq!(setting("acl"), ["-", "default", "-"]);
    let level = ["debug", "variable", "FERROLOG_LOG_LEVEL"];
    assert_eq!(setting("log_level"), level);
    assert_eq!(setting("log_format"), ["json", "file", path]);
}

/// A node that has a file of settings, and the file's path.
async fn with_settings(dir: &Path, text: &str) -> (Lone, String) {
    let file = dir.join("n1.toml");
    std::fs::write(&file, text).expect("a file of settings");
    let path = file.to_str().expect("UTF-8").to_owned();
    let args = [alone_args(dir), vec!["--config".to_owned(), path.clone()]];
    (Lone::start(&args.concat()).await, path)
}

/// What a node takes up from its file while it runs, and what it says of the rest.
#[tokio::test]
async fn settings_change_while_the_node_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (node, path) = with_settings(dir.path(), "logs_max = 2\n").await;
    let write = |text: &str| std::fs::write(&path, text).expect("a file of settings");
    let create = async |name: &str| run(&node.plain(&["log", "create", name])).await;
    until("it leads", async || {
        (create("one").await.code == Some(0)).then_some(())
    })
    .await;
    create("two").await.expect_refusal(&["2"]);
    // By itself, once the file has changed; a file that is wrong changes nothing.
    write("logs_max = 3\nheartbeat_ms = 70\n");
    until("it is taken up", async || {
        (create("two").await.code == Some(0)).then_some(())
    })
    .await;
    create("three").await.expect_refusal(&["3"]);
    write("logs_max = 4\nlogs_mox = 5\nheartbeat_ms = 70\n");
    let check = ["config", "check", "--config", &path].map(str::to_owned);
    let wrong = run(&check).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(
        wrong.out.contains("line 2") && wrong.out.contains("\"logs_max\" meant"),
        "{}",
        wrong.out
    );
    let pid = rustix::process::Pid::from_raw(node.pid().try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("a signal");
    create("three").await.expect_refusal(&["3"]);
    write("logs_max = 4\nheartbeat_ms = 70\n");
    until("it is taken up", async || {
        (create("three").await.code == Some(0)).then_some(())
    })
    .await;
    let told = node.kill().await;
    assert!(
        told.contains("logs_max = 3") && told.contains("logs_max = 4"),
        "{told}"
    );
    let waiting = told.matches("each needs a restart").count();
    assert_eq!(waiting, 1, "{told}");
    assert!(
        told.contains("heartbeat_ms") && told.contains("stay as they were"),
        "{told}"
    );
}

#[tokio::test]
async fn the_reserve_and_what_is_slow_change_while_the_node_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut node, path) = with_settings(dir.path(), "slow_call_ms = 0\n").await;
    let write = |text: &str| std::fs::write(&path, text).expect("a file of settings");
    let records = dir.path().join("records");
    std::fs::write(&records, "one\n").expect("a file of records");
    let records = records.to_str().expect("UTF-8");
    let mut produce = node.plain(&["produce", records]);
    "2".clone_into(produce.last_mut().expect("the time that it may take"));
    let produced = async || run(&produce).await;
    until("it leads", async || {
        (produced().await.code == Some(0)).then_some(())
    })
    .await;
    // More than any disk has.
    write("slow_call_ms = 0\ndisk_reserve_bytes = \"1000TiB\"\n");
    let refused = until("records are refused", async || {
        let ended = produced().await;
        (ended.code != Some(0)).then_some(ended)
    })
    .await;
    refused.expect_refusal(&["full"]);
    write("slow_call_ms = 1\n");
    let told = node.logged();
    assert!(
        told.contains("1000TiB") && !told.contains("a slow"),
        "{told}"
    );
    until("records are taken, and slow ones told", async || {
        let is_taken = produced().await.code == Some(0);
        (is_taken && node.logged().contains("a slow write")).then_some(())
    })
    .await;
    // What follows from the size of segments waits for the restart that this waits for.
    write("slow_call_ms = 1\nsegment_bytes_max = \"1MiB\"\n");
    until("it is told", async || {
        node.logged().contains("segment_bytes_max").then_some(())
    })
    .await;
    let told = node.logged();
    assert_eq!(told.matches("disk_reserve_bytes = ").count(), 2, "{told}");
}
