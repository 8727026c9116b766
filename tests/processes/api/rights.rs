//! Who may call what on which log: every verb that there is stands in one table, and a verb without a row fails.
#![allow(
    clippy::disallowed_methods,
    reason = "it reads the project's descriptions of its services"
)]

use bytes::{Buf, BufMut, Bytes};
use ferrolog::client::{
    Client, ClientError, Consistency, ConsumeOptions, Consumer, LogChange, LogSettings, LogWatch,
    ProducerOptions, Reason, Selection, Start,
};
use ferrolog::net::Kind;
use ferrolog::net::stream_layer::ChannelOptions;
use ferrolog::proto::log_v1::{
    ConsumeRequest as PlainConsume, ProduceRequest as PlainProduce, Record,
};
use ferrolog::proto::v1::*;
use futures::stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::harness::native::{self, reason};
use crate::harness::wire::answer;
use crate::harness::{PATIENCE, Stage, until};

const ACTIONS: [&str; 4] = ["produce", "consume", "commit", "admin"];
/// The log of the callers that have a right, and one that only another has.
const MINE: &str = "mine/orders";
const THEIRS: &str = "other/orders";
const ANY: &[&str] = &ACTIONS;
/// The verbs about one cursor of a log.
const CURSORS: [&str; 3] = ["/CommitCursor", "/GetCursor", "/DeleteCursor"];

/// For what a right must be given, so that a call passes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum For {
    /// The name that the call is about.
    Name,
    /// All there is.
    Cluster,
    /// Some log, whichever.
    Some,
}

/// A verb: its service and name, the rights of which one is needed, for what, how many answers tell whether it
/// passed, and a request about a name that changes nothing when it passes again and again.
type Row = (
    &'static str,
    &'static [&'static str],
    For,
    usize,
    fn(&str) -> Vec<u8>,
);

fn batch() -> Option<Batch> {
    Some(native::batch(["x"]))
}

fn secret() -> Bytes {
    vec![7; 16].into()
}

fn none(_: &str) -> Vec<u8> {
    Vec::new()
}

macro_rules! about {
    ($log:ident => $($message:tt)*) => {
        |$log| { let $log = $log.to_owned(); ($($message)*).encode_to_vec() }
    };
}

fn plain_produce(_: &str) -> Vec<u8> {
    let record = Some(Record::default());
    PlainProduce { record }.encode_to_vec()
}

fn plain_consume(_: &str) -> Vec<u8> {
    PlainConsume { offset: 0 }.encode_to_vec()
}

fn many(log: String) -> ProduceManyRequest {
    let batch = ManyBatch {
        log,
        batch: batch(),
        ..Default::default()
    };
    ProduceManyRequest {
        batches: vec![batch],
        session: None,
    }
}

/// The verbs about what is in logs.
#[rustfmt::skip]
fn of_records() -> Vec<Row> {
    vec![
        ("log.v1.Log/Produce", &["produce"], For::Name, 1, plain_produce),
        ("log.v1.Log/ProduceStream", &["produce"], For::Name, 1, plain_produce),
        ("log.v1.Log/Consume", &["consume"], For::Name, 1, plain_consume),
        ("log.v1.Log/ConsumeStream", &["consume"], For::Name, 1, plain_consume),
        ("log.v1.Log/GetServers", &["consume"], For::Some, 1, none),
        ("ferrolog.v1.LogService/Produce", &["produce"], For::Name, 1,
            about!(log => ProduceRequest { log, batch: batch(), ..Default::default() })),
        ("ferrolog.v1.LogService/ProduceStream", &["produce"], For::Name, 2,
            about!(log => ProduceStreamRequest { produce: Some(ProduceRequest { log, batch: batch(), ..Default::default() }), many: None })),
        ("ferrolog.v1.LogService/ProduceStream", &["produce"], For::Name, 2,
            about!(log => ProduceStreamRequest { produce: None, many: Some(many(log)) })),
        ("ferrolog.v1.LogService/ProduceMany", &["produce"], For::Name, 1, about!(log => many(log))),
        ("ferrolog.v1.LogService/Consume", &["consume"], For::Name, 1,
            about!(log => ConsumeRequest { log, ..Default::default() })),
        ("ferrolog.v1.LogService/ConsumeStream", &["consume"], For::Name, 1,
            about!(log => ConsumeStreamRequest { start: Some(ConsumeStreamStart { log, ..Default::default() }), credit_bytes: 0 })),
        ("ferrolog.v1.LogService/CommitCursor", &["commit"], For::Name, 1,
            about!(log => CommitCursorRequest { log, name: "c".to_owned(), ..Default::default() })),
        ("ferrolog.v1.LogService/GetCursor", &["consume"], For::Name, 1,
            about!(log => GetCursorRequest { log, name: "c".to_owned(), of_selections: false })),
        ("ferrolog.v1.LogService/ListCursors", &["consume"], For::Name, 1,
            about!(log => ListCursorsRequest { log, ..Default::default() })),
        ("ferrolog.v1.LogService/DeleteCursor", &["commit"], For::Name, 1,
            about!(log => DeleteCursorRequest { log, name: "d".to_owned(), of_selections: false })),
        ("ferrolog.v1.ClusterService/Trim", &["admin"], For::Name, 1,
            about!(log => TrimRequest { log, first_offset: 0 })),
    ]
}

/// The verbs about the logs themselves, and about what belongs to none.
#[rustfmt::skip]
fn of_the_rest() -> Vec<Row> {
    vec![
        ("ferrolog.v1.LogService/CreateLog", &["admin"], For::Name, 1,
            about!(name => CreateLogRequest { name, ..Default::default() })),
        ("ferrolog.v1.LogService/GetLog", ANY, For::Name, 1, about!(name => GetLogRequest { name })),
        ("ferrolog.v1.LogService/ListLogs", ANY, For::Some, 1, none),
        ("ferrolog.v1.LogService/WatchLogs", ANY, For::Some, 1, none),
        ("ferrolog.v1.LogService/UpdateLog", &["admin"], For::Name, 1,
            about!(name => UpdateLogRequest { name, config: None, expected_epoch: Some(99) })),
        ("ferrolog.v1.LogService/DeleteLog", &["admin"], For::Name, 1,
            about!(name => DeleteLogRequest { name, id: 99_999 })),
        ("ferrolog.v1.LogService/CompactLog", &["admin"], For::Name, 1,
            about!(name => CompactLogRequest { name })),
        ("ferrolog.v1.LogService/GetLimits", ANY, For::Some, 1, none),
        ("ferrolog.v1.LogService/OpenSession", &["produce"], For::Some, 1,
            about!(_log => OpenSessionRequest { secret: secret(), ..Default::default() })),
        ("ferrolog.v1.LogService/OpenSession", &["produce"], For::Name, 1,
            about!(log => OpenSessionRequest { log, secret: secret() })),
        ("ferrolog.v1.LogService/CloseSession", &["produce", "admin"], For::Some, 1,
            about!(_log => CloseSessionRequest { session: 9_999, secret: secret(), ..Default::default() })),
        ("ferrolog.v1.LogService/CloseSession", &["admin"], For::Cluster, 1,
            about!(_log => CloseSessionRequest { session: 9_999, ..Default::default() })),
        ("ferrolog.v1.LogService/ListSessions", &["admin"], For::Cluster, 1, none),
        ("ferrolog.v1.LogService/ClaimEpoch", &["produce"], For::Name, 1,
            about!(name => ClaimEpochRequest { name, holder: "h".to_owned(), token: secret(), expected_epoch: Some(99), ..Default::default() })),
        ("ferrolog.v1.LogService/GetEpoch", &["consume"], For::Name, 1,
            about!(name => GetEpochRequest { name, ..Default::default() })),
        ("ferrolog.v1.LogService/ListFences", &["consume"], For::Cluster, 1, none),
        ("ferrolog.v1.LogService/DeleteFence", &["admin"], For::Cluster, 1,
            about!(name => DeleteFenceRequest { name, ..Default::default() })),
        ("ferrolog.v1.ClusterService/GetStatus", &["consume"], For::Cluster, 1, none),
        ("ferrolog.v1.ClusterService/RemoveNode", &["admin"], For::Cluster, 1,
            about!(_log => RemoveNodeRequest { name: "nobody".to_owned() })),
        ("ferrolog.v1.ClusterService/AllowNode", &["admin"], For::Cluster, 1,
            about!(_log => AllowNodeRequest { name: "/".to_owned() })),
        ("ferrolog.v1.ClusterService/DisallowNode", &["admin"], For::Cluster, 1,
            about!(_log => DisallowNodeRequest { name: "nobody".to_owned() })),
        ("ferrolog.v1.ClusterService/CreateJoinToken", &["admin"], For::Cluster, 1,
            about!(_log => CreateJoinTokenRequest { life_seconds: u32::MAX })),
        ("ferrolog.v1.ClusterService/TransferLeadership", &["admin"], For::Cluster, 1,
            about!(_log => TransferLeadershipRequest { to: "nobody".to_owned() })),
        ("ferrolog.v1.ClusterService/DrainNode", &["admin"], For::Cluster, 1,
            about!(_log => DrainNodeRequest { name: "nobody".to_owned() })),
        ("ferrolog.v1.ClusterService/UndrainNode", &["admin"], For::Cluster, 1,
            about!(_log => UndrainNodeRequest { name: "nobody".to_owned() })),
        ("ferrolog.v1.ClusterService/GetRetention", &["consume"], For::Name, 1,
            about!(log => GetRetentionRequest { log })),
        ("ferrolog.v1.ClusterService/SetRetention", &["admin"], For::Name, 1,
            about!(log => SetRetentionRequest { log, retention: None })),
    ]
}

/// Messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends one message, and gives the status that came within the first answers, if there was one.
async fn call(channel: &Channel, row: &Row, name: &str) -> Result<(), Status> {
    let (path, _, _, answers, message) = row;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let mut request = Request::new(stream::iter([message(name)]));
    if path.starts_with("log.v1") {
        let name = name.parse().expect("a name in ASCII");
        request.metadata_mut().insert("ferrolog-log", name);
    }
    let path = PathAndQuery::try_from(format!("/{path}")).expect("a path");
    let called = async {
        grpc.ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let mut told = grpc.streaming(request, path, Raw).await?.into_inner();
        for _ in 0..*answers {
            told.message().await?;
        }
        Ok(())
    };
    let called = tokio::time::timeout(PATIENCE, called).await;
    called.unwrap_or_else(|_| panic!("no answer: {}", row.0))
}

/// Whether a call was let pass; what it came to beyond that is its own affair.
async fn passes(channel: &Channel, row: &Row, name: &str) -> Result<(), Status> {
    let denied = async || match call(channel, row, name).await {
        Err(status) if reason(&status) == "DENIED" => Some(Err(status)),
        // Nobody has said yes or no so far.
        Err(status) if reason(&status) == "NO_LEADER" => None,
        Ok(()) | Err(_) => Some(Ok(())),
    };
    until("an answer", denied).await
}

/// The verbs that the protos tell of.
fn told() -> Vec<String> {
    let mut verbs = Vec::new();
    for (file, package) in [
        ("log/v1/log.proto", "log.v1"),
        ("ferrolog/v1/log.proto", "ferrolog.v1"),
        ("ferrolog/v1/cluster.proto", "ferrolog.v1"),
    ] {
        let path = format!("{}/proto/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a proto");
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("service ") {
                service = name.trim_end_matches([' ', '{']);
            }
            if let Some((name, _)) = line
                .strip_prefix("rpc ")
                .and_then(|rest| rest.split_once('('))
            {
                verbs.push(format!("{package}.{service}/{}", name.trim()));
            }
        }
    }
    verbs
}

/// Reads of the catalogue show a caller what it has a right on, whichever, and in full pages.
#[tokio::test]
async fn a_listing_shows_what_the_caller_may_see() {
    let policy = "p, a, mine/*, commit\np, a, default, consume\np, b, other/x, produce\n";
    let stage = Stage::start_under(policy, &["a", "b", "c"]).await;
    for name in ["mine/1", "mine/2", "mine/3", "nine/1", "other/x", "other/y"] {
        let settings = LogSettings::default();
        let made = stage.client().admin().create_log(name, settings).await;
        made.expect("made");
    }
    let listed = async |name: &str, page_size| {
        let (layer, options) = (stage.layer_of(name), ChannelOptions::default());
        let mut client = native::client(&layer, stage.cluster.addr(1), options);
        let (mut names, mut pages, mut page_token) = (Vec::new(), 0, String::new());
        loop {
            let prefix = String::new();
            let list = ListLogsRequest {
                prefix,
                page_size,
                page_token,
            };
            let page = answer(client.list_logs(list)).await?;
            names.extend(page.logs.into_iter().map(|log| log.name));
            pages += 1;
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok::<_, Status>((names, pages));
            }
        }
    };
    let of_a = ["default", "mine/1", "mine/2", "mine/3"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(listed("a", 0).await.expect("listed"), (of_a.clone(), 1));
    assert_eq!(listed("a", 3).await.expect("listed"), (of_a, 2));
    let of_b = vec!["other/x".to_owned()];
    assert_eq!(listed("b", 1).await.expect("listed"), (of_b, 1));
    assert_eq!(
        reason(&listed("c", 1).await.expect_err("no right")),
        "DENIED"
    );

    // A watch tells as much, and of what becomes of the logs, too.
    let watch = |name: &str| {
        let layer = stage.layer_of(name);
        let client = Client::builder().servers([stage.cluster.addr(2)]);
        let client = client.stream_layer(layer).build().expect("a client");
        client.watch_logs("", None).expect("a server")
    };
    let next = async |watch: &mut LogWatch| {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await;
        Ok::<_, ClientError>(match next.expect("an answer")? {
            LogChange::Existing(log) | LogChange::Created(log) => log.name,
            LogChange::Deleted { name, .. } => format!("not {name}"),
            other => format!("{other:?}"),
        })
    };
    let mut of_a = watch("a");
    for expected in ["default", "mine/1", "mine/2", "mine/3", "Current"] {
        assert_eq!(next(&mut of_a).await.expect("watched"), expected);
    }
    let mut of_b = watch("b");
    for expected in ["other/x", "Current"] {
        assert_eq!(next(&mut of_b).await.expect("watched"), expected);
    }
    let admin = stage.client().admin();
    let mut made = Vec::new();
    for name in ["other/z", "mine/4"] {
        let log = admin.create_log(name, LogSettings::default()).await;
        made.push(log.expect("made"));
    }
    for log in made {
        let deleted = admin.delete_log(&log.name, log.id).await;
        assert!(deleted.expect("deleted"));
    }
    loop {
        let told = next(&mut of_a).await.expect("watched");
        assert!(told.contains("mine/4"), "not to be shown: {told}");
        if told == "not mine/4" {
            break;
        }
    }
    let denied = next(&mut watch("c")).await.expect_err("no right");
    assert_eq!(denied.reason(), Some(Reason::Denied));
    changes_are_told(&stage).await;
}

/// What was changed and who was denied stands in the log of changes, for those who may read it.
async fn changes_are_told(stage: &Stage) {
    let reading = |name: &str| {
        let client = Client::builder().servers([stage.cluster.addr(0)]);
        let client = client.stream_layer(stage.layer_of(name));
        let options = ConsumeOptions {
            follow: true,
            ..ConsumeOptions::default()
        };
        let client = client.build().expect("a client");
        client.log("_audit").consume(options).expect("a server")
    };
    let mut consumer = reading("client");
    let mut made = 0;
    let (mut deleted, mut denied) = (false, false);
    while made < 8 || !deleted || !denied {
        let record = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let record = record
            .expect("it comes")
            .expect("it goes on")
            .expect("it may");
        let told: serde_json::Value = serde_json::from_slice(&record.record.value).expect("JSON");
        let field = |name: &str| told[name].as_str().unwrap_or_default();
        assert!(field("time").ends_with('Z'), "{told}");
        match field("verb") {
            "ferrolog.v1.LogService/CreateLog" => {
                assert_eq!((field("subject"), field("outcome")), ("client", "done"));
                assert!(field("address").starts_with("127.0.0.1:"), "{told}");
                assert!(field("node").starts_with('n'), "{told}");
                made += 1;
            }
            "ferrolog.v1.LogService/DeleteLog" if field("log") == "mine/4" => deleted = true,
            "ferrolog.v1.LogService/ListLogs" if field("subject") == "c" => {
                assert_eq!(field("outcome"), "denied");
                assert!(field("reason").contains("on any log"), "{told}");
                denied = true;
            }
            _ => {}
        }
    }
    // Nobody appends to it or deletes it, and a line for every log is none for this one.
    let refused = tokio::time::timeout(PATIENCE, reading("a").next()).await;
    let refused = refused
        .expect("an answer")
        .expect("one")
        .expect_err("no right");
    assert_eq!(refused.reason(), Some(Reason::Denied));
    let admin = stage.client().admin();
    let log = admin.get_log("_audit").await.expect("it is there");
    let refused = admin.delete_log(&log.name, log.id).await.expect_err("kept");
    assert_eq!(refused.reason(), Some(Reason::InvalidRequest), "{refused}");
    let producer = stage.client().producer(ProducerOptions::default());
    let producer = producer.expect("a producer");
    let sent = producer.send_to("_audit", "forged").await.expect("queued");
    let refused = sent.await.expect_err("nobody's");
    assert_eq!(refused.reason(), Some(Reason::InvalidRequest), "{refused}");
}

/// A prefix passes over what the caller may not read, now and later; a list with one such log is refused.
#[tokio::test]
async fn a_selection_gives_what_the_caller_may_read() {
    let policy = "p, a, mine/*, consume\np, a, mine/*, commit\np, b, mine/*, produce\n";
    let stage = Stage::start_under(policy, &["a", "b"]).await;
    let append = async |name: &str| {
        let client = stage.client();
        let made = client
            .admin()
            .create_log(name, LogSettings::default())
            .await;
        made.expect("made");
        let producer = client.log(name).producer(ProducerOptions::default());
        let producer = producer.expect("a producer");
        let sent = producer.send(name.to_owned()).await.expect("sent");
        sent.await.expect("appended");
    };
    for name in [THEIRS, MINE] {
        append(name).await;
    }
    let client_of = |name: &str| {
        let client = Client::builder().servers([stage.cluster.addr(1)]);
        let client = client.stream_layer(stage.layer_of(name));
        client.build().expect("a client")
    };
    let reading = |name: &str, selection, follow| {
        let options = ConsumeOptions {
            selection: Some(selection),
            consistency: Consistency::Strong,
            follow,
            ..ConsumeOptions::default()
        };
        client_of(name).consume(options).expect("a server")
    };
    let next = async |consumer: &mut Consumer| {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        next.expect("an answer").expect("it follows")
    };
    let everything = Selection::Prefix(String::new());
    let mut consumer = reading("a", everything.clone(), true);
    assert_eq!(&*next(&mut consumer).await.expect("a record").log, MINE);
    // The right is asked for at each log that comes in later.
    for name in ["theirs/later", "mine/later"] {
        append(name).await;
    }
    assert_eq!(
        &*next(&mut consumer).await.expect("a record").log,
        "mine/later"
    );

    let listed = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        reading("a", Selection::Logs(names.collect()), false)
    };
    let denied = next(&mut listed(&[MINE, THEIRS]))
        .await
        .expect_err("denied");
    assert_eq!(denied.reason(), Some(Reason::Denied));
    let read = next(&mut listed(&["mine/later", MINE])).await;
    assert_eq!(&*read.expect("a record").log, MINE);
    // Who may read nothing is told so, and not that there is nothing.
    let denied = next(&mut reading("b", everything.clone(), false)).await;
    assert_eq!(denied.expect_err("denied").reason(), Some(Reason::Denied));

    // The name of a cursor of selections stands in the policy as a log's does.
    stage
        .client()
        .selection_cursors()
        .create("theirs/c", 0)
        .await
        .expect("made");
    let cursors = client_of("a").selection_cursors();
    cursors.create("mine/c", 1).await.expect("it may");
    let seen = cursors.list().await.expect("listed");
    let names: Vec<_> = seen.iter().map(|cursor| &*cursor.name).collect();
    assert_eq!(names, ["mine/c"]);
    let refused = [
        cursors
            .commit("theirs/c", 1, None)
            .await
            .expect_err("denied"),
        cursors.get("theirs/c").await.expect_err("denied"),
        cursors.delete("theirs/c").await.expect_err("denied"),
        client_of("b")
            .selection_cursors()
            .create("mine/d", 0)
            .await
            .expect_err("denied"),
    ];
    for refused in refused {
        assert_eq!(refused.reason(), Some(Reason::Denied), "{refused}");
    }
    for (cursor, expected) in [("mine/c", None), ("theirs/c", Some(Reason::Denied))] {
        let options = ConsumeOptions {
            selection: Some(everything.clone()),
            from: Start::Cursor(cursor.to_owned()),
            ..ConsumeOptions::default()
        };
        let mut consumer = client_of("a").consume(options).expect("a server");
        let began = tokio::time::timeout(PATIENCE, consumer.position()).await;
        let began = began.expect("an answer");
        assert_eq!(
            began.err().and_then(|error| error.reason()),
            expected,
            "{cursor}"
        );
    }
}

/// Each message of a stream names its log anew.
#[tokio::test]
async fn every_message_of_a_stream_is_judged_by_its_log() {
    let stage = Stage::start_under("p, a, mine/*, produce\n", &["a"]).await;
    for name in [MINE, THEIRS] {
        let settings = LogSettings::default();
        let made = stage.client().admin().create_log(name, settings).await;
        made.expect("made");
    }
    let (layer, options) = (stage.layer_of("a"), ChannelOptions::default());
    let mut client = native::client(&layer, stage.cluster.addr(0), options);
    let messages = [MINE, MINE, THEIRS, MINE].map(|log| ProduceStreamRequest {
        many: None,
        produce: Some(ProduceRequest {
            log: log.to_owned(),
            batch: batch(),
            ..ProduceRequest::default()
        }),
    });
    let mut told = answer(client.produce_stream(stream::iter(messages)))
        .await
        .expect("a stream");
    let mut next = async || told.message().await;
    next().await.expect("credit");
    for offset in 0..2 {
        let ack = next().await.expect("an answer").and_then(|told| told.ack);
        assert_eq!(ack.expect("appended").first_offset, offset);
    }
    assert_eq!(reason(&next().await.expect_err("denied")), "DENIED");
    let shown = stage.client().admin().get_log(THEIRS).await.expect("there");
    assert_eq!(shown.next_offset, 0);
}

#[tokio::test]
async fn every_verb_asks_for_its_right_on_its_log() {
    let rows = [of_records(), of_the_rest()].concat();
    for verb in told() {
        assert!(rows.iter().any(|row| row.0 == verb), "no row: {verb}");
    }
    let mut policy = String::new();
    let mut names = vec!["other".to_owned()];
    for action in ACTIONS {
        policy += &format!(
            "p, {action}-one, {MINE}, {action}\np, {action}-some, mine/*, {action}\n\
             p, {action}-all, *, {action}\np, other, other/*, {action}\n\
             p, {action}-cluster, cluster, {action}\ng, {action}-role, role:{action}\n"
        );
        for kind in ["log", "cursor", "fence"] {
            policy += &format!("p, role:{action}, {kind}:mine/*, {action}\n");
        }
        let names_of = ["one", "some", "all", "cluster", "role"].map(|of| format!("{action}-{of}"));
        names.extend(names_of);
    }
    // One that has cursors and not their logs.
    policy += "p, keeper, cursor:c, commit|consume\np, keeper, cursor:d*, commit\n";
    names.push("keeper".to_owned());
    // What is told over plain HTTP alone.
    policy += "p, metrics-all, *, metrics\n";
    names.push("metrics-all".to_owned());
    let clients: Vec<_> = names.iter().map(String::as_str).collect();
    let stage = Stage::start_under(&policy, &clients).await;
    for log in [MINE, THEIRS] {
        let client = stage.client();
        let made = client.admin().create_log(log, LogSettings::default()).await;
        made.expect("made");
        // Something to read, for the verbs that wait for it.
        let producer = client.log(log).producer(ProducerOptions::default());
        let producer = producer.expect("a producer");
        let sent = producer.send("x").await.expect("sent");
        sent.await.expect("appended");
    }
    for (place, name) in names.iter().enumerate() {
        let layer = stage.layer_of(name);
        let addr = stage.cluster.addr(place % 3);
        let channel = layer.channel(Kind::Grpc, addr, ChannelOptions::default());
        for row in &rows {
            let (verb, rights, of, ..) = row;
            let right = rights.iter().find_map(|right| name.strip_prefix(right));
            let expected = match (right, of) {
                (Some("-all"), _) => true,
                (Some("-cluster"), of) => *of != For::Name,
                (Some(_), of) => *of != For::Cluster,
                (None, For::Some) if name == "keeper" => rights
                    .iter()
                    .any(|right| ["commit", "consume"].contains(right)),
                (None, _) if name == "keeper" => CURSORS.iter().any(|of| verb.ends_with(of)),
                (None, of) => name == "other" && *of == For::Some,
            };
            let outcome = passes(&channel, row, MINE).await;
            assert_eq!(
                outcome.is_ok(),
                expected,
                "{name} {verb} {of:?}: {outcome:?}"
            );
            if name == "other" && *of == For::Name {
                // Whoever has no right does not hear which logs there are.
                let absent = passes(&channel, row, "mine/absent").await;
                let told =
                    |outcome: Result<(), Status>| outcome.expect_err("denied").message().to_owned();
                assert_eq!(
                    told(absent),
                    told(outcome).replace(MINE, "mine/absent"),
                    "{verb}"
                );
            }
        }
    }
}
