//! Doors between clients and whole nodes: each door passes calls on to the node behind it. As a test plans it, a
//! door refuses a call, keeps its answer back or loses it.
//!
//! Only the node carries calls out. The doors look into messages to count them, to note batches for the test to
//! judge, and to forge answers that no sound node gives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ferrolog::client::Client;
use ferrolog::log::Offset;
use ferrolog::net::memory::MemoryNetwork;
use ferrolog::net::mux::{Mux, MuxLimits};
use ferrolog::net::stream_layer::{ChannelOptions, StreamLayer};
use ferrolog::net::{Kind, Network, Security};
use ferrolog::proto::v1::*;
use ferrolog::reason::Reason;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tower::{Service, ServiceExt};

use crate::harness::world::World;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
/// A frame with one message or with the trailers; an error ends the answers.
type Part = Result<Frame<Bytes>, Status>;

/// The head of each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// The calls that take the next plan. All others are passed on.
const PLANNED: [&str; 13] = [
    "Produce",
    "ProduceMany",
    "ProduceStream",
    "ConsumeStream",
    "CommitCursor",
    "DeleteCursor",
    "DeleteFence",
    "GetLimits",
    "RemoveNode",
    "CreateLog",
    "UpdateLog",
    "DeleteLog",
    "SetRetention",
];

/// What a door does with one stream or call.
#[derive(Debug, Clone)]
pub enum Plan {
    /// The node gets `stored` batches; the client gets the first `answered` answers, and then the status. A single
    /// call is carried out, and the client gets the status instead of the answer.
    Break {
        stored: usize,
        answered: usize,
        status: Status,
    },
    /// The node carries the call out, and the client never gets an answer.
    Silence,
    /// The client gets the status, and the node does not hear of the call.
    Refuse(Status),
    /// The node carries the call out, and this changes its answers to a reader.
    Forge(fn(&mut ConsumeStreamResponse)),
    /// The node carries the call out, and the client gets its answers.
    Work,
}

/// A refusal for a reason, as nodes give it.
pub fn refusal(reason: Reason, facts: &[(&str, &str)]) -> Plan {
    Plan::Refuse(refused(reason, facts))
}

/// The status of such a refusal.
pub fn refused(reason: Reason, facts: &[(&str, &str)]) -> Status {
    let facts = facts.iter();
    let facts = facts.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    reason.status_with("refused on purpose", facts.collect())
}

/// A batch that came to a door.
#[derive(Debug, Clone)]
pub struct Came {
    pub server: String,
    pub log: String,
    pub session: Option<SessionSequence>,
    pub batch: Batch,
}

/// What the doors of a test are to do, and what they saw.
#[derive(Default)]
pub struct Seen {
    /// The plans for the next calls of [`PLANNED`], one each.
    pub plans: VecDeque<Plan>,
    /// Every batch that came, in order; one that was sent again is there again.
    pub came: Vec<Came>,
    /// The door at which each produce stream and each single produce came.
    pub produced: Vec<String>,
    /// The door at which each consume stream came, and its first message.
    pub consumed: Vec<(String, ConsumeStreamStart)>,
    /// How many bytes of records were sent to readers, and how many readers have granted.
    pub told_bytes: u64,
    pub granted_bytes: u64,
}

/// The doors of a test, and the network of its clients, on which there is nothing but the doors.
pub struct Front {
    pub network: MemoryNetwork,
    seen: Arc<Mutex<Seen>>,
    _doors: Vec<Mux>,
}

impl Front {
    /// Opens doors. `doors` gives the address of each door, and of the node behind it.
    pub async fn open(
        world: &World,
        doors: &[(&str, &str)],
        plans: impl IntoIterator<Item = Plan>,
    ) -> Self {
        let network = MemoryNetwork::new();
        let seen = Arc::new(Mutex::new(Seen {
            plans: plans.into_iter().collect(),
            ..Seen::default()
        }));
        let layer = StreamLayer::new(Arc::new(world.network.named("doors")), Security::Insecure);
        let mut open = Vec::new();
        for (addr, behind) in doors {
            let listener = network.listen(addr).await.expect("a free address");
            let (mux, calls, _peers) =
                Mux::start(listener, Security::Insecure, MuxLimits::default());
            let door = Door {
                addr: (*addr).to_owned(),
                seen: seen.clone(),
                node: layer.channel(Kind::Grpc, behind, ChannelOptions::default()),
            };
            let server = Server::builder()
                .layer(tower::layer::layer_fn(move |_nothing: Routes| door.clone()))
                .add_routes(Routes::default());
            tokio::spawn(server.serve_with_incoming(calls));
            open.push(mux);
        }
        Self {
            network,
            seen,
            _doors: open,
        }
    }

    /// Opens doors that all lead to one node.
    pub async fn of_one(
        world: &World,
        doors: &[&str],
        plans: impl IntoIterator<Item = Plan>,
    ) -> Self {
        let node = world.node(0).addr();
        let doors: Vec<_> = doors.iter().map(|door| (*door, node)).collect();
        Self::open(world, &doors, plans).await
    }

    pub fn client(&self, servers: &[&str], seconds: u64) -> Client {
        let layer = StreamLayer::new(Arc::new(self.network.clone()), Security::Insecure);
        let client = Client::builder().servers(servers).stream_layer(layer);
        let client = client.timeout(Duration::from_secs(seconds));
        client.build().expect("servers")
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic before")
    }

    pub fn plan(&self, plan: Plan) {
        self.seen().plans.push_back(plan);
    }

    /// The sessions of the batches that came, each once, in the order of their first batch.
    pub fn sessions(&self) -> Vec<u64> {
        let seen = self.seen();
        let places = seen.came.iter().filter_map(|came| came.session.as_ref());
        let mut sessions: Vec<_> = places.map(|place| place.session).collect();
        sessions.dedup();
        sessions
    }
}

/// The values of all records in the log of a world's first node.
pub fn values(world: &World) -> Vec<Bytes> {
    let log = world.node(0).log();
    let (first, next) = log.offsets();
    let mut values = Vec::new();
    while (values.len() as u64) < next.0 - first.0 {
        let from = Offset(first.0 + values.len() as u64);
        let records = log
            .log()
            .read(log.id(), from, 1 << 20)
            .expect("they are there");
        values.extend(records.into_iter().map(|record| record.value));
    }
    values
}

#[derive(Clone)]
struct Door {
    addr: String,
    seen: Arc<Mutex<Seen>>,
    node: Channel,
}

impl Service<Request> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            let answered = door.answer(request).await;
            Ok(answered.unwrap_or_else(|status| status.into_http()))
        })
    }
}

impl Door {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic before")
    }

    async fn answer(&self, request: Request) -> Result<Response, Status> {
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        let plan = match PLANNED.contains(&&*method) {
            true => self.seen().plans.pop_front(),
            false => None,
        };
        let plan = plan.unwrap_or(Plan::Work);
        match &*method {
            "Produce" | "ProduceStream" => self.seen().produced.push(self.addr.clone()),
            "ConsumeStream" => return self.consume(request, plan).await,
            _ => {}
        }
        if let Plan::Refuse(status) = plan {
            return Err(status);
        }
        if method == "ProduceStream" {
            return self.produce(request, plan).await;
        }
        let door = self.clone();
        let note = move |message: &[u8]| {
            if method == "Produce" {
                door.note(decode(message));
            }
        };
        let request = request.map(|body| body_of(messages(body).inspect(on_data(note))));
        let (head, body) = self.pass(request).await?.into_parts();
        if let Plan::Work = plan {
            return Ok(Response::from_parts(head, body));
        }
        // The call runs to its end before it is answered.
        body.collect().await?;
        match plan {
            Plan::Break { status, .. } => Err(status),
            _ => pending().await,
        }
    }

    async fn pass(&self, request: Request) -> Result<Response, Status> {
        let mut node = self.node.clone();
        let lost = |error: tonic::transport::Error| Status::from_error(Box::new(error));
        let node = node.ready().await.map_err(lost)?;
        node.call(request).await.map_err(lost)
    }

    fn note(&self, request: ProduceRequest) {
        self.seen().came.push(Came {
            server: self.addr.clone(),
            log: request.log,
            session: request.session,
            batch: request.batch.expect("a batch"),
        });
    }

    async fn produce(&self, request: Request, plan: Plan) -> Result<Response, Status> {
        let door = self.clone();
        let note = move |message: &[u8]| {
            let request: ProduceStreamRequest = decode(message);
            door.note(request.produce.expect("a request"));
        };
        let stored = match plan {
            Plan::Break { stored, .. } => stored,
            _ => usize::MAX,
        };
        let request = request.map(|body| {
            let batches = messages(body);
            body_of(match stored {
                usize::MAX => batches.inspect(on_data(note)).boxed(),
                // After these the requests stay open, so that the node does not see the stream end.
                _ => {
                    let some = batches.take(stored).inspect(on_data(note));
                    some.chain(stream::pending()).boxed()
                }
            })
        });
        let answered = self.pass(request).await?;
        Ok(answered.map(|body| {
            let answers = messages(body);
            body_of(match plan {
                Plan::Break {
                    answered, status, ..
                } => {
                    let all = answers.take(1 + stored).enumerate();
                    let told = move |(place, part)| ready((place <= answered).then_some(part));
                    all.filter_map(told).chain(end(status)).boxed()
                }
                Plan::Silence => {
                    let told = |(place, part)| ready((place == 0).then_some(part));
                    let first = answers.enumerate().filter_map(told);
                    first.chain(stream::pending()).boxed()
                }
                _ => answers,
            })
        }))
    }

    async fn consume(&self, request: Request, plan: Plan) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        let mut requests = messages(body);
        let first = requests.next().await.expect("where to start")?;
        if let Some(message) = first.data_ref() {
            let request: ConsumeStreamRequest = decode(message);
            let start = request.start.expect("where to start");
            self.seen().consumed.push((self.addr.clone(), start));
        }
        match plan {
            Plan::Refuse(status) => return Err(status),
            Plan::Silence => return pending().await,
            _ => {}
        }
        let (door, teller) = (self.clone(), self.clone());
        let granted = move |message: &[u8]| {
            let request: ConsumeStreamRequest = decode(message);
            door.seen().granted_bytes += request.credit_bytes;
        };
        let requests = stream::once(ready(Ok(first))).chain(requests.inspect(on_data(granted)));
        let request = Request::from_parts(head, body_of(requests.boxed()));
        let answered = self.pass(request).await?;
        Ok(answered.map(|body| {
            let forge = match plan {
                Plan::Forge(forge) => forge,
                _ => |_: &mut ConsumeStreamResponse| {},
            };
            let answers = messages(body).flat_map(move |part| one_by_one(part, forge));
            let told = move |message: &[u8]| {
                let answer: ConsumeStreamResponse = decode(message);
                let batches = answer.batches.iter().filter_map(|told| told.batch.as_ref());
                teller.seen().told_bytes +=
                    batches.map(|batch| batch.records.len() as u64).sum::<u64>();
            };
            body_of(match plan {
                Plan::Break {
                    answered, status, ..
                } => {
                    let some = answers.take(1 + answered).inspect(on_data(told));
                    some.chain(end(status)).boxed()
                }
                _ => answers.inspect(on_data(told)).boxed(),
            })
        }))
    }
}

/// Splits an answer into answers of one batch each, as a node with little room gives them, and forges each.
fn one_by_one(part: Part, forge: fn(&mut ConsumeStreamResponse)) -> impl Stream<Item = Part> {
    let message = part.as_ref().ok().and_then(Frame::data_ref);
    let Some(message) = message else {
        return stream::iter(vec![part]);
    };
    let mut answer: ConsumeStreamResponse = decode(message);
    let batches = std::mem::take(&mut answer.batches);
    let mut answers = Vec::new();
    for batch in batches {
        let count = batch.batch.as_ref().map_or(0, |batch| batch.count);
        answers.push(ConsumeStreamResponse {
            next_offset: batch.first_offset + u64::from(count),
            next_position: batch.position + u64::from(count),
            batches: vec![batch],
            ..answer.clone()
        });
    }
    if answers.is_empty() {
        answers.push(answer);
    }
    let told = answers.into_iter().map(|mut answer| {
        forge(&mut answer);
        Ok(Frame::data(encode(&answer)))
    });
    stream::iter(told.collect::<Vec<Part>>())
}

/// The messages of a body, one part each, and the trailers or the error that end it.
fn messages(body: Body) -> BoxStream<'static, Part> {
    let begun = (body, BytesMut::new());
    stream::unfold(begun, |(mut body, mut held)| async move {
        loop {
            if held.len() >= HEAD_BYTES {
                let bytes = u32::from_be_bytes(held[1..HEAD_BYTES].try_into().expect("four"));
                let whole = HEAD_BYTES + bytes as usize;
                if held.len() >= whole {
                    let message = held.split_to(whole).freeze();
                    return Some((Ok(Frame::data(message)), (body, held)));
                }
            }
            match body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => held.put(data),
                    Err(last) => return Some((Ok(last), (body, held))),
                },
                Err(status) => return Some((Err(status), (body, held))),
            }
        }
    })
    .boxed()
}

fn body_of(parts: impl Stream<Item = Part> + Send + 'static) -> Body {
    Body::new(StreamBody::new(parts))
}

/// The part that ends a stream with a status.
fn end(status: Status) -> impl Stream<Item = Part> {
    let (head, ()) = status.into_http::<()>().into_parts();
    let mut trailers = head.headers;
    trailers.remove(http::header::CONTENT_TYPE);
    stream::once(ready(Ok(Frame::trailers(trailers))))
}

/// Has `look` see each message, and no other part.
fn on_data(look: impl Fn(&[u8])) -> impl Fn(&Part) {
    move |part| {
        if let Some(message) = part.as_ref().ok().and_then(Frame::data_ref) {
            look(message);
        }
    }
}

fn decode<M: Message + Default>(mut message: &[u8]) -> M {
    message.advance(HEAD_BYTES);
    M::decode(message).expect("a message")
}

fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).expect("it is small"));
    message.encode(&mut out).expect("there is room");
    out.freeze()
}
