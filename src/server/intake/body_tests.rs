//! A body by itself: what passes, what waits, what ends it, and what is counted meanwhile.

use futures::FutureExt;
use tokio::sync::mpsc;
use tonic::Code;
use tonic_types::StatusExt;

use super::super::methods::Methods;
use super::super::read_ahead::{AHEAD_BYTES_MAX, Ahead};
use super::*;
use crate::net::budget::{self, Budget};
use crate::server::Limits;
use crate::server::limits::STREAM_WINDOW;

const RECORD_MAX: usize = 1 << 20;

/// What a client sends.
struct Frames(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = self.0.poll_recv(context);
        next.map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

struct Call {
    client: Option<mpsc::UnboundedSender<Bytes>>,
    messages: Messages,
    taken: Arc<Taken>,
}

fn budget() -> Budget {
    Budget::new(budget::AccountLimits {
        node_bytes_max: 4 * RECORD_MAX,
        subject_bytes_max: 4 * RECORD_MAX,
        connection_bytes_max: 2 * RECORD_MAX,
        small_part: 16,
    })
}

fn call(budget: &Budget, path: &str) -> Call {
    of_connection(&budget.accounts("subject"), path)
}

fn of_connection(accounts: &Accounts, path: &str) -> Call {
    let limits = Limits {
        record_bytes_max: RECORD_MAX,
        ..Limits::default()
    };
    let method = Methods::new(&limits).of(path).unwrap();
    let (client, frames) = mpsc::unbounded_channel();
    let taken = Arc::new(Taken::default());
    let mut body = Body::new(Frames(frames));
    if method.is_read_ahead() {
        body = Body::new(Ahead::new(body));
    }
    Call {
        client: Some(client),
        messages: Messages::new(body, method, accounts.clone(), taken.clone()),
        taken,
    }
}

impl Call {
    fn send(&self, bytes: impl Into<Bytes>) {
        // The server may have ended the call.
        let _ = self.client.as_ref().unwrap().send(bytes.into());
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let frame = std::future::poll_fn(|context| {
            http_body::Body::poll_frame(Pin::new(&mut self.messages), context)
        });
        let frame = frame.await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    fn now(&mut self) -> Option<Result<Bytes, Status>> {
        self.next().now_or_never().expect("it does not wait")
    }

    fn waits(&mut self) -> bool {
        self.next().now_or_never().is_none()
    }

    fn refusal(&mut self) -> (Code, String) {
        let status = self.now().expect("not the end").unwrap_err();
        let info = status.get_details_error_info().expect("a reason");
        assert!(self.now().is_none(), "nothing follows");
        (status.code(), info.reason)
    }
}

fn message(length: usize) -> Vec<u8> {
    let mut bytes = prefix(length);
    bytes.resize(PREFIX_BYTES + length, 7);
    bytes
}

fn prefix(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes
}

const PRODUCE: &str = "/log.v1.Log/Produce";
const PRODUCE_STREAM: &str = "/log.v1.Log/ProduceStream";

#[tokio::test]
async fn a_message_is_counted_from_its_length_until_what_came_of_it_is_gone() {
    let budget = budget();
    let mut call = call(&budget, PRODUCE);
    call.send(prefix(500_000));
    assert_eq!(call.now().unwrap().unwrap().len(), PREFIX_BYTES);
    assert!(budget.bytes.held() > 500_000, "before a byte of it came");
    assert!(call.waits());
    call.send(vec![7; 300_000]);
    call.send(vec![7; 200_000]);
    let passed = call.now().unwrap().unwrap().len() + call.now().unwrap().unwrap().len();
    assert_eq!(passed, 500_000);
    call.client = None;
    assert!(call.now().is_none());
    let held = call.taken.take().unwrap();
    let batch = held.around(Bytes::from_static(b"batch"));
    drop(call);
    assert!(budget.bytes.held() > 500_000, "the batch is still queued");
    drop(batch);
    assert_eq!(budget.bytes.held(), 0);
}

#[tokio::test]
async fn a_half_sent_message_gives_back_its_room_when_the_call_ends() {
    let budget = budget();
    let mut one = call(&budget, PRODUCE);
    one.send(message(RECORD_MAX)[..1000].to_vec());
    assert_eq!(one.now().unwrap().unwrap().len(), 1000);
    assert!(one.waits());
    drop(one);
    assert_eq!(budget.bytes.held(), 0);
}

#[tokio::test]
async fn a_call_with_too_many_batches_is_refused_before_they_are_decoded() {
    let budget = budget();
    let empty = [0x0a, 0].repeat(50_000);
    let of_stream = [&[0x12, 0xa0, 0x8d, 0x06][..], &empty].concat();
    for (path, batches) in [
        ("/ferrolog.v1.LogService/ProduceMany", &empty),
        ("/ferrolog.v1.LogService/ProduceStream", &of_stream),
    ] {
        let mut call = call(&budget, path);
        call.send([prefix(batches.len()), batches.clone()].concat());
        let (code, _) = call.refusal();
        assert_eq!(code, Code::InvalidArgument, "{path}");
        drop(call);
        assert_eq!(budget.bytes.held(), 0);
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_by_its_length_with_a_reason() {
    let budget = budget();
    for (path, code, reason) in [
        (PRODUCE, Code::InvalidArgument, "RECORD_TOO_LARGE"),
        (PRODUCE_STREAM, Code::InvalidArgument, "RECORD_TOO_LARGE"),
        (
            "/ferrolog.v1.LogService/Produce",
            Code::InvalidArgument,
            "BATCH_OVER_LIMIT",
        ),
        (
            "/ferrolog.v1.LogService/CommitCursor",
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE",
        ),
        (
            "/grpc.health.v1.Health/Check",
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE",
        ),
    ] {
        let mut call = call(&budget, path);
        call.send(prefix(RECORD_MAX + (80 << 10)));
        assert_eq!(call.refusal(), (code, reason.to_owned()), "{path}");
    }
    assert_eq!(budget.bytes.held(), 0);
}

#[tokio::test]
async fn a_single_call_without_room_is_refused_and_a_stream_waits_unread() {
    let budget = budget();
    let accounts = budget.accounts("subject");
    let mut large = [0; 2].map(|_| of_connection(&accounts, PRODUCE));
    for call in &mut large {
        call.send(prefix(RECORD_MAX - 1000));
        call.now().unwrap().unwrap();
    }
    let mut single = of_connection(&accounts, PRODUCE);
    single.send(message(100_000));
    assert_eq!(single.refusal().1, "IN_FLIGHT_LIMIT");
    let mut small = of_connection(&accounts, PRODUCE);
    small.send(message(1000));
    assert_eq!(small.now().unwrap().unwrap().len(), PREFIX_BYTES + 1000);

    let mut stream = of_connection(&accounts, PRODUCE_STREAM);
    stream.send(message(100_000));
    assert!(stream.waits());
    stream.send(message(1));
    assert!(stream.waits(), "nothing overtakes it");
    let [first, _second] = large;
    drop(first);
    assert_eq!(stream.now().unwrap().unwrap().len(), PREFIX_BYTES + 100_000);
    assert_eq!(stream.now().unwrap().unwrap().len(), PREFIX_BYTES + 1);
}

#[tokio::test]
async fn streams_that_wait_are_as_many_as_the_connection_has_windows_for() {
    let budget = budget();
    let accounts = budget.accounts("subject");
    let windows = budget::UNREAD.connection_bytes_max / STREAM_WINDOW as usize;
    let mut streams: Vec<_> = (0..=windows)
        .map(|_| of_connection(&accounts, PRODUCE_STREAM))
        .collect();
    for stream in &mut streams {
        stream.send(message(RECORD_MAX));
    }
    let mut last = streams.pop().unwrap();
    let passed = streams
        .iter_mut()
        .filter_map(|stream| stream.next().now_or_never());
    assert_eq!(passed.count(), 1, "the others wait");
    assert_eq!(last.refusal().1, "IN_FLIGHT_LIMIT");
    // One that has nothing under way needs no window.
    let mut idle = of_connection(&accounts, PRODUCE_STREAM);
    assert!(idle.waits());
    drop(streams);
    assert_eq!((budget.bytes.held(), budget.unread.held()), (0, 0));
    idle.send(message(9));
    idle.now().unwrap().unwrap();
    assert_eq!(budget.unread.held(), STREAM_WINDOW as usize);
    assert!(idle.waits());
    assert_eq!(budget.unread.held(), 0, "it is read as fast as it sends");
}

/// The verb of a stream that sends its answers does not look at what the client sends meanwhile.
#[tokio::test]
async fn a_stream_without_records_holds_no_window_and_is_ended_if_it_sends_too_much() {
    let budget = budget();
    let mut call = call(&budget, "/ferrolog.v1.LogService/ConsumeStream");
    call.send(message(100));
    call.next().await.unwrap().unwrap();
    assert_eq!(budget.unread.held(), AHEAD_BYTES_MAX);
    for _ in 0..AHEAD_BYTES_MAX / 1000 {
        call.send(message(1000));
    }
    // It is read whether the verb asks for it or not.
    let client = call.client.take().unwrap();
    client.closed().await;
    let end = loop {
        if let Err(status) = call.next().await.expect("not the end") {
            break status;
        }
    };
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert_eq!(budget.unread.held(), 0);
}

#[tokio::test]
async fn messages_of_one_frame_pass_together_and_are_taken_apart() {
    let budget = budget();
    let mut call = call(&budget, PRODUCE_STREAM);
    let mut frame: Vec<u8> = (1..=100).flat_map(message).collect();
    let whole = frame.len();
    let mut next = message(200_000);
    let rest = next.split_off(3);
    frame.extend(next);
    call.send(frame);
    call.send(rest);
    assert_eq!(call.now().unwrap().unwrap().len(), whole);
    assert_eq!(call.now().unwrap().unwrap().len(), PREFIX_BYTES + 200_000);
    let all = budget.bytes.held();
    let first = call.taken.take().unwrap().bytes();
    let second = call.taken.take().unwrap().bytes();
    assert_eq!(second, first + 1);
    assert_eq!(budget.bytes.held(), all - first - second);
    call.taken.keep();
    call.taken.keep();
    // The decoder asks for more: whoever wanted the rest has it, or has said so.
    assert!(call.waits());
    assert_eq!(budget.bytes.held(), (second + 1) + (second + 2));
    assert_eq!(call.taken.take_kept().unwrap().bytes(), 2 * second + 3);
    assert_eq!(budget.bytes.held(), 0);
    assert!(call.taken.take().is_none());
}

#[tokio::test]
async fn what_is_no_request_is_told_in_words() {
    let budget = budget();
    let invalid = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    let sent: [&[&[u8]]; 4] = [&[b"\x01\0\0\0\x01x"], &[b"\0\0\0\0\x02x"], &[b"\0\0"], &[]];
    for frames in sent {
        let mut call = call(&budget, PRODUCE);
        for frame in frames {
            call.send(frame.to_vec());
        }
        call.client = None;
        let end = std::iter::from_fn(|| call.now()).find_map(Result::err);
        let info = end.unwrap().get_details_error_info().unwrap();
        assert_eq!(info.reason, invalid.1, "{frames:?}");
    }
    let mut two = call(&budget, PRODUCE);
    two.send([message(1), message(2)].concat());
    two.now().unwrap().unwrap();
    assert_eq!(two.refusal(), invalid);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_come_on_ends_its_call() {
    let budget = budget();
    let stalled = (Code::DeadlineExceeded, "REQUEST_STALLED".to_owned());
    let begun = Instant::now();
    let mut half = call(&budget, PRODUCE);
    half.send(message(RECORD_MAX)[..1000].to_vec());
    half.next().await.unwrap().unwrap();
    let status = half.next().await.unwrap().unwrap_err();
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!((status.code(), reason), stalled);
    assert_eq!(begun.elapsed().as_secs(), STALL_MAX.as_secs());

    // Neither does one that comes a byte at a time hold its room for long.
    let begun = Instant::now();
    let mut slow = call(&budget, PRODUCE_STREAM);
    slow.send(prefix(RECORD_MAX));
    slow.next().await.unwrap().unwrap();
    let client = slow.client.take().unwrap();
    let trickle = tokio::spawn(async move {
        while client.send(Bytes::from_static(b"x")).is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let end = loop {
        if let Err(status) = slow.next().await.unwrap() {
            break status;
        }
    };
    assert_eq!(end.code(), Code::DeadlineExceeded);
    let most = STALL_MAX.as_secs() + RECORD_MAX as u64 / PACE_MIN;
    assert!(
        begun.elapsed().as_secs() <= most + 1,
        "{:?}",
        begun.elapsed()
    );
    trickle.await.unwrap();

    // A call that never sends its one message; but a stream may be idle between two.
    let mut silent = call(&budget, PRODUCE);
    let status = silent.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let mut idle = call(&budget, PRODUCE_STREAM);
    idle.send(message(1));
    idle.next().await.unwrap().unwrap();
    let hour = tokio::time::timeout(Duration::from_secs(3600), idle.next());
    assert!(hour.await.is_err(), "it is not ended");
}
