//! Tests of `tls`: who is let in, who is refused, and what the operator reads.
#![allow(
    clippy::disallowed_methods,
    reason = "tests make their own files and dates"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::node::check_name;
use super::*;
use crate::certs::testing::{authority, node_that_only_calls, revoked, server_without_node_name};
use crate::certs::{Authority, CertPem};
use crate::net::identity::Identity;

type Dialled = Result<BoxIo, TlsError>;
type Accepted = Result<(BoxIo, Identity), TlsError>;

fn tls(authority: &Authority, pem: &CertPem) -> Tls {
    Tls::from_pem(
        authority.ca_pem().as_bytes(),
        pem.cert.as_bytes(),
        pem.key.as_bytes(),
    )
    .unwrap()
}

fn node(authority: &Authority, name: &str) -> Tls {
    tls(authority, &authority.node(name, &[]).unwrap())
}

/// One handshake over memory: what the dialling side saw, and what the serving side saw.
async fn handshake(dialer: (&Tls, Kind), server: (&Tls, Kind), addr: &str) -> (Dialled, Accepted) {
    let (near, far) = duplex(64 * 1024);
    tokio::join!(dialer.0.connect(dialer.1, addr, Box::new(near)), async {
        let accepted = server.0.accept(server.1, Box::new(far)).await;
        accepted.map(|accepted| (accepted.io, accepted.identity))
    })
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn refusal<T>(outcome: Result<T, TlsError>) -> TlsError {
    outcome.map(drop).expect_err("refused")
}

#[tokio::test]
async fn raft_streams_need_both_uses_of_a_node() {
    let authority = authority();
    let one = node(&authority, "node-1");
    let calls = tls(&authority, &node_that_only_calls(&authority, "node-2"));
    let (_, far) = handshake((&calls, Kind::Raft), (&one, Kind::Raft), "localhost:1").await;
    let error = refusal(far);
    assert!(
        matches!(&error, TlsError::Uses { node_name } if node_name == "node-2"),
        "{error:?}"
    );
    let (_, far) = handshake((&calls, Kind::Grpc), (&one, Kind::Grpc), "localhost:1").await;
    far.expect("it is good for what it is for");
}

#[tokio::test]
async fn who_serves_learns_who_dials_by_every_kind_of_address() {
    let authority = authority();
    let (one, two) = (node(&authority, "node-1"), node(&authority, "node-2"));
    let client = tls(&authority, &authority.client("root").unwrap());
    assert_eq!(
        client.identity(),
        Identity {
            common_name: Some("root".into()),
            node_name: None,
            serves_and_calls: false,
            uris: Vec::new(),
        }
    );
    let uris = ["spiffe://prod/billing", "mailto:billing@example.com"];
    let billing = authority.client_with_uris("billing", &uris).unwrap();
    let billing = tls(&authority, &billing).identity();
    assert_eq!(billing.subject(), Some("billing"));
    assert!(billing.names().eq(["billing", "spiffe://prod/billing"]));

    for (dialer, kind, addr) in [
        (&client, Kind::Grpc, "localhost:1"),
        (&two, Kind::Raft, "127.0.0.1:1"),
        (&two, Kind::Grpc, "[::1]:1"),
    ] {
        let (near, far) = handshake((dialer, kind), (&one, kind), addr).await;
        let (mut near, (mut far, dialer_seen)) = (near.unwrap(), far.unwrap());
        assert_eq!(dialer_seen, dialer.identity());

        near.write_all(b"ping").await.unwrap();
        near.flush().await.unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }
}

#[tokio::test]
async fn a_client_certificate_cannot_open_a_raft_stream() {
    let authority = authority();
    let server = node(&authority, "node-1");
    let client = tls(&authority, &authority.client("root").unwrap());

    let (_, far) = handshake((&client, Kind::Raft), (&server, Kind::Raft), "localhost:1").await;
    let error = refusal(far);
    assert!(
        matches!(&error, TlsError::NotANode { common_name: Some(name) } if name == "root"),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(
        message.contains("a client certificate, which cannot open a raft stream"),
        "{message}"
    );
    assert!(message.contains("`ferrolog certs`"), "{message}");
}

#[tokio::test]
async fn a_node_raft_dials_only_nodes() {
    let authority = authority();
    let dialer = node(&authority, "node-1");
    let stranger = tls(&authority, &server_without_node_name(&authority, "web"));

    let (near, _) = handshake(
        (&dialer, Kind::Raft),
        (&stranger, Kind::Raft),
        "localhost:1",
    )
    .await;
    let error = refusal(near);
    assert!(
        matches!(&error, TlsError::NotANode { common_name: Some(name) } if name == "web"),
        "{error:?}"
    );
    let (near, _) = handshake(
        (&dialer, Kind::Grpc),
        (&stranger, Kind::Grpc),
        "localhost:1",
    )
    .await;
    near.unwrap();
}

#[tokio::test]
async fn a_client_certificate_may_not_serve() {
    let authority = authority();
    let dialer = node(&authority, "node-1");
    let client = tls(&authority, &authority.client("root").unwrap());
    let (near, _) = handshake((&dialer, Kind::Grpc), (&client, Kind::Grpc), "localhost:1").await;
    assert!(matches!(refusal(near), TlsError::Untrusted { .. }));
}

#[tokio::test]
async fn the_protocols_of_the_two_sides_must_agree() {
    let authority = authority();
    let (one, two) = (node(&authority, "node-1"), node(&authority, "node-2"));
    for (dialled, served) in [(Kind::Grpc, Kind::Raft), (Kind::Raft, Kind::Grpc)] {
        let (near, far) = handshake((&two, dialled), (&one, served), "localhost:1").await;
        assert!(text(&refusal(near)).contains("NoApplicationProtocol"));
        refusal(far);
    }
}

#[tokio::test]
async fn a_side_that_names_no_protocol_is_refused() {
    let authority = authority();
    let server = node(&authority, "node-1");
    let silent = node(&authority, "node-2");
    {
        let mut loaded = silent.0.loaded.write();
        let loaded = Arc::get_mut(&mut loaded).unwrap();
        for dialling in [&mut loaded.grpc, &mut loaded.node.dialling] {
            Arc::get_mut(dialling).unwrap().alpn_protocols.clear();
        }
        for serving in [&mut loaded.node.grpc, &mut loaded.node.raft] {
            Arc::get_mut(serving).unwrap().alpn_protocols.clear();
        }
    }
    for kind in [Kind::Grpc, Kind::Raft] {
        let (_, far) = handshake((&silent, kind), (&server, kind), "localhost:1").await;
        assert!(matches!(refusal(far), TlsError::Protocol { got: None, .. }));
        let (near, _) = handshake((&server, kind), (&silent, kind), "localhost:1").await;
        assert!(matches!(
            refusal(near),
            TlsError::Protocol { got: None, .. }
        ));
    }
}

#[tokio::test]
async fn a_stranger_authority_is_refused_in_both_directions() {
    let (ours, theirs) = (authority(), authority());
    let (server, stranger) = (node(&ours, "node-1"), node(&theirs, "node-1"));
    let (near, far) = handshake(
        (&stranger, Kind::Raft),
        (&server, Kind::Raft),
        "localhost:1",
    )
    .await;
    assert!(matches!(refusal(near), TlsError::Untrusted { .. }));
    refusal(far);

    // The dialler trusts both authorities, so that it is the server who has to refuse.
    let both = format!("{}{}", ours.ca_pem(), theirs.ca_pem());
    let pem = theirs.node("node-2", &[]).unwrap();
    let dialer = Tls::from_pem(both.as_bytes(), pem.cert.as_bytes(), pem.key.as_bytes()).unwrap();
    let (near, far) = handshake((&dialer, Kind::Raft), (&server, Kind::Raft), "localhost:1").await;
    let message = text(&refusal(far));
    assert!(message.contains("invalid peer certificate"), "{message}");
    let mut io = near.expect("the dialling side is done first");
    io.read_u8()
        .await
        .expect_err("and hears of it at the first read");
}

#[tokio::test]
async fn a_host_the_certificate_does_not_name_is_refused() {
    let authority = authority();
    let (one, two) = (node(&authority, "node-1"), node(&authority, "node-2"));
    for addr in ["elsewhere:1", "10.0.0.1:1"] {
        let (near, _) = handshake((&two, Kind::Grpc), (&one, Kind::Grpc), addr).await;
        assert!(
            matches!(refusal(near), TlsError::Untrusted { .. }),
            "{addr}"
        );
    }
    let (near, _) = handshake((&two, Kind::Grpc), (&one, Kind::Grpc), "no host:1").await;
    assert!(matches!(refusal(near), TlsError::Address { .. }));
}

#[test]
fn a_common_name_that_would_mislead_a_reader_is_refused() {
    let of = |common_name: &str| Identity {
        common_name: Some(common_name.to_owned()),
        ..Identity::default()
    };
    assert!(check_name(&of("billing service")).is_ok());
    assert!(check_name(&Identity::default()).is_ok());
    for name in [
        "a\nerror: all is lost",
        "\u{1b}[2J",
        &"x".repeat(3 << 20),
        "",
    ] {
        let refused = check_name(&of(name)).unwrap_err();
        let message = text(&refused);
        assert!(message.len() < 1024, "{} bytes", message.len());
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn sessions_are_not_resumed() {
    let tls = node(&authority(), "node-1").now();
    for serving in [&tls.node.grpc, &tls.node.raft] {
        assert_eq!(serving.send_tls13_tickets, 0);
        assert_eq!(serving.max_early_data_size, 0);
        assert!(!serving.session_storage.can_cache());
    }
    assert!(!tls.grpc.enable_early_data && !tls.node.dialling.enable_early_data);
}

#[test]
fn a_certificate_no_peer_would_take_is_refused_at_start() {
    let (ours, theirs) = (authority(), authority());
    let pem = theirs.node("node-1", &[]).unwrap();
    let load = |ca: &Authority, cert: &str, key: &str| {
        Tls::from_pem(ca.ca_pem().as_bytes(), cert.as_bytes(), key.as_bytes())
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(
        load(&ours, &pem.cert, &pem.key),
        TlsError::OwnCertificate { .. }
    ));

    let long_ago = SystemTime::now() - Duration::from_secs(900 * 86_400);
    let old = Authority::new(long_ago).unwrap();
    let expired = old.node("node-1", &[]).unwrap();
    let message = text(&load(&old, &expired.cert, &expired.key));
    assert!(
        message.contains("since it has expired; give a certificate"),
        "{message}"
    );

    let other = theirs.node("node-2", &[]).unwrap();
    assert!(matches!(
        load(&theirs, &pem.cert, &other.key),
        TlsError::KeyPair { .. }
    ));
    assert!(matches!(
        load(&theirs, &pem.key, &pem.key),
        TlsError::NoCertificate { .. }
    ));
    assert!(matches!(
        load(&theirs, &pem.cert, &pem.cert),
        TlsError::Pem { .. }
    ));
}

#[test]
fn files_are_checked_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority();
    let pem = authority.node("node-1", &[]).unwrap();
    let path = |name: &str| dir.path().join(name);
    let files = TlsFiles {
        ca: path("ca.pem"),
        cert: path("node.pem"),
        key: path("node-key.pem"),
        crl: None,
    };
    fs::write(&files.ca, authority.ca_pem()).unwrap();
    fs::write(&files.cert, &pem.cert).unwrap();
    fs::write(&files.key, &pem.key).unwrap();
    let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
    let failure = |files: &TlsFiles| Tls::load(files).map(|_| ()).unwrap_err().to_string();

    mode(0o644);
    let message = failure(&files);
    assert!(message.contains("mode 644"), "{message}");
    assert!(
        message.contains(&format!("chmod 600 {}", files.key.display())),
        "{message}"
    );
    mode(0o660);
    assert!(
        failure(&files).contains("mode 660"),
        "a group may not change it"
    );
    // The group of a file that this process made is its own.
    mode(0o440);
    assert_eq!(
        Tls::load(&files).unwrap().identity().node_name.as_deref(),
        Some("node-1")
    );

    let missing = TlsFiles {
        cert: path("nowhere.pem"),
        ..files.clone()
    };
    let message = failure(&missing);
    assert!(
        message.contains("nowhere.pem") && message.contains("check the path"),
        "{message}"
    );
    let swapped = TlsFiles {
        ca: files.key.clone(),
        ..files.clone()
    };
    assert!(failure(&swapped).contains("node-key.pem holds no CERTIFICATE section"));
}

#[test]
fn the_host_is_taken_from_the_address() {
    for (addr, host) in [
        ("a.b:80", "a.b"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("a", "a"),
    ] {
        assert_eq!(host_of(addr), host);
    }
}

#[tokio::test]
async fn what_is_taken_up_counts_for_all_clones_and_the_next_handshake() {
    let (old, new) = (authority(), authority());
    let (ours, theirs) = (node(&old, "node-1"), node(&new, "node-2"));
    let clone = ours.clone();
    let (near, far) = handshake((&theirs, Kind::Raft), (&clone, Kind::Raft), "localhost:1").await;
    refusal(near);
    refusal(far);
    ours.take_up(&node(&new, "node-1"));
    let (near, far) = handshake((&theirs, Kind::Raft), (&clone, Kind::Raft), "localhost:1").await;
    near.unwrap();
    far.unwrap();
}

#[tokio::test]
async fn who_was_revoked_is_not_let_in_and_no_longer_trusted() {
    let authority = authority();
    let (one, other) = (
        authority.client("one").unwrap(),
        authority.client("other").unwrap(),
    );
    let pem = authority.node("node-1", &[]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let files = TlsFiles {
        ca: path("ca.pem"),
        cert: path("node.pem"),
        key: path("node-key.pem"),
        crl: Some(path("crl.pem")),
    };
    fs::write(&files.ca, authority.ca_pem()).unwrap();
    fs::write(&files.cert, &pem.cert).unwrap();
    fs::write(&files.key, &pem.key).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("crl.pem"), revoked(&authority, &one)).unwrap();
    let server = Tls::load(&files).unwrap();

    let dial = async |pem: &CertPem| {
        let client = tls(&authority, pem);
        let (_, far) = handshake((&client, Kind::Grpc), (&server, Kind::Grpc), "localhost:1").await;
        far
    };
    let refused = text(&refusal(dial(&one).await));
    assert!(refused.contains("Revoked"), "{refused}");
    dial(&other).await.unwrap();
    let chain = |pem: &CertPem| [CertificateDer::from_pem_slice(pem.cert.as_bytes()).unwrap()];
    assert!(server.trusts(&chain(&other)) && !server.trusts(&chain(&one)));
    let left = server.time_left(&chain(&other));
    assert!(left > Duration::from_hours(24 * 800), "{left:?}");
    fs::write(path("crl.pem"), "nothing").unwrap();
    let none = Tls::load(&files).map(drop).unwrap_err().to_string();
    assert!(none.contains("no X509 CRL section"), "{none}");
}

#[tokio::test]
async fn a_stream_to_a_node_ends_once_that_is_revoked() {
    let authority = authority();
    let peer = authority.node("node-2", &[]).unwrap();
    let (one, other) = (node(&authority, "node-1"), tls(&authority, &peer));
    let (near, far) = handshake((&one, Kind::Raft), (&other, Kind::Raft), "localhost:1").await;
    let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
    let ours = authority.node("node-1", &[]).unwrap();
    let with_list = |of: &CertPem| {
        let pem = |file: &str, text: &str| Pem {
            file: file.to_owned(),
            bytes: text.as_bytes().to_vec(),
        };
        let list = pem("crl", &revoked(&authority, of));
        let (cert, key) = (pem("cert", &ours.cert), pem("key", &ours.key));
        Tls::build(&pem("ca", authority.ca_pem()), &cert, &key, Some(&list)).unwrap()
    };
    let stranger = authority.node("node-3", &[]).unwrap();
    one.take_up(&with_list(&stranger));
    far.write_all(b"x").await.unwrap();
    far.flush().await.unwrap();
    assert_eq!(near.read_u8().await.unwrap(), b'x', "it is trusted still");
    let read = async {
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.map(|_| rest)
    };
    let revoke = async { one.take_up(&with_list(&peer)) };
    let both = async { tokio::join!(read, revoke) };
    let ended = tokio::time::timeout(Duration::from_secs(10), both).await;
    let (read, ()) = ended.expect("it ends");
    assert!(read.unwrap().is_empty());
}
