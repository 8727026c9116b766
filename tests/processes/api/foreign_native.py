"""The steps of foreign_client.py for ferrolog.v1: batches, sessions, fences, cursors, and streams with credit.

Each takes the nodes and where the log ends, and gives where it ends then.
"""

import os
import queue
import time

import grpc
from ferrolog.v1 import log_pb2, log_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

DEADLINE = 20
STREAMED = 200
CREDIT = 1 << 20


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def expect_equal(got, wanted, what):
    expect(got == wanted, f"{what}: got {got!r}, wanted {wanted!r}")


def failure_of(call):
    """The error that a call ends with."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {answer!r}")


def expect_refused(call, code, reason, **details):
    """The call fails with this code, and its details hold this reason and these numbers or names."""
    error = failure_of(call)
    what = f"{reason}: {error.code()} {error.details()}"
    expect_equal(error.code(), code, what)
    trailers = {item.key: item.value for item in error.trailing_metadata()}
    expect("grpc-status-details-bin" in trailers, f"{what}: no details")
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    expect_equal(status.code, code.value[0], f"{what}: the code in the details")
    info = error_details_pb2.ErrorInfo()
    infos = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)]
    expect_equal(len(infos), 1, f"{what}: the number of reasons")
    infos[0].Unpack(info)
    expect_equal((info.domain, info.reason), ("ferrolog", reason), what)
    for key, value in details.items():
        expect_equal(info.metadata[key], str(value), f"{what}: {key}")


class Sender:
    """The requests of a stream, sent one by one."""

    END = object()

    def __init__(self):
        self.requests = queue.Queue()

    def __iter__(self):
        return iter(self.requests.get, self.END)

    def send(self, request):
        self.requests.put(request)

    def end(self):
        self.requests.put(self.END)


def batch_of(*records):
    records = [r if isinstance(r, log_pb2.Record) else log_pb2.Record(value=r) for r in records]
    return log_pb2.Batch(records=log_pb2.Records(records=records).SerializeToString(), count=len(records))


def request_of(*records, **fields):
    return log_pb2.ProduceRequest(batch=batch_of(*records), **fields)


def produce(node, *records, **fields):
    return node.Produce(request_of(*records, **fields), timeout=DEADLINE)


STRONG = log_pb2.Consistency(strong=log_pb2.Strong())


def consume(node, start, **fields):
    fields.setdefault("consistency", STRONG)
    return node.Consume(log_pb2.ConsumeRequest(start=start, **fields), timeout=DEADLINE)


def at(offset):
    return log_pb2.Start(offset=offset)


def records_in(batches):
    """Offset and record of each one in some stored batches."""
    found = []
    for stored in batches:
        expect_equal(stored.batch.compression, log_pb2.COMPRESSION_UNSPECIFIED, "a batch that nobody wants compressed")
        records = log_pb2.Records.FromString(stored.batch.records).records
        expect_equal(len(records), stored.batch.count, "the count of a batch")
        found.extend((stored.first_offset + number, record) for number, record in enumerate(records))
    return found


def limits_are_told(nodes):
    for node in nodes:
        limits = node.GetLimits(log_pb2.GetLimitsRequest(), timeout=DEADLINE)
        for field in limits.DESCRIPTOR.fields:
            expect(getattr(limits, field.name) > 0, f"no limit in {field.name}")
        expect(limits.record_bytes_max <= limits.batch_decompressed_bytes_max, f"a record without room: {limits}")
        expect(limits.batch_bytes_max < limits.message_bytes_max, f"a batch without room: {limits}")


def a_batch_comes_back_whole(nodes, end):
    headers = [log_pb2.Header(name="h", value=b"1"), log_pb2.Header(name="h", value=bytes(range(256)))]
    sent = [
        log_pb2.Record(value=b"a", key=b"k", headers=headers, client_timestamp_ms=1_700_000_000_123),
        log_pb2.Record(value=b""),
        log_pb2.Record(value=b"c", key=b""),
    ]
    answer = produce(nodes[1], *sent, log="default")
    expect_equal((answer.first_offset, answer.count, answer.duplicate), (end, 3, False), "the answer to a batch")
    expect(answer.append_timestamp_ms > 0, "a batch without a time")
    for node in nodes:
        read = consume(node, at(end))
        expect_equal(records_in(read.batches), list(enumerate(sent, end)), "a batch that is read back")
        expect_equal(read.next_offset, end + 3, "where to read on")
        expect_equal({stored.append_timestamp_ms for stored in read.batches}, {answer.append_timestamp_ms}, "its time")
        expect(read.freshness.node, "an answer without its node's name")
        expect(read.freshness.applied_offset >= end + 3, f"a strong read of a node that is behind: {read.freshness}")
    found = dict(records_in(consume(nodes[0], at(end)).batches))
    keys = [found[end + number].HasField("key") for number in range(3)]
    expect_equal(keys, [True, False, True], "which records have a key")
    wrong = batch_of(b"one", b"two")
    wrong.count = 3
    error = failure_of(lambda: nodes[0].Produce(log_pb2.ProduceRequest(batch=wrong), timeout=DEADLINE))
    expect_equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT, "a wrong count")
    elsewhere = failure_of(lambda: produce(nodes[0], b"one", log="no-such"))
    expect(elsewhere.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), f"a log: {elsewhere}")
    return end + 3, answer.append_timestamp_ms


def ranges_are_read(nodes, end, timestamp):
    first = end - 3
    offsets = lambda answer: [offset for offset, _ in records_in(answer.batches)]  # noqa: E731
    read = consume(nodes[0], at(first), records_max=2)
    expect_equal((offsets(read), read.next_offset), ([first, first + 1], first + 2), "two records")
    read = consume(nodes[1], at(first), bytes_max=1)
    expect(offsets(read)[0] == first, f"at least one record comes: {offsets(read)}")
    read = consume(nodes[2], log_pb2.Start(tail=2))
    expect_equal(offsets(read), [first + 1, first + 2], "the last two")
    read = consume(nodes[0], log_pb2.Start(edge=log_pb2.EDGE_EARLIEST), records_max=1)
    expect_equal((offsets(read), read.first_offset), ([0], 0), "the first one")
    read = consume(nodes[1], log_pb2.Start(timestamp_ms=timestamp), records_max=1)
    expect(offsets(read)[0] <= first, "the first record of that time")
    read = consume(nodes[2], log_pb2.Start(edge=log_pb2.EDGE_LATEST))
    expect_equal((offsets(read), read.next_offset), ([], end), "the end")
    begun = time.monotonic()
    read = consume(nodes[2], at(end), wait_ms_max=300)
    expect_equal((offsets(read), read.next_offset), ([], end), "the end after a wait")
    expect(time.monotonic() - begun >= 0.25, "it did not wait")
    at_least = log_pb2.Consistency(at_least_offset=end)
    read = consume(nodes[1], at(end - 1), consistency=at_least)
    expect_equal(offsets(read), [end - 1], "a read of at least an offset")
    bounded = log_pb2.Consistency(bounded_ms=DEADLINE * 1000)
    relaxed = log_pb2.Consistency(relaxed=log_pb2.Relaxed())
    for consistency in (bounded, relaxed):
        expect_equal(offsets(consume(nodes[0], at(0), consistency=consistency, records_max=1)), [0], "a record")


def an_append_may_be_conditional(nodes, end):
    answer = produce(nodes[2], b"conditional", expected_next_offset=end)
    expect_equal(answer.first_offset, end, "where it was to stand")
    for node in nodes:
        expect_refused(
            lambda node=node: produce(node, b"late", expected_next_offset=end),
            grpc.StatusCode.ABORTED,
            "OFFSET_DIFFERS",
            next_offset=end + 1,
        )
    return end + 1


def a_session_appends_once(nodes, end):
    secret = os.urandom(16)
    opened = [node.OpenSession(log_pb2.OpenSessionRequest(secret=secret), timeout=DEADLINE) for node in nodes]
    expect_equal(len({answer.session for answer in opened}), 1, "sessions of one secret")
    expect(opened[0].idle_ms_max > 0, "a session without a time")
    other = nodes[0].OpenSession(log_pb2.OpenSessionRequest(secret=os.urandom(16)), timeout=DEADLINE).session
    session = opened[0].session
    expect(other != session, "a session that was given twice")

    def numbered(sequence, secret=secret):
        return log_pb2.SessionSequence(session=session, sequence=sequence, secret=secret)

    first = numbered(0)
    for number, node in enumerate(nodes):
        answer = produce(node, b"once", b"and once", session=first)
        wanted = (end, 2, number > 0)
        expect_equal((answer.first_offset, answer.count, answer.duplicate), wanted, "a batch that is sent again")
    second = numbered(2)
    answer = produce(nodes[1], b"next", session=second)
    expect_equal((answer.first_offset, answer.duplicate), (end + 2, False), "the next batch")
    gap = numbered(9)
    refuse = lambda: produce(nodes[2], b"too early", session=gap)  # noqa: E731
    expect_refused(refuse, grpc.StatusCode.ABORTED, "SEQUENCE_GAP", expected=3)
    other = lambda: produce(nodes[2], b"another", b"of two", session=first)  # noqa: E731
    expect_refused(other, grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_REUSED", expected=3)
    guess = lambda: produce(nodes[1], b"not ours", session=numbered(3, os.urandom(16)))  # noqa: E731
    expect_refused(guess, grpc.StatusCode.PERMISSION_DENIED, "NOT_OWNER")
    close = lambda secret: nodes[0].CloseSession(  # noqa: E731
        log_pb2.CloseSessionRequest(session=session, secret=secret), timeout=DEADLINE
    )
    expect_refused(lambda: close(os.urandom(16)), grpc.StatusCode.PERMISSION_DENIED, "NOT_OWNER")
    close(secret)
    third = numbered(3)
    refuse = lambda: produce(nodes[1], b"too late", session=third)  # noqa: E731
    expect_refused(refuse, grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")
    return end + 3


def a_stream_of_batches_is_answered_in_order(nodes, end):
    sender = Sender()
    answers = nodes[2].ProduceStream(iter(sender), timeout=3 * DEADLINE)
    credit = next(answers)
    expect(credit.credit_bytes > 0 and credit.credit_batches > 0, f"no credit: {credit}")
    expect(not credit.HasField("ack"), "the first answer is the credit alone")
    sent = acked = 0
    while acked < STREAMED:
        while sent < min(STREAMED, acked + credit.credit_batches):
            produced = request_of(b"streamed %d" % sent, b"and this")
            sender.send(log_pb2.ProduceStreamRequest(produce=produced))
            sent += 1
        answer = next(answers)
        expect_equal((answer.credit_bytes, answer.ack.count), (0, 2), "an answer after the first")
        expect_equal(answer.ack.first_offset, end + 2 * acked, "the offsets of a stream")
        acked += 1
    sender.end()
    expect_equal(list(answers), [], "answers that nothing was sent for")
    # The first error ends a stream.
    requests = [request_of(b"right"), request_of(b"wrong", expected_next_offset=0), request_of(b"unheard")]
    requests = [log_pb2.ProduceStreamRequest(produce=request) for request in requests]
    answers = nodes[0].ProduceStream(iter(requests), timeout=DEADLINE)
    end += 2 * STREAMED
    expect(next(answers).credit_batches > 0, "no credit")
    expect_equal(next(answers).ack.first_offset, end, "the batch before the error")
    expect_refused(lambda: next(answers), grpc.StatusCode.ABORTED, "OFFSET_DIFFERS")
    return consume(nodes[0], log_pb2.Start(edge=log_pb2.EDGE_LATEST)).next_offset


def a_stream_gives_what_it_has_credit_for(nodes, end):
    sender = Sender()
    start = log_pb2.ConsumeStreamStart(start=at(0), heartbeat_ms=100)
    sender.send(log_pb2.ConsumeStreamRequest(start=start))
    answers = nodes[1].ConsumeStream(iter(sender), timeout=3 * DEADLINE)
    for _ in range(3):
        answer = next(answers)
        expect_equal((len(answer.batches), answer.next_offset), (0, 0), "a heartbeat without credit")
        expect(answer.freshness.node, "a heartbeat without a name")
    sender.send(log_pb2.ConsumeStreamRequest(credit_bytes=CREDIT))
    found, late = [], None
    while late is None or len(found) <= late:
        answer = next(answers)
        expect_equal(answer.first_offset, 0, "where the log begins")
        found.extend(offset for offset, _ in records_in(answer.batches))
        expect_equal(found, list(range(answer.next_offset)), "the offsets of a stream")
        spent = sum(len(stored.batch.records) for stored in answer.batches)
        if spent:
            sender.send(log_pb2.ConsumeStreamRequest(credit_bytes=spent))
        if late is None and len(found) == end:
            late = produce(nodes[0], b"late").first_offset
            expect_equal(late, end, "the offset of the late record")
    answers.cancel()
    sender.end()
    return end + 1


def cursors_are_kept(nodes, end):
    commit = lambda node, name, offset, **fields: node.CommitCursor(  # noqa: E731
        log_pb2.CommitCursorRequest(name=name, offset=offset, **fields), timeout=DEADLINE
    )
    get = lambda node, name: node.GetCursor(log_pb2.GetCursorRequest(name=name), timeout=DEADLINE).cursor  # noqa: E731
    missing = lambda: get(nodes[0], "no-such")  # noqa: E731
    expect_refused(missing, grpc.StatusCode.NOT_FOUND, "NO_SUCH_CURSOR")
    lost = lambda: consume(nodes[0], log_pb2.Start(cursor="no-such"))  # noqa: E731
    expect_refused(lost, grpc.StatusCode.NOT_FOUND, "NO_SUCH_CURSOR")
    commit(nodes[0], "first", 1, create_only=True)
    commit(nodes[1], "first", 5, expected_offset=1)
    differs = lambda: commit(nodes[2], "first", 9, expected_offset=1)  # noqa: E731
    expect_refused(differs, grpc.StatusCode.ABORTED, "CURSOR_DIFFERS", offset=5)
    commit(nodes[2], "second", end)
    for node in nodes:
        cursor = get(node, "first")
        expect_equal((cursor.name, cursor.offset), ("first", 5), "a cursor, by any node")
        expect(cursor.updated_ms > 0, f"a cursor without a time: {cursor}")

    def pages():
        listed, token = [], ""
        while True:
            request = log_pb2.ListCursorsRequest(page_size=1, page_token=token)
            answer = nodes[0].ListCursors(request, timeout=DEADLINE)
            expect(len(answer.cursors) <= 1, "a page of more than was asked for")
            listed.extend((cursor.name, cursor.offset) for cursor in answer.cursors)
            token = answer.next_page_token
            if not token:
                return listed

    expect_equal(pages(), [("first", 5), ("second", end)], "both cursors, by name")
    read = consume(nodes[0], log_pb2.Start(cursor="first"), records_max=1)
    expect_equal(records_in(read.batches)[0][0], 5, "where a cursor stands")
    delete = lambda: nodes[1].DeleteCursor(log_pb2.DeleteCursorRequest(name="first"), timeout=DEADLINE)  # noqa: E731
    expect_equal([delete().deleted, delete().deleted], [True, False], "a cursor that is deleted twice")


def an_epoch_fences_its_predecessor(nodes, end):
    def claim(node, holder, token, **fields):
        request = log_pb2.ClaimEpochRequest(name="writer", holder=holder, token=token, **fields)
        return node.ClaimEpoch(request, timeout=DEADLINE)

    def current(node):
        answer = node.GetEpoch(log_pb2.GetEpochRequest(name="writer"), timeout=DEADLINE)
        return answer.epoch, answer.holder

    def fenced(node, epoch):
        return produce(node, b"fenced", fence=log_pb2.Fence(name="writer", epoch=epoch))

    expect_equal(current(nodes[0]), (0, ""), "a name that nobody claimed")
    old, new = os.urandom(16), os.urandom(16)
    for node in nodes[:2]:
        claimed = claim(node, "old", old, expected_epoch=0)
        expect_equal((claimed.epoch, claimed.next_offset), (1, end), "a claim, made again")
    expect_equal(fenced(nodes[2], 1).first_offset, end, "an append in a name")
    claimed = claim(nodes[2], "new", new)
    expect_equal((claimed.epoch, claimed.next_offset), (2, end + 1), "the next claim")
    for node in nodes:
        expect_equal(current(node), (2, "new"), "who holds the name")
        refuse = lambda node=node: fenced(node, 1)  # noqa: E731
        expect_refused(refuse, grpc.StatusCode.FAILED_PRECONDITION, "FENCED", epoch=2)
    expect_equal(fenced(nodes[0], 2).first_offset, end + 1, "an append of the new holder")
    late = lambda: claim(nodes[1], "late", os.urandom(16), expected_epoch=1)  # noqa: E731
    expect_refused(late, grpc.StatusCode.ABORTED, "EPOCH_DIFFERS", epoch=2)
    return end + 2


def all_steps(channels, end):
    nodes = [log_pb2_grpc.LogServiceStub(channel) for channel in channels]
    limits_are_told(nodes)
    end, timestamp = a_batch_comes_back_whole(nodes, end)
    ranges_are_read(nodes, end, timestamp)
    end = an_append_may_be_conditional(nodes, end)
    end = a_session_appends_once(nodes, end)
    end = a_stream_of_batches_is_answered_in_order(nodes, end)
    end = a_stream_gives_what_it_has_credit_for(nodes, end)
    cursors_are_kept(nodes, end)
    return an_epoch_fences_its_predecessor(nodes, end)
