//! Settings as templates and shells leave them: variables that are set to nothing, and blanks in lists.
#![allow(clippy::disallowed_methods, reason = "an operator writes a policy")]

use crate::harness::command::{Ended, Lone, alone_args, command, run};
use crate::harness::until;

const VARIABLES: [&str; 24] = [
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
