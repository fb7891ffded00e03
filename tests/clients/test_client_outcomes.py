"""What comes back where the sidecar answers, and what was sent to get it."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from millirank import (
    AsyncClient,
    CacheStatus,
    Client,
    DecisionReason,
    Document,
    Outcome,
    Ranking,
    Reason,
    Strategy,
    Verdict,
)
from millirank.testing import FakeSidecar, first_stage, partial, ranked
from millirank.v1 import decision_pb2
from millirank.v1 import rerank_service_pb2 as pb
from peers import DOCUMENTS, ROOMY_MS


@dataclass
class Page:
    """A caller's own class; compared by identity below."""

    url: str
    body: str
    bm25: float


async def test_a_complete_answer_is_ranked_in_the_sidecars_order(client: Any, sidecar: FakeSidecar) -> None:
    """FULL becomes RANKED: order, scores and the caller's documents, no reasons, no fallback."""
    sidecar.behaviour = ranked([2, 0, 3, 1])

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    assert ranking.outcome is Outcome.RANKED
    assert ranking.documents == ["gamma", "alpha", "delta", "beta"]
    assert [entry.index for entry in ranking] == [2, 0, 3, 1]
    assert [entry.score for entry in ranking] == [4.0, 3.0, 2.0, 1.0]
    assert ranking[1].raw_score == 0.5
    assert all(entry.scored for entry in ranking)
    assert (ranking.reasons, ranking.fallback, len(ranking)) == ((), False, 4)


async def test_a_partial_answer_says_which_candidates_were_scored(client: Any, sidecar: FakeSidecar) -> None:
    """PARTIAL keeps the scored prefix, the first-stage tail and the sidecar's reason."""
    sidecar.behaviour = partial(2, Reason.OVERLOADED)

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    assert ranking.outcome is Outcome.PARTIAL
    assert [(entry.index, entry.scored) for entry in ranking] == [
        (1, True),
        (0, True),
        (2, False),
        (3, False),
    ]
    assert (ranking[3].score, ranking[3].raw_score) == (None, None)
    assert ranking.reasons == (Reason.OVERLOADED,)
    assert not ranking.fallback


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.name.startswith("SIDECAR_")])
async def test_every_reason_of_the_sidecar_arrives(client: Any, sidecar: FakeSidecar, reason: Reason) -> None:
    """FIRST_STAGE_ONLY becomes FIRST_STAGE with the sidecar's reason, and is no fallback of the client."""
    sidecar.behaviour = first_stage(reason)

    ranking = await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    assert ranking.outcome is Outcome.FIRST_STAGE
    assert ranking.documents == DOCUMENTS
    assert ranking.reasons == (reason,)
    assert not ranking.fallback


async def test_an_unknown_reason_counts_as_internal(client: Any, sidecar: FakeSidecar) -> None:
    """A newer sidecar's reason is treated like INTERNAL, as the contract says."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        response = first_stage()(request)
        response.degradations[0].reason = 99  # type: ignore[assignment]  # a number of the future
        return response

    sidecar.behaviour = behave

    assert (await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)).reasons == (Reason.INTERNAL,)


async def test_the_callers_own_objects_come_back(client: Any, sidecar: FakeSidecar) -> None:
    """Extractors say what is sent; the ranking holds the very objects that were passed."""
    pages = [Page("/a", "first text", 2.5), Page("/b", "second text", 1.5)]

    ranking = await client.rerank(
        "query",
        pages,
        text=lambda p: p.body,
        id=lambda p: p.url,
        signals=lambda p: {"bm25": p.bm25},
        budget_ms=ROOMY_MS,
    )

    assert ranking.documents[0] is pages[1]
    assert ranking.documents[1] is pages[0]
    sent = sidecar.requests[-1].documents
    assert [(d.id, d.text, dict(d.signals)) for d in sent] == [
        ("/a", "first text", {"bm25": 2.5}),
        ("/b", "second text", {"bm25": 1.5}),
    ]


async def test_documents_and_strings_need_no_extractors(client: Any, sidecar: FakeSidecar) -> None:
    """`Document` brings its own id, text and signals; its payload stays in the process."""
    document = Document("7", "text", {"dense": 0.5}, payload={"private": object()})

    ranking = await client.rerank("query", [document, "plain"], budget_ms=ROOMY_MS)

    assert ranking.documents == ["plain", document]
    sent = sidecar.requests[-1]
    assert sent.documents[0] == pb.Document(id="7", text="text", signals={"dense": 0.5})
    assert sent.documents[1] == pb.Document(text="plain")


async def test_every_option_reaches_the_sidecar(client: Any, sidecar: FakeSidecar) -> None:
    """The request message says what the arguments say."""
    await client.rerank(
        "query",
        DOCUMENTS,
        corpus="docs",
        top_n=2,
        strategy="cross_encoder",
        reranker="bge",
        allowed=[Strategy.SIGNALS, "llm"],
        rerank_k=3,
        instruction="prefer recent ones",
        min_score=-1.5,
        max_cost_micro_usd=0,
        tenant="acme",
        request_id="r-1",
        use_cache=False,
        strict=True,
        budget_ms=ROOMY_MS,
    )

    sent = sidecar.requests[-1]
    sent.budget.ClearField("latency")
    del sent.documents[:]
    assert sent == pb.RerankRequest(
        query="query",
        corpus="docs",
        top_n=2,
        routing=pb.Routing(
            strategy=decision_pb2.STRATEGY_CROSS_ENCODER,
            reranker="bge",
            allowed=[decision_pb2.STRATEGY_SIGNALS, decision_pb2.STRATEGY_LLM],
            rerank_k=3,
        ),
        instruction="prefer recent ones",
        min_score=-1.5,
        budget=pb.Budget(
            max_cost_micro_usd=0, overrun_policy=pb.OVERRUN_POLICY_FAIL, deadline_slack=Duration(nanos=51_000_000)
        ),
        tenant="acme",
        request_id="r-1",
        cache_control=pb.CACHE_CONTROL_BYPASS,
    )
    assert sent.budget.HasField("max_cost_micro_usd")


async def test_a_plain_call_asks_for_nothing_special(client: Any, sidecar: FakeSidecar) -> None:
    """Defaults: no cost limit, no minimum score, best effort, the cache may answer, the router chooses."""
    await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    sent = sidecar.requests[-1]
    assert not sent.HasField("min_score")
    assert not sent.budget.HasField("max_cost_micro_usd")
    assert sent.budget.overrun_policy == pb.OVERRUN_POLICY_UNSPECIFIED
    assert sent.cache_control == pb.CACHE_CONTROL_UNSPECIFIED
    assert sent.routing.strategy == decision_pb2.STRATEGY_AUTO


async def test_the_sidecar_gets_what_is_left_less_the_reserve(client: Any, sidecar: FakeSidecar) -> None:
    """What preparing took (here 80 ms of the caller's own) and 1 ms for the transport are taken off the budget."""

    def slow_text(document: str) -> str:
        time.sleep(0.02)
        return document

    await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS, text=slow_text)

    sent_ms = sidecar.requests[-1].budget.latency.ToNanoseconds() / 1e6
    assert ROOMY_MS / 2 < sent_ms <= ROOMY_MS - 80 - 1


async def test_the_reserve_is_the_callers_to_choose(make_client: Any, sidecar: FakeSidecar) -> None:
    """With reserve_ms=500, a budget of 10 s leaves the sidecar at most 9.5 s."""
    client = make_client(sidecar.target, reserve_ms=500)
    await client.rerank("query", DOCUMENTS, budget_ms=10_000)
    await client.close()

    assert 5_000 < sidecar.requests[-1].budget.latency.ToMilliseconds() <= 9_500


@pytest.mark.parametrize(("arguments", "sent_us"), [({}, 99_000), ({"budget_ms": 5}, 4_500)])
async def test_the_reserve_is_one_ms_or_a_tenth(
    client: Any, sidecar: FakeSidecar, arguments: dict[str, float], sent_us: int
) -> None:
    """Of the default budget of 100 ms, 99 are sent; of 5 ms, 4.5."""
    await client.explain("query", DOCUMENTS, **arguments)

    assert sidecar.requests[-1].budget.latency.ToMicroseconds() == sent_us


async def test_top_n_and_min_score_may_shorten_the_answer(client: Any, sidecar: FakeSidecar) -> None:
    """top_n results are a complete answer; with min_score, fewer are."""
    assert [entry.index for entry in await client.rerank("query", DOCUMENTS, top_n=2, budget_ms=ROOMY_MS)] == [3, 2]

    sidecar.behaviour = ranked([1])
    ranking = await client.rerank("query", DOCUMENTS, min_score=0.7, budget_ms=ROOMY_MS)
    assert (ranking.outcome, ranking.documents) == (Outcome.RANKED, ["beta"])


async def test_the_ranking_carries_decision_timing_and_usage(client: Any, sidecar: FakeSidecar) -> None:
    """Everything that the sidecar says about an answer is there, in ms and plain enums."""

    def behave(request: pb.RerankRequest) -> pb.RerankResponse:
        response = ranked()(request)
        response.timing.total.FromNanoseconds(12_345_678)
        response.timing.queue.FromMilliseconds(2)
        response.usage.tokens = 700
        response.cache_status = pb.CACHE_STATUS_SHARED
        arm = response.decision.considered.add(
            strategy=decision_pb2.STRATEGY_LLM,
            reranker="gpt",
            rerank_k=50,
            expected_gain=0.12,
            predicted_cost_micro_usd=300,
            verdict=decision_pb2.VERDICT_OVER_BUDGET,
            detail="1.9 s",
        )
        arm.predicted_p95.FromMilliseconds(1900)
        return response

    sidecar.behaviour = behave

    ranking: Ranking[str] = await client.rerank("query", DOCUMENTS, request_id="r-9", budget_ms=ROOMY_MS)

    assert ranking.decision is not None
    assert (ranking.decision.strategy, ranking.decision.reason) == (
        Strategy.CROSS_ENCODER,
        DecisionReason.BEST_EXPECTED_GAIN,
    )
    (arm,) = ranking.decision.considered
    assert (arm.strategy, arm.predicted_p95_ms, arm.verdict) == (Strategy.LLM, 1900.0, Verdict.OVER_BUDGET)
    assert ranking.timing is not None
    assert (ranking.timing.total_ms, ranking.timing.queue_ms) == (12.345678, 2.0)
    assert ranking.usage is not None
    assert (ranking.usage.pairs, ranking.usage.tokens) == (4, 700)
    assert (ranking.request_id, ranking.cache_status) == ("r-9", CacheStatus.SHARED)
    assert 0 < ranking.elapsed_ms < ROOMY_MS


async def test_no_documents_are_answered_without_asking(client: Any, sidecar: FakeSidecar) -> None:
    """An empty list is a complete, empty ranking; nothing is sent."""
    ranking = await client.rerank("query", [], budget_ms=ROOMY_MS)

    assert (ranking.outcome, len(ranking)) == (Outcome.RANKED, 0)
    assert sidecar.requests == []


async def test_explain_returns_the_decision(client: Any, sidecar: FakeSidecar) -> None:
    """ExplainRoute gets the same request with its whole budget, and its decision comes back as data."""
    arm = sidecar.decision.considered.add(rerank_k=25, verdict=decision_pb2.VERDICT_CHOSEN)
    arm.predicted_p50.FromMicroseconds(1500)

    decision = await client.explain("query", DOCUMENTS, budget_ms=40, corpus="docs")

    assert decision.strategy is Strategy.CROSS_ENCODER
    assert decision.chosen is not None
    assert (decision.chosen.rerank_k, decision.chosen.predicted_p50_ms) == (25, 1.5)
    sent = sidecar.requests[-1]
    assert (sent.corpus, len(sent.documents), sent.budget.latency.ToMilliseconds()) == ("docs", 4, 39)


async def test_calls_are_counted_by_their_outcome(client: Any, sidecar: FakeSidecar) -> None:
    """Stats tell ranked, partial and first-stage answers apart; the sidecar's own are no fallbacks."""
    for behaviour in (ranked(), ranked(), partial(1), first_stage()):
        sidecar.behaviour = behaviour
        await client.rerank("query", DOCUMENTS, budget_ms=ROOMY_MS)

    stats = client.stats
    assert (stats.calls, stats.ranked, stats.partial, stats.first_stage, stats.raised) == (4, 2, 1, 1, 0)
    assert (dict(stats.fallbacks), stats.late) == ({}, 0)


@pytest.mark.parametrize("method", ["__init__", "rerank", "explain", "wait_until_ready"])
def test_both_clients_take_the_same_arguments(method: str) -> None:
    """Whoever knows one client knows the other: names, kinds and defaults are equal."""
    sync, aio = (inspect.signature(getattr(kind, method)) for kind in (Client, AsyncClient))
    assert list(sync.parameters.values()) == list(aio.parameters.values())


def test_a_sidecar_that_knows_more_strategies_is_understood() -> None:
    """Enum values of the future become UNSPECIFIED in a decision instead of an error."""
    from millirank._wire import decision_from

    raw = decision_pb2.Decision.FromString(b"\x10\x63\x48\x63")  # strategy = 99, reason = 99
    decision = decision_from(raw)
    assert (decision.strategy, decision.reason) == (Strategy.UNSPECIFIED, DecisionReason.UNSPECIFIED)
