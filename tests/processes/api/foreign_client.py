"""Drives a running cluster with grpcio: what a client finds that shares no line of code with the server.

Called by foreign_client.rs with a folder of keys, a folder of another authority's keys, a folder of generated
stubs and the nodes' addresses.
Every step is a function; the first that fails ends the run with its reason. The steps of ferrolog.v1 stand in
foreign_native.py.
"""

import queue
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

keys, stranger_keys = Path(sys.argv[1]), Path(sys.argv[2])
addrs = sys.argv[4].split(",")
sys.path.insert(0, sys.argv[3])
# The tree stays clean: what is compiled of the steps is not kept.
sys.dont_write_bytecode = True
import foreign_native  # noqa: E402
from foreign_native import DEADLINE, expect, expect_equal, failure_of  # noqa: E402
from log.v1 import log_pb2, log_pb2_grpc  # noqa: E402

STREAMED = 1000
STRONG = (("ferrolog-consistency", "strong"),)


def credentials(folder, name):
    """The pair of `name` in `folder`, for servers of the real authority."""
    files = (keys / "ca.pem", folder / f"{name}-key.pem", folder / f"{name}.pem")
    return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


def produce(log, value, **fields):
    record = log_pb2.Record(value=value, **fields)
    return log.Produce(log_pb2.ProduceRequest(record=record), timeout=DEADLINE).offset


def consume(log, offset, metadata=()):
    request = log_pb2.ConsumeRequest(offset=offset)
    return log.Consume(request, timeout=DEADLINE, metadata=metadata).record


def servers_are_listed(logs):
    """Waits until every node is a member and one leads; each node says the same."""
    end = time.monotonic() + 3 * DEADLINE
    while True:
        servers = []
        try:
            answers = [log.GetServers(log_pb2.GetServersRequest(), timeout=DEADLINE) for log in logs]
            servers = [sorted((s.rpc_addr, s.is_leader) for s in answer.servers) for answer in answers]
            one_leader = sum(leads for _, leads in servers[0]) == 1
            if one_leader and all(seen == servers[0] and len(seen) == len(addrs) for seen in servers):
                break
        except grpc.RpcError as error:
            servers.append(error)
        expect(time.monotonic() < end, f"no cluster of {len(addrs)} with one leader: {servers}")
        # Between two polls of a condition.
        time.sleep(0.05)
    expect_equal(sorted(addr for addr, _ in servers[0]), sorted(addrs), "the members' addresses")
    expect(all(server.id for server in answers[0].servers), "a member without an id")


def records_come_back_whole(logs):
    samples = [
        dict(value=b"first"),
        dict(value=b""),
        dict(value=bytes(range(256)) * 64),
        dict(value=b"as sent", term=7, type=9),
    ]
    for number, sample in enumerate(samples):
        log = logs[number % len(logs)]
        expect_equal(produce(log, **sample), number, "the offset of a record")
        wanted = log_pb2.Record(offset=number, **sample)
        for reader in logs:
            expect_equal(consume(reader, number, STRONG), wanted, "a strong read after the ack")
    return len(samples)


def a_stream_of_records_is_answered_in_order(logs, start):
    log = logs[-1]
    requests = [log_pb2.ProduceRequest(record=log_pb2.Record(value=b"streamed %d" % n)) for n in range(STREAMED)]
    answers = [answer.offset for answer in log.ProduceStream(iter(requests), timeout=3 * DEADLINE)]
    expect_equal(answers, list(range(start, start + STREAMED)), "the offsets of a stream")
    return start + STREAMED


def consuming_waits_at_the_tail(logs, end):
    call = logs[-1].ConsumeStream(log_pb2.ConsumeRequest(offset=0), timeout=3 * DEADLINE)
    received = queue.Queue()

    def receive():
        try:
            for answer in call:
                received.put(answer.record)
        except grpc.RpcError as error:
            received.put(error)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    for offset in range(end):
        record = received.get(timeout=DEADLINE)
        expect(isinstance(record, log_pb2.Record), f"the stream ended: {record!r}")
        expect_equal(record.offset, offset, "the next offset of the stream")
    try:
        early = received.get(timeout=0.3)
        raise AssertionError(f"something came past the end: {early!r}")
    except queue.Empty:
        pass
    expect_equal(produce(logs[0], b"late"), end, "the offset of the late record")
    expect_equal(received.get(timeout=DEADLINE), log_pb2.Record(value=b"late", offset=end), "the record at the tail")
    call.cancel()
    thread.join(DEADLINE)
    return end + 1


def raw_status(addr, path, message):
    """The grpc-status of a unary call as it stands on the wire; grpcio keeps no number that it does not know."""
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    context.load_cert_chain(keys / "client.pem", keys / "client-key.pem")
    context.set_alpn_protocols(["h2"])
    host, port = addr.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as tcp:
        with context.wrap_socket(tcp, server_hostname=host) as tls:
            expect_equal(tls.selected_alpn_protocol(), "h2", "the protocol agreed on")
            http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
            http.initiate_connection()
            headers = {
                ":method": "POST",
                ":scheme": "https",
                ":authority": addr,
                ":path": path,
                "te": "trailers",
                "content-type": "application/grpc",
            }
            http.send_headers(1, list(headers.items()))
            http.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
            tls.sendall(http.data_to_send())
            seen = {}
            while True:
                data = tls.recv(65536)
                expect(data, f"the connection ended after {seen}")
                for event in http.receive_data(data):
                    if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                        seen.update(event.headers)
                    if isinstance(event, h2.events.StreamEnded):
                        return seen.get("grpc-status")
                tls.sendall(http.data_to_send())


def reading_past_the_end_is_404(logs, end):
    for metadata in ((), STRONG):
        error = failure_of(lambda: consume(logs[0], end + 1000, metadata))
        # A code outside the standard list is shown as UNKNOWN.
        expect_equal(error.code(), grpc.StatusCode.UNKNOWN, "the code of a read past the end")
        trailers = {item.key: item.value for item in error.trailing_metadata()}
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        expect_equal(status.code, 404, "the code in the details")
        messages = [detail for detail in status.details if detail.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR)]
        expect_equal(len(messages), 1, "the number of localized messages")
        message = error_details_pb2.LocalizedMessage()
        messages[0].Unpack(message)
        expect(message.locale and str(end + 1000) in message.message, f"a message that says nothing: {message}")
    request = log_pb2.ConsumeRequest(offset=end + 1000).SerializeToString()
    for addr in addrs:
        expect_equal(raw_status(addr, "/log.v1.Log/Consume", request), "404", "grpc-status on the wire")


def health_is_told(channels):
    for channel in channels:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "log.v1.Log"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
            expect_equal(answer.status, health_pb2.HealthCheckResponse.SERVING, f"the health of {service!r}")
        unknown = failure_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=DEADLINE))
        expect_equal(unknown.code(), grpc.StatusCode.NOT_FOUND, "the health of a service that is not there")


def reflection_shows_the_public_services(channel):
    # The messages of v1 are those of v1alpha under another name.
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="log.v1.Log"),
    ]
    listed, described = list(call(iter(requests), timeout=DEADLINE))
    names = {service.name for service in listed.list_services_response.service}
    expect({"log.v1.Log", "ferrolog.v1.LogService", "ferrolog.v1.ClusterService"} <= names, f"services missing: {names}")
    expect(not any("raft" in name for name in names), f"raft is shown to clients: {names}")
    expect(described.file_descriptor_response.file_descriptor_proto, "no description of log.v1.Log")


def strangers_are_refused():
    ca = (keys / "ca.pem").read_bytes()
    for who, stranger in (
        ("plaintext", None),
        ("no certificate", grpc.ssl_channel_credentials(ca)),
        ("a certificate of another authority", credentials(stranger_keys, "stranger")),
    ):
        channel = grpc.secure_channel(addrs[0], stranger) if stranger else grpc.insecure_channel(addrs[0])
        with channel:
            log = log_pb2_grpc.LogStub(channel)
            error = failure_of(lambda: log.GetServers(log_pb2.GetServersRequest(), timeout=DEADLINE))
            expect_equal(error.code(), grpc.StatusCode.UNAVAILABLE, f"a client with {who}")


def main():
    channels = [grpc.secure_channel(addr, credentials(keys, "client")) for addr in addrs]
    logs = [log_pb2_grpc.LogStub(channel) for channel in channels]
    servers_are_listed(logs)
    end = records_come_back_whole(logs)
    end = a_stream_of_records_is_answered_in_order(logs, end)
    end = consuming_waits_at_the_tail(logs, end)
    reading_past_the_end_is_404(logs, end)
    end = foreign_native.all_steps(channels, end)
    health_is_told(channels)
    reflection_shows_the_public_services(channels[0])
    strangers_are_refused()
    print(f"grpcio {grpc.__version__}: {end} records through {len(addrs)} nodes")


main()
