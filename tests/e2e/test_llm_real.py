"""The LLM arm against a real server and a real, if tiny, model: plumbing, budget, price and fallback, not quality."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from sidecar.rerankers.llm import LlmReranker
from tests.e2e import llama_server
from tests.e2e.llama_server import LlamaServer
from tests.e2e.llm_arm import llm_settings, until_ready
from tests.e2e.rpc import TIMEOUT_S, connected, message, order_of, reasons_of
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.rerankers.llm_cases import request_for, until_loaded

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(llama_server.why_not()), reason=llama_server.why_not()),
]

PASSAGES = ("A red fox.", "The sky is blue.", "Green tea is a drink.", "csv.reader reads rows.", "Threads can join.")
GENEROUS_MS = 1000 * PATIENCE_S
# What the model takes seconds for has not been computed within this; what was kept is there long before.
AT_ONCE_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar whose LLM arm is ready, the model behind it, a stub, and the answer to `asked`."""

    server: LlamaServer
    stub: Any
    first: pb.RerankResponse


def asked(query: str = "how to read a csv file", budget_ms: float = GENEROUS_MS) -> pb.RerankRequest:
    """The LLM forced over five short passages."""
    return message(*PASSAGES, query=query, budget_ms=budget_ms, routing=pb.Routing(reranker="llm", rerank_k=5))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One server and one sidecar for all tests of this file: a call takes the model seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        with LlamaServer() as server:
            variables = llm_settings(server, tmp_path_factory.mktemp("llm")) | {
                "MILLIRANK_RERANKERS__LLM__PROMPT_MICRO_USD_PER_1K": "150",
                "MILLIRANK_RERANKERS__LLM__COMPLETION_MICRO_USD_PER_1K": "600",
                "MILLIRANK_LINGER_S": "0",
            }
            with SidecarProcess(variables) as sidecar:
                (address,) = await asyncio.to_thread(lambda: sidecar.addresses)
                async with connected(address) as stub:
                    await until_ready(stub)
                    first = await stub.Rerank(asked(), timeout=PATIENCE_S)
                    yield Running(server, stub, first)


async def test_a_real_model_grades_within_the_schema(running: Running) -> None:
    """A forced LLM with time enough: FULL, an integer from 0 to 10 for each passage, its own usage, and its price."""
    answer = running.first
    assert (answer.completeness, reasons_of(answer)) == (pb.COMPLETENESS_FULL, [])
    assert answer.decision.strategy == dpb.STRATEGY_LLM
    assert answer.decision.scored_k == 5
    assert sorted(order_of(answer)) == list(range(5))
    assert all(result.raw_score in range(11) for result in answer.results)
    assert answer.usage.tokens > 100  # the system prompt alone is longer
    # Between all tokens at the prompt's price and all at the completion's, in whole micro-USD.
    assert 0.150 * answer.usage.tokens - 1 < answer.usage.cost_micro_usd < 0.600 * answer.usage.tokens
    assert running.server.tokens_read() > 100


async def test_the_same_question_is_answered_from_the_cache(running: Running) -> None:
    """The second equal request is a HIT: the same answer at no cost, at once, and the model is not asked."""
    before = running.server.tokens_read()
    times_s = []
    for _ in range(5):
        started = time.monotonic()
        answer = await running.stub.Rerank(asked(), timeout=TIMEOUT_S)
        times_s.append(time.monotonic() - started)
        assert answer.cache_status == pb.CACHE_STATUS_HIT
        assert answer.usage.cost_micro_usd == 0
        assert list(answer.results) == list(running.first.results)
    assert min(times_s) < AT_ONCE_S  # the fastest: the machine may be busy with something else
    assert running.server.tokens_read() == before


async def test_a_small_budget_is_kept(running: Running) -> None:
    """300 ms for what takes the model seconds: first-stage order in time and the reason; the model is told to stop."""
    started = time.monotonic()
    answer = await running.stub.Rerank(asked("which animal is red", budget_ms=300.0), timeout=PATIENCE_S)
    elapsed_s = time.monotonic() - started
    assert order_of(answer) == list(range(5))
    assert answer.completeness == pb.COMPLETENESS_FIRST_STAGE_ONLY
    assert set(reasons_of(answer)) <= {"BACKEND_TIMEOUT", "BUDGET_TOO_SMALL", "BUDGET_EXHAUSTED"}
    assert reasons_of(answer)
    # Loose, because the machine may be loaded; the model took longer than this for the first request.
    assert elapsed_s < 1.0
    await asyncio.to_thread(running.server.wait_until_idle)


async def test_an_empty_purse_never_calls(running: Running) -> None:
    """AUTO that may spend nothing: the LLM is OVER_COST and the model is not asked."""
    await asyncio.to_thread(running.server.wait_until_idle)
    before = running.server.tokens_read()
    sent = message(*PASSAGES, query="what to drink", budget_ms=GENEROUS_MS)
    sent.budget.max_cost_micro_usd = 0
    answer = await running.stub.Rerank(sent, timeout=TIMEOUT_S)
    assert (order_of(answer), reasons_of(answer)) == (list(range(5)), ["BUDGET_TOO_SMALL"])
    assert dpb.VERDICT_OVER_COST in {arm.verdict for arm in answer.decision.considered}
    assert running.server.tokens_read() == before


async def test_pointwise_grades_one_by_one(running: Running) -> None:
    """The reranker alone, pointwise: a real server takes several calls at a time, and each brings one grade."""
    pointwise = LlmReranker("llm", running.server.base_url, "m", prompting="pointwise", timeout_s=PATIENCE_S)
    llm = await until_loaded(pointwise)
    scored = await llm.score(request_for("what to drink", *PASSAGES[1:3]), PATIENCE_S)
    assert len(scored.scores) == 2
    assert all(score in range(11) for score in scored.scores)
    assert scored.unscored == frozenset()
    assert scored.tokens > 2 * 100
    await llm.close()
