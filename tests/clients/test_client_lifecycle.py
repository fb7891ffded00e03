"""Making, warming, sharing and closing a client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from millirank import AsyncClient, Client, ClientStateError, Outcome
from millirank.testing import FakeSidecar, ranked
from millirank.v1 import rerank_service_pb2 as pb
from peers import DOCUMENTS, ROOMY_MS, stopped_port


async def test_ready_means_reachable_and_serving(client: Any, sidecar: FakeSidecar) -> None:
    """NOT_SERVING is waited for; SERVING ends the wait."""
    sidecar.serving = False
    assert not await client.wait_until_ready(0.2)

    threading.Timer(0.2, lambda: setattr(sidecar, "serving", True)).start()
    assert await client.wait_until_ready(5.0)


async def test_not_ready_in_time_is_false(make_client: Any) -> None:
    """Nobody listens: False, after the time that was given."""
    client = make_client(stopped_port())
    started = time.monotonic()
    assert not await client.wait_until_ready(0.3)
    assert 0.2 < time.monotonic() - started < 1.0
    await client.close()


async def test_connecting_starts_at_construction(make_client: Any) -> None:
    """Without any call, a listener sees the connection."""
    accepted = asyncio.Event()
    server = await asyncio.start_server(lambda reader, writer: accepted.set(), "127.0.0.1", 0)
    async with server:
        client = make_client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.wait_for(accepted.wait(), 2.0)
        await client.close()


async def test_a_slow_handshake_is_waited_for(make_client: Any, sidecar: FakeSidecar) -> None:
    """A peer that needs 300 ms to take a connection (a loaded machine) is reached in spite of the short backoff."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        host, _, port = sidecar.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            return  # one end went away; the other is closed below
        finally:
            sink.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    client = make_client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert await client.wait_until_ready(3.0)
    await client.close()
    server.close()


async def test_a_closed_client_says_so(make_client: Any, sidecar: FakeSidecar) -> None:
    """Use after close() is a mistake of the program, named as such; closing twice is not."""
    client = make_client(sidecar.target)
    await client.close()
    await client.close()

    for attempt in (client.rerank, client.explain):
        with pytest.raises(ClientStateError, match="closed"):
            await attempt("query", DOCUMENTS)
    with pytest.raises(ClientStateError, match="closed"):
        await client.wait_until_ready()


def test_the_context_manager_closes(sidecar: FakeSidecar) -> None:
    """Leaving the with block closes the sync client."""
    with Client(sidecar.target) as client:
        assert client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS).outcome is Outcome.RANKED
    with pytest.raises(ClientStateError):
        client.rerank("query", DOCUMENTS)


def test_closing_right_away_is_clean() -> None:
    """Fifty clients closed while they connect leave no exception in any thread (pytest turns one into a failure)."""
    for _ in range(50):
        Client(stopped_port()).close()


def test_one_client_serves_many_threads(sidecar: FakeSidecar) -> None:
    """Every thread gets the ranking of its own documents."""
    with Client(sidecar.target) as client, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> list[str]:
            documents = [f"{number}-{position}" for position in range(5)]
            return client.rerank("query", documents, budget_ms=ROOMY_MS).documents

        answers = list(pool.map(ask, range(100)))

    assert answers == [[f"{number}-{position}" for position in range(5)][::-1] for number in range(100)]
    assert client.stats.ranked == 100


def test_an_async_client_made_outside_connects_in_its_first_loop(sidecar: FakeSidecar) -> None:
    """Made at import time, used in asyncio.run: works; in a second asyncio.run: refused with the fix."""
    client = AsyncClient(sidecar.target)

    ranking = asyncio.run(client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS))

    assert ranking.outcome is Outcome.RANKED
    with pytest.raises(ClientStateError, match="one AsyncClient per loop"):
        asyncio.run(client.rerank("query", DOCUMENTS))


_FORKING = """
import os, sys
from millirank import Client, ClientStateError

client = Client(sys.argv[1])
assert client.wait_until_ready(30)
if os.fork() == 0:
    try:
        client.rerank("query", ["first", "second"])
    except ClientStateError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_forked_client_says_what_to_do(sidecar: FakeSidecar) -> None:
    """The child of a fork is told to make its own client, instead of hanging or silently falling back. In a process of
    its own: what other tests' gRPC threads hold while this one forks would stay held in the child for ever."""
    forked = subprocess.run(
        [sys.executable, "-c", _FORKING, sidecar.target], capture_output=True, text=True, timeout=60, check=False
    )
    assert (forked.returncode, "before a fork" in forked.stdout) == (0, True), forked.stderr


async def test_own_options_reach_the_channel(make_client: Any, sidecar: FakeSidecar) -> None:
    """The caller's gRPC options are in force: here, its user agent."""
    client = make_client(sidecar.target, options=[("grpc.primary_user_agent", "shop/7")])
    await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
    await client.close()

    assert str(sidecar.metadata[-1]["user-agent"]).startswith("shop/7")


async def test_a_proxy_in_the_environment_is_ignored(
    make_client: Any, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http_proxy does not stand between an application and its sidecar."""
    monkeypatch.setenv("http_proxy", f"http://{stopped_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = make_client(sidecar.target)
    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)
    await client.close()

    assert ranking.outcome is Outcome.RANKED


def _serve(address: str, credentials: grpc.ServerCredentials | None) -> tuple[grpc.Server, int]:
    """A server at ``address`` that answers every Rerank in reverse."""
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: ranked()(request),
        request_deserializer=pb.RerankRequest.FromString,
        response_serializer=pb.RerankResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("millirank.v1.RerankService", {"Rerank": handler}),)
    )
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    server.start()
    return server, port


async def test_a_unix_socket_is_a_target(make_client: Any, tmp_path: Path) -> None:
    """unix:/path works like host:port; without a health service the sidecar counts as ready."""
    target = f"unix:{tmp_path / 'millirank.sock'}"
    server, _ = _serve(target, None)
    client = make_client(target)
    assert await client.wait_until_ready()
    assert (await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)).outcome is Outcome.RANKED
    await client.close()
    server.stop(None).wait()


async def test_credentials_make_it_tls(make_client: Any, tmp_path: Path) -> None:
    """With credentials the channel is TLS: a trusted certificate ranks, an untrusted one is a fallback."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    pair = (key.read_bytes(), certificate.read_bytes())
    server, port = _serve("localhost:0", grpc.ssl_server_credentials([pair]))
    trusting = make_client(f"localhost:{port}", credentials=grpc.ssl_channel_credentials(pair[1]))
    distrusting = make_client(f"localhost:{port}", credentials=grpc.ssl_channel_credentials())

    assert (await trusting.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)).outcome is Outcome.RANKED
    assert (await distrusting.rerank("query", DOCUMENTS, budget_ms=500)).fallback

    await trusting.close()
    await distrusting.close()
    server.stop(None).wait()
