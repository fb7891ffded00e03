"""A language model behind the sidecar that hangs, drips, refuses or talks nonsense."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from millirank import AsyncClient, Outcome, Ranking, Reason

from tests.e2e.llm_arm import llm_settings, until_ready
from tests.e2e.rpc import connected
from tests.e2e.sidecar_process import SidecarProcess
from tests.faults.watched import PASSAGES, QUERY, TOLERANCE_MS, held
from tests.rerankers.fake_openai import FakeOpenAI, Fault

BUDGET_MS = 400.0
ROWS = [
    (Fault.HANG, 200, {Reason.BACKEND_TIMEOUT, Reason.SIDECAR_TIMEOUT}),
    (Fault.DRIP, 200, {Reason.BACKEND_TIMEOUT, Reason.SIDECAR_TIMEOUT}),
    (Fault.STATUS, 429, {Reason.BACKEND_ERROR}),
    (Fault.STATUS, 503, {Reason.BACKEND_ERROR}),
    (Fault.DROP, 200, {Reason.BACKEND_ERROR}),
    (Fault.FLOOD, 200, {Reason.BACKEND_ERROR, Reason.BAD_OUTPUT, Reason.BACKEND_TIMEOUT}),
    (Fault.NOT_JSON_BODY, 200, {Reason.BACKEND_ERROR, Reason.BAD_OUTPUT}),
    (Fault.NOT_JSON_CONTENT, 200, {Reason.BAD_OUTPUT}),
    (Fault.NESTED, 200, {Reason.BAD_OUTPUT}),
    (Fault.TOO_FEW, 200, {Reason.BAD_OUTPUT}),
    (Fault.SURPLUS, 200, {Reason.BAD_OUTPUT}),
]


@pytest.mark.parametrize(("fault", "status", "reasons"), ROWS, ids=[f"{fault}-{status}" for fault, status, _ in ROWS])
async def test_every_fault_is_first_stage_order_in_time(
    fault: Fault, status: int, reasons: set[Reason], tmp_path: Path
) -> None:
    """Invariants 2, 5 and 7: the order that was sent, its reason, within the budget, after a single attempt; and what
    the answers left behind is given back."""
    async with FakeOpenAI() as server:
        with SidecarProcess(llm_settings(server, tmp_path)) as sidecar:
            (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
            async with connected(address) as stub, AsyncClient(address) as client:
                await until_ready(stub)
                assert (await _ask(client, 20_000.0)).outcome is Outcome.RANKED
                before, asked = held(sidecar.pid), len(server.received)
                server.fault, server.status = fault, status
                started = time.monotonic()
                answer = await _ask(client, BUDGET_MS)
                taken_ms = (time.monotonic() - started) * 1e3
                assert [ranked.index for ranked in answer] == list(range(10))
                assert answer.outcome is Outcome.FIRST_STAGE
                assert set(answer.reasons) <= reasons, answer.degradations
                assert taken_ms <= BUDGET_MS + TOLERANCE_MS
                await asyncio.sleep(0.3)
                assert len(server.received) == asked + 1, "one attempt"
                assert held(sidecar.pid).descriptors <= before.descriptors + 2


async def _ask(client: AsyncClient, budget_ms: float) -> Ranking[str]:
    return await client.rerank(QUERY, PASSAGES[:10], budget_ms=budget_ms, use_cache=False)
