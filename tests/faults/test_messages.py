"""Messages and documents that are made to hurt."""

from __future__ import annotations

import itertools
import socket
import struct
import zlib
from collections.abc import Iterator

import grpc
import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st
from millirank import InvalidRequestError, Outcome
from millirank.v1 import rerank_service_pb2 as pb

from tests.e2e.rpc import TIMEOUT_S
from tests.faults.watched import PASSAGES, Watched, held, until

RERANK = "/millirank.v1.RerankService/Rerank"
MIB = 2**20


def call(shared: Watched, data: bytes, **options: object) -> str:
    """The status that the bytes are answered with."""
    with grpc.insecure_channel(shared.sidecar.addresses[0]) as channel:
        try:
            channel.unary_unary(RERANK)(data, timeout=TIMEOUT_S, **options)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.parametrize(
    "text",
    [
        "x" * MIB,
        "e\u0301" * (MIB // 3),  # a combining mark behind every letter
        "a" + "\u0301" * (MIB // 2),  # one letter under half a million marks
        "\ufdfa" * (MIB // 3),  # one character that normalises to 18
        "\U0001f468\u200d\U0001f469\u200d" * (MIB // 14),  # one endless emoji sequence
        "\x00" * MIB,
    ],
    ids=["no spaces", "combining marks", "one letter", "U+FDFA", "emoji", "zeros"],
)
def test_document_of_1_mb(shared: Watched, text: str) -> None:
    """Invariant 10: it is cut before anything reads it: a list that holds one is answered by the model, in time."""
    answer = shared.ask([*PASSAGES[:5], text])
    assert answer.outcome is not Outcome.FIRST_STAGE, answer.degradations
    assert next(ranked for ranked in answer if ranked.index == 5).truncated
    shared.settled()


def test_a_million_empty_documents(shared: Watched) -> None:
    """2 MB that unfold to a million documents: refused by their number, in less than a second of work."""
    data = pb.RerankRequest(query="q").SerializeToString() + b"\x22\x00" * 1_000_000
    assert len(pb.RerankRequest.FromString(data).documents) == 1_000_000
    assert call(shared, data) == "INVALID_ARGUMENT"
    shared.settled()


def test_gzip_bomb_of_512_mib(shared: Watched) -> None:
    """Invariant 10: half a megabyte that unpacks to 512 MiB never does: RESOURCE_EXHAUSTED, and memory stays.

    Written on the wire by hand, because a client library would have to hold all of it.
    """
    status, peak_mb = _send_bomb(shared)
    assert status == "8", "RESOURCE_EXHAUSTED"
    assert peak_mb < shared.before.memory_mb + 64
    shared.settled()


def _send_bomb(shared: Watched) -> tuple[str, float]:
    """grpc-status of a call whose compressed message unpacks to 512 MiB, and the sidecar's memory after it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(b"\x00" * MIB) for _ in range(512)) + packer.flush()
    assert len(body) < MIB
    host, _, port = shared.sidecar.addresses[0].rpartition(":")
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as sock:
        connection.initiate_connection()
        headers = [
            (":method", "POST"), (":path", RERANK), (":scheme", "http"), (":authority", "localhost"),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip"),
        ]  # fmt: skip
        connection.send_headers(1, headers)
        left = memoryview(struct.pack(">BI", 1, len(body)) + body)
        status = ""
        while not status:
            while left and (size := min(connection.local_flow_control_window(1), 16_384, len(left))) > 0:
                connection.send_data(1, bytes(left[:size]), end_stream=size == len(left))
                left = left[size:]
            sock.sendall(connection.data_to_send())
            for event in connection.receive_data(sock.recv(65_536)):
                if isinstance(event, events.ResponseReceived | events.TrailersReceived):
                    status = dict(event.headers).get("grpc-status", status)
                elif isinstance(event, events.StreamReset | events.ConnectionTerminated):
                    status = status or "reset"
    return status, held(shared.sidecar.pid).memory_mb


def test_text_that_is_no_utf8(shared: Watched) -> None:
    """Bytes that are no UTF-8 are the caller's mistake, not UNKNOWN."""
    assert call(shared, b"\x12\x02\xff\xfe") == "INVALID_ARGUMENT"
    with pytest.raises(InvalidRequestError):
        shared.client.rerank("\ud800", PASSAGES)  # half of a surrogate pair


def _damaged() -> Iterator[bytes]:
    good = pb.RerankRequest(query="q", documents=[pb.Document(id=str(i), text=t) for i, t in enumerate(PASSAGES)])
    data = good.SerializeToString()
    yield from (data[:size] for size in range(1, len(data), 97))
    yield from (data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(0, len(data), 61))


def test_damaged_messages_are_answered_one_way_or_the_other(shared: Watched) -> None:
    """Cut or flipped bytes either still are a request or are INVALID_ARGUMENT; nothing else comes back."""
    seen = {call(shared, data) for data in itertools.islice(_damaged(), 60)}
    assert seen <= {"OK", "INVALID_ARGUMENT"}
    assert "INVALID_ARGUMENT" in seen
    shared.settled()


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_any_bytes_are_answered(shared: Watched, data: bytes) -> None:
    """Whatever the bytes, the status is OK, or names the caller's mistake."""
    assert call(shared, data) in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}


def test_many_connections_that_never_speak(shared: Watched) -> None:
    """200 connections on which nothing is said cost the others nothing, and are forgotten when they close."""
    host, _, port = shared.sidecar.addresses[0].rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=TIMEOUT_S) for _ in range(200)]
    try:
        assert shared.ask().outcome is Outcome.RANKED
    finally:
        for connection in silent:
            connection.close()
    until(lambda: held(shared.sidecar.pid).descriptors <= shared.before.descriptors + 2, "descriptors come back")
