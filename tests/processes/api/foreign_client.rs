//! The service as a client of another gRPC stack sees it: Python's grpcio, with stubs made from `proto/`.
//!
//! It needs python3 with venv, and a package index for the first run. Where they are missing it fails; only
//! `FERROLOG_SKIP_FOREIGN=1` skips it. The steps themselves stand in `foreign_client.py`
//! and, for `ferrolog.v1`, in `foreign_native.py`.
#![allow(
    clippy::disallowed_methods,
    reason = "it writes files and starts processes"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferrolog::cli::local_cluster::{LocalCluster, LocalClusterOptions};

/// The versions are pinned, so that a release of a package fails no test here.
const PACKAGES: &str = "\
grpcio==1.85.1
grpcio-tools==1.85.1
grpcio-health-checking==1.85.1
grpcio-reflection==1.85.1
googleapis-common-protos==1.76.0
protobuf==7.36.2
h2==4.4.1
hpack==4.2.0
hyperframe==6.1.0
";
const IMPORTS: &str =
    "import grpc, grpc_tools, grpc_health, grpc_reflection, google.rpc.status_pb2, h2";
const SKIP: &str = "FERROLOG_SKIP_FOREIGN";
const WAY_OUT: &str = "this test needs python3 with venv (Debian: apt-get install python3-venv) and, once, \
                       a package index; FERROLOG_SKIP_FOREIGN=1 skips it";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end. If it fails, panics with what it printed.
fn run(command: &mut Command, hint: &str) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}\n{hint}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}\n{hint}",
        output.status
    );
    out
}

/// A Python that has `PACKAGES`, kept between runs.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-client-venv");
    let python = venv.join("bin/python");
    let installed = venv.join("ferrolog-packages.txt");
    let imports = || {
        Command::new(&python)
            .args(["-c", IMPORTS])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if fs::read_to_string(&installed).is_ok_and(|list| list == PACKAGES) && imports() {
        return python;
    }
    run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
        WAY_OUT,
    );
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ];
    run(
        Command::new(&python).args(pip).args(PACKAGES.lines()),
        WAY_OUT,
    );
    // Written last, so that a broken install is done again.
    fs::write(&installed, PACKAGES).expect("write the list of packages");
    python
}

fn make_stubs(python: &Path, dir: &Path) {
    fs::create_dir_all(dir).expect("make the folder for stubs");
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let mut protoc = Command::new(python);
    protoc
        .args(["-m", "grpc_tools.protoc"])
        .arg(option("proto_path", &root().join("proto")));
    protoc
        .arg(option("python_out", dir))
        .arg(option("grpc_python_out", dir));
    run(
        protoc.args([
            "log/v1/log.proto",
            "ferrolog/v1/cluster.proto",
            "ferrolog/v1/log.proto",
        ]),
        "the protos must suit other compilers too",
    );
}

#[test]
fn a_client_of_another_stack_finds_the_whole_service() {
    if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: {SKIP}=1");
        return;
    }
    let python = python();
    // Cleared before a run and not after it, so that a failed one leaves its logs.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-client");
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("clear the last run");
    }
    let at = |name: &str| dir.join(name);
    make_stubs(&python, &at("stubs"));
    let binary = env!("CARGO_BIN_EXE_ferrolog");
    let mut certs = Command::new(binary);
    certs.args(["certs", "--nodes", "n9", "--clients", "stranger", "--out"]);
    run(certs.arg(at("stranger")), "the keys of another authority");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = LocalClusterOptions::new(binary, at("cluster"));
    let cluster = runtime
        .block_on(LocalCluster::start(options))
        .expect("start a cluster");
    let mut client = Command::new(&python);
    client.arg(root().join("tests/processes/api/foreign_client.py"));
    client
        .args([at("cluster/certs"), at("stranger"), at("stubs")])
        .arg(cluster.addrs().join(","));
    let logs = format!("logs of the nodes: {}/*.log", at("cluster").display());
    print!("{}", run(&mut client, &logs));
    runtime.block_on(cluster.stop()).expect("stop the cluster");
}
