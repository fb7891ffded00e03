"""SIGTERM for a sidecar whose event loop is held up: what is on the wire is answered all the same."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request

import pytest

from tests.e2e.rpc import TIMEOUT_S, connected, message, order_of
from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess

TEXTS = ("blue", "red green", "red")
CALLS = 20
HELD_UP_S = 0.7  # longer than a sidecar lingers where nothing is set


@pytest.mark.parametrize("told", ["while it stands still", "before"])
async def test_calls_that_a_held_up_sidecar_has_not_read_are_answered(told: str) -> None:
    """Invariant 8: a process that the system stops for longer than it lingers (SIGSTOP) answers every call that came
    in the meantime, over an open connection and over a new one, wherever in that time SIGTERM came; it ends with 0."""
    with SidecarProcess(NO_MODELS) as sidecar:
        (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
        async with connected(address) as known, connected(address) as new:
            await known.Rerank(message(*TEXTS), timeout=TIMEOUT_S)
            if told == "before":
                sidecar.signal(signal.SIGTERM)
                await asyncio.to_thread(sidecar.wait_for_log, "draining")
            sidecar.signal(signal.SIGSTOP)
            calls = [
                asyncio.ensure_future(stub.Rerank(message(*TEXTS, tenant=f"tenant-{number}"), timeout=TIMEOUT_S))
                for number in range(CALLS // 2)
                for stub in (known, new)
            ]
            if told != "before":
                sidecar.signal(signal.SIGTERM)
            await asyncio.sleep(HELD_UP_S)
            assert not any(call.done() for call in calls)
            sidecar.signal(signal.SIGCONT)
            for answer in await asyncio.gather(*calls):
                assert order_of(answer) == [0, 1, 2]
        assert await asyncio.to_thread(sidecar.exit_code) == 0


async def test_so_are_requests_over_http() -> None:
    """The HTTP listener, too, reads what came while the process was stopped as it lingered."""
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LISTEN__HTTP": "127.0.0.1:0"}) as sidecar:
        opened = await asyncio.to_thread(sidecar.wait_for_log, "serving HTTP")
        body = json.dumps({"model": "any", "query": "red", "documents": TEXTS}).encode()

        def ask() -> list[int]:
            url = f"http://{opened['address']}/v2/rerank"
            with urllib.request.urlopen(url, body, timeout=TIMEOUT_S) as answer:
                return [result["index"] for result in json.load(answer)["results"]]

        assert await asyncio.to_thread(lambda: sidecar.addresses)
        sidecar.signal(signal.SIGTERM)
        await asyncio.to_thread(sidecar.wait_for_log, "draining")
        sidecar.signal(signal.SIGSTOP)
        asked = [asyncio.create_task(asyncio.to_thread(ask)) for _ in range(4)]
        await asyncio.sleep(HELD_UP_S)
        assert not any(each.done() for each in asked)
        sidecar.signal(signal.SIGCONT)
        assert await asyncio.gather(*asked) == [[0, 1, 2]] * len(asked)
        assert await asyncio.to_thread(sidecar.exit_code) == 0
