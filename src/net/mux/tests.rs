//! Tests of `mux`: who gets through the gate, and that nobody holds it shut.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::certs::testing::authority;
use crate::certs::{Authority, CertPem};
use crate::net::Kind;
use crate::net::Network;
use crate::net::memory::MemoryNetwork;
use crate::net::tls::Tls;

const ADDR: &str = "localhost:1";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Port {
    network: MemoryNetwork,
    mux: Mux,
    grpc: Incoming,
    raft: Incoming,
}

impl Port {
    async fn open(security: Security, limits: MuxLimits) -> Self {
        let network = MemoryNetwork::new();
        let listener = network.listen(ADDR).await.unwrap();
        let (mux, grpc, raft) = Mux::start(listener, security, limits);
        Self {
            network,
            mux,
            grpc,
            raft,
        }
    }

    /// Sends what a peer or a client without TLS sends that does nothing wrong.
    async fn dial_well(&self, first: &[u8]) -> BoxIo {
        self.dial(&[first, PREFACE].concat()).await
    }

    async fn dial(&self, bytes: &[u8]) -> BoxIo {
        let mut io = self.network.dial(ADDR).await.unwrap();
        io.write_all(bytes).await.unwrap();
        io
    }

    fn is_idle(&mut self) -> bool {
        self.grpc.next().now_or_never().is_none() && self.raft.next().now_or_never().is_none()
    }
}

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

async fn take(incoming: &mut Incoming) -> MuxStream {
    let next = tokio::time::timeout(Duration::from_secs(30), incoming.next()).await;
    next.expect("a stream comes").unwrap().unwrap()
}

/// Waits until the port has closed `io`; it may send a TLS alert first, or say why. Gives what it sent.
async fn closed(mut io: BoxIo) -> String {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), io.read_to_end(&mut rest)).await;
    let _reset_or_end = ended.expect("the port closes the stream");
    let is_alert = rest.first().is_none_or(|byte| *byte == 0x15);
    // The end with its reason, perhaps behind a frame of settings; or a plain refusal.
    let behind = rest.strip_prefix(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let is_end = behind.unwrap_or(&rest).get(3) == Some(&7);
    let is_farewell = is_end || rest.starts_with(b"HTTP/1.1 400 ");
    assert!(is_alert || is_farewell, "what else did it say: {rest:?}");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_port_says_which_it_speaks_to_who_speaks_the_other() {
    let plain = Port::open(Security::Insecure, MuxLimits::default()).await;
    let told = closed(plain.dial(&[0x16, 3, 1]).await).await;
    assert!(told.contains("this node speaks plaintext"), "{told:?}");
    let authority = authority();
    let secure = Security::Mutual(node(&authority, "n1"));
    let secure = Port::open(secure, MuxLimits::default()).await;
    let told = closed(secure.dial(PREFACE).await).await;
    assert!(told.contains("this node speaks TLS"), "{told:?}");
    let told = closed(secure.dial(b"GET / HTTP/1.1\r\n\r\n").await).await;
    let is_plain = told.starts_with("HTTP/1.1 400 ") && told.contains("this node speaks TLS");
    assert!(is_plain, "{told:?}");
}

/// I6.
#[tokio::test(start_paused = true)]
async fn plain_streams_are_told_apart_by_their_first_byte() {
    let mut port = Port::open(Security::Insecure, MuxLimits::default()).await;

    let _near = port.dial_well(&[RAFT_RPC]).await;
    let mut raft = take(&mut port.raft).await;
    assert_eq!(
        raft.read_u8().await.unwrap(),
        b'P',
        "the raft byte is consumed"
    );
    assert_eq!(
        (raft.info().identity.clone(), raft.info().tls),
        (None, false)
    );

    let _near = port.dial_well(&[]).await;
    let mut grpc = take(&mut port.grpc).await;
    let mut preface = [0; 3];
    grpc.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI", "the byte of HTTP/2 is put back");

    // TLS to a node without certificates.
    let hello = port.dial(&[0x16, 3, 1]).await;
    closed(hello).await;
    for junk in [&b"FETCH"[..], b"PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        closed(port.dial(junk).await).await;
    }
    assert!(port.is_idle());
}

#[tokio::test]
async fn secure_streams_are_told_apart_and_identified() {
    let authority = authority();
    let mut port = Port::open(
        Security::Mutual(node(&authority, "node-1")),
        MuxLimits::default(),
    )
    .await;
    let peer = node(&authority, "node-2");

    for kind in [Kind::Grpc, Kind::Raft] {
        let first: &[u8] = if kind == Kind::Raft { &[RAFT_RPC] } else { &[] };
        let io = port.dial(first).await;
        let mut near = peer.connect(kind, ADDR, io).await.unwrap();
        near.write_all(PREFACE).await.unwrap();
        near.flush().await.unwrap();
        let incoming = if kind == Kind::Raft {
            &mut port.raft
        } else {
            &mut port.grpc
        };
        let mut far = take(incoming).await;
        let mut preface = [0; PREFACE.len()];
        far.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        assert_eq!(far.info().identity.as_deref(), Some(&peer.identity()));
        assert!(far.info().tls);
    }
}

#[tokio::test]
async fn a_secure_port_closes_what_is_not_proven() {
    let authority = authority();
    let mut port = Port::open(
        Security::Mutual(node(&authority, "node-1")),
        MuxLimits::default(),
    )
    .await;

    for bytes in [
        &b"PRI * HTTP/2.0"[..],
        &[0xff],
        &[RAFT_RPC, b'P', 0, 0, 0, 0, 0],
    ] {
        closed(port.dial(bytes).await).await;
    }

    let client = tls(&authority, &authority.client("root").unwrap());
    let io = port.dial(&[RAFT_RPC]).await;
    let mut near = client.connect(Kind::Raft, ADDR, io).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(30), near.read_u8()).await;
    refused
        .expect("the port closes the stream")
        .expect_err("a client certificate on a raft stream");

    // An h2 handshake behind the raft byte, and a raft handshake without it.
    let peer = node(&authority, "node-2");
    let io = port.dial(&[RAFT_RPC]).await;
    assert!(peer.connect(Kind::Grpc, ADDR, io).await.is_err());
    let io = port.dial(&[]).await;
    assert!(peer.connect(Kind::Raft, ADDR, io).await.is_err());
    assert!(port.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_closed_at_the_deadline_and_blocks_nobody() {
    let limits = MuxLimits::default();
    let mut port = Port::open(Security::Insecure, limits).await;
    let began = Instant::now();
    let silent = port.dial(&[]).await;

    let _near = port.dial_well(&[RAFT_RPC]).await;
    take(&mut port.raft).await;
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "nobody waits behind the silent one"
    );

    closed(silent).await;
    assert!((limits.handshake_timeout..limits.handshake_timeout * 2).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_tls_handshake() {
    let limits = MuxLimits::default();
    let port = Port::open(Security::Mutual(node(&authority(), "node-1")), limits).await;
    let began = Instant::now();
    // The head of a record whose body never comes.
    let stalled = port.dial(&[RAFT_RPC, 0x16, 3, 1, 1, 0]).await;
    closed(stalled).await;
    assert!((limits.handshake_timeout..limits.handshake_timeout * 2).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_gives_way_to_who_comes() {
    let limits = MuxLimits {
        pending_max: 2,
        ..MuxLimits::default()
    };
    let mut port = Port::open(Security::Insecure, limits).await;
    let began = Instant::now();
    let (first, mut second) = (port.dial(&[]).await, port.dial(&[]).await);
    let _third = port.dial_well(&[]).await;
    take(&mut port.grpc).await;
    closed(first).await;
    second.write_all(PREFACE).await.unwrap();
    take(&mut port.grpc).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_place_is_told_why() {
    let limits = MuxLimits {
        clients_max: 2,
        ..MuxLimits::default()
    };
    let mut port = Port::open(Security::Insecure, limits).await;
    let _near = port.dial_well(&[]).await;
    let held = take(&mut port.grpc).await;
    let mut refused = port.dial_well(&[]).await;
    let mut words = Vec::new();
    refused.read_to_end(&mut words).await.unwrap();
    let words = String::from_utf8_lossy(&words).into_owned();
    assert!(words.contains("connections from one address"), "{words:?}");
    drop(refused);
    let _peer = port.dial_well(&[RAFT_RPC]).await;
    take(&mut port.raft).await;
    drop(held);
    let _near = port.dial_well(&[]).await;
    take(&mut port.grpc).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_call_for_long_is_closed_and_a_peer_is_not() {
    let limits = MuxLimits::default();
    let mut port = Port::open(Security::Insecure, limits).await;
    let began = Instant::now();
    let (_near, _peer) = (port.dial_well(&[]).await, port.dial_well(&[RAFT_RPC]).await);
    let (mut far, mut peer) = (take(&mut port.grpc).await, take(&mut port.raft).await);
    let call = far.info().calls.begin();
    let mut bytes = [0; PREFACE.len()];
    far.read_exact(&mut bytes).await.unwrap();
    let over = limits.idle_timeout * 2;
    let busy = tokio::time::timeout(over, far.read_u8()).await;
    assert!(busy.is_err(), "a call is under way");
    drop(call);
    let ended = far.read_u8().await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(
        began.elapsed().as_secs(),
        (over + limits.idle_timeout).as_secs()
    );
    peer.read_exact(&mut bytes).await.unwrap();
    let waits = tokio::time::timeout(over, peer.read_u8()).await;
    assert!(waits.is_err(), "a peer's stream waits for an election");
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_one_of_its_calls_has_it_end() {
    let mut port = Port::open(Security::Insecure, MuxLimits::default()).await;
    let _near = port.dial_well(&[]).await;
    let mut far = take(&mut port.grpc).await;
    let calls = far.info().calls.clone();
    let _call = calls.begin();
    let mut bytes = [0; PREFACE.len()];
    far.read_exact(&mut bytes).await.unwrap();
    let (ended, ()) = tokio::join!(far.read_u8(), async { calls.end_connection() });
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn who_proves_itself_and_says_nothing_more_is_closed() {
    let limits = MuxLimits {
        handshake_timeout: Duration::from_millis(200),
        ..MuxLimits::default()
    };
    let authority = authority();
    let security = Security::Mutual(node(&authority, "node-1"));
    let mut port = Port::open(security, limits).await;
    let client = tls(&authority, &authority.client("app").unwrap());
    let io = port.dial(&[]).await;
    let mut near = client.connect(Kind::Grpc, ADDR, io).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), near.read_u8()).await;
    ended.expect("the port closes it").unwrap_err();
    assert!(port.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_holds_up_only_its_own_kind() {
    let limits = MuxLimits {
        queue_max: 1,
        ..MuxLimits::default()
    };
    let mut port = Port::open(Security::Insecure, limits).await;
    let _queued = port.dial_well(&[]).await;
    tokio::task::yield_now().await;
    let late = port.dial_well(&[]).await;
    let _near = port.dial_well(&[RAFT_RPC]).await;
    take(&mut port.raft).await;
    // Its place in the queue comes too late.
    closed(late).await;
    take(&mut port.grpc).await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_nobody_serves_is_closed_and_the_other_goes_on() {
    let Port {
        network,
        mux: _mux,
        mut grpc,
        raft,
    } = Port::open(Security::Insecure, MuxLimits::default()).await;
    drop(raft);
    let mut unserved = network.dial(ADDR).await.unwrap();
    unserved.write_u8(RAFT_RPC).await.unwrap();
    unserved.write_all(PREFACE).await.unwrap();
    closed(unserved).await;
    let mut served = network.dial(ADDR).await.unwrap();
    served.write_all(PREFACE).await.unwrap();
    take(&mut grpc).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_mux_ends_its_streams_and_frees_its_address() {
    let mut port = Port::open(Security::Insecure, MuxLimits::default()).await;
    let pending = port.dial(&[]).await;
    tokio::task::yield_now().await;
    port.mux.stop();
    assert!(port.grpc.next().await.is_none() && port.raft.next().await.is_none());
    // Handshakes under way end too.
    closed(pending).await;
    port.mux.shutdown().await;
    let listener = port.network.listen(ADDR).await.unwrap();

    let (mux, mut grpc, _raft) = Mux::start(listener, Security::Insecure, MuxLimits::default());
    assert_eq!(mux.addr(), ADDR);
    drop(mux);
    assert!(
        grpc.next().await.is_none(),
        "a dropped mux is a stopped one"
    );
}

/// Fails as often as told, then hands out its streams, then waits.
struct FailingListener {
    failures: VecDeque<i32>,
    streams: VecDeque<DuplexStream>,
}

impl Listener for FailingListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxIo, String)>> {
        Box::pin(async move {
            if let Some(code) = self.failures.pop_front() {
                return Err(io::Error::from_raw_os_error(code));
            }
            match self.streams.pop_front() {
                Some(stream) => Ok((Box::new(stream) as BoxIo, "peer".to_owned())),
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> String {
        "failing:1".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn the_accept_loop_survives_running_out_of_descriptors() {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ECONNABORTED: i32 = 103;
    let (mut near, far) = duplex(64);
    near.write_u8(RAFT_RPC).await.unwrap();
    near.write_all(PREFACE).await.unwrap();
    let listener = FailingListener {
        failures: [EMFILE, EMFILE, ENFILE, ECONNABORTED, EMFILE, EMFILE].into(),
        streams: [far].into(),
    };
    let began = Instant::now();
    let (_mux, _grpc, mut raft) =
        Mux::start(Box::new(listener), Security::Insecure, MuxLimits::default());
    assert_eq!(take(&mut raft).await.info().addr, "peer");
    let pauses: u64 = [10, 20, 40, 80, 100, 100].iter().sum();
    let waited = began.elapsed();
    assert!(
        (Duration::from_millis(pauses)..Duration::from_millis(pauses + 20)).contains(&waited),
        "{waited:?}"
    );
}

/// A client's connection to a secure port, both ends.
async fn connected(port: &mut Port, client: &Tls) -> (BoxIo, MuxStream) {
    let io = port.dial(&[]).await;
    let mut near = client.connect(Kind::Grpc, ADDR, io).await.unwrap();
    near.write_all(PREFACE).await.unwrap();
    near.flush().await.unwrap();
    let mut far = take(&mut port.grpc).await;
    let mut preface = [0; PREFACE.len()];
    far.read_exact(&mut preface).await.unwrap();
    (near, far)
}

/// Whether a stream ends by itself, though its peer says nothing and stays.
async fn ends(far: &mut MuxStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(5), far.read_u8()).await;
    read.is_ok_and(|read| read.is_err())
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_a_reload_that_concerns_it_and_no_other_does() {
    let (ours, theirs) = (authority(), authority());
    let server = node(&ours, "node-1");
    let client = |name: &str| tls(&ours, &ours.client(name).unwrap());
    let mut port = Port::open(Security::Mutual(server.clone()), MuxLimits::default()).await;
    let reloads = port.mux.reloads();
    // Each change is one of what this client may do.
    let version = Arc::new(AtomicU32::new(0));
    let changed = Arc::clone(&version);
    reloads.send_replace(Recheck::new(move |identity| {
        let (changed, is_one) = (Arc::clone(&changed), identity.subject() == Some("one"));
        let began = changed.load(Relaxed);
        move || is_one && changed.load(Relaxed) != began
    }));
    let (_one, mut far_one) = connected(&mut port, &client("one")).await;
    let (_two, mut far_two) = connected(&mut port, &client("two")).await;
    version.fetch_add(1, Relaxed);
    reloads.send_modify(|_| ());
    // Another reload before the connection comes to look hides nothing of the first.
    reloads.send_modify(|_| ());
    assert!(ends(&mut far_one).await && !ends(&mut far_two).await);
    // What was reloaded before a connection does not end it.
    let (_one, mut far_one) = connected(&mut port, &client("one")).await;
    assert!(!ends(&mut far_one).await);
    server.take_up(&node(&theirs, "node-1"));
    reloads.send_modify(|_| ());
    assert!(ends(&mut far_one).await && ends(&mut far_two).await);
}

#[tokio::test(start_paused = true)]
async fn no_connection_is_older_than_the_limit() {
    let authority = authority();
    let limits = MuxLimits {
        age_max: Duration::from_secs(60),
        ..MuxLimits::default()
    };
    let mut port = Port::open(Security::Mutual(node(&authority, "node-1")), limits).await;
    let client = tls(&authority, &authority.client("one").unwrap());
    let (_near, mut far) = connected(&mut port, &client).await;
    assert!(!ends(&mut far).await);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(ends(&mut far).await);
}
