"""What is never computed twice, seen by a client of a real sidecar: answers, pair scores, vectors over a restart."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from millirank import CacheStatus, Client, Outcome, Ranking, Verdict

from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.helpers import arm_data, profile_data

CROSS_ENCODER, LATE_INTERACTION = "tiny-cross-encoder", "minilm-l6"
BUDGET_MS = 30_000.0  # so that a loaded machine never makes the answer less than complete
QUERY = "How do I sort a list of dictionaries by a key?"
TEXTS = [f"Chapter {number}: sorting takes a key function, and number {number * 7} of them." for number in range(60)]


def settings(folder: Path, reranker: str, **variables: str) -> dict[str, str]:
    """One of the embedded models, with a profile in ``folder`` that trusts its scores alone."""
    strategy = "cross_encoder" if reranker == CROSS_ENCODER else "late_interaction"
    other = LATE_INTERACTION if reranker == CROSS_ENCODER else CROSS_ENCODER
    profile = folder / "profile.json"
    profile.write_text(json.dumps(profile_data(**{reranker: arm_data(strategy, ms_per_token=0.15)})))
    return {
        "MILLIRANK_PROFILES": json.dumps([str(profile)]),
        f"MILLIRANK_RERANKERS__{variable_name(other)}__ENABLED": "false",
        **variables,
    }


def variable_name(reranker: str) -> str:
    return reranker.upper().replace("-", "_")


def wait_until_ready(client: Client, reranker: str) -> None:
    """Models load behind the first answers; ExplainRoute tells when."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        decision = client.explain("q", ["a", "b"], budget_ms=BUDGET_MS, timeout_ms=10_000)
        verdicts = {arm.verdict for arm in decision.considered if arm.reranker == reranker}
        if verdicts and Verdict.NOT_READY not in verdicts:
            return
        assert time.monotonic() < deadline, decision
        time.sleep(0.05)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a sidecar whose cross-encoder is ready."""
    with SidecarProcess(settings(tmp_path_factory.mktemp("caches"), CROSS_ENCODER)) as sidecar:
        (address,) = sidecar.addresses
        with Client(address) as client:
            wait_until_ready(client, CROSS_ENCODER)
            yield client


def ranked(client: Client, first: int, last: int, query: str = QUERY, **options: str) -> Ranking[str]:
    """All of ``TEXTS[first:last]``, scored by the cross-encoder."""
    ranking = client.rerank(
        query, TEXTS[first:last], budget_ms=BUDGET_MS, reranker=CROSS_ENCODER, rerank_k=last - first, **options
    )
    assert ranking.outcome is Outcome.RANKED, ranking.degradations
    assert ranking.usage is not None
    assert ranking.usage.pairs == last - first
    return ranking


def computed_pairs(ranking: Ranking[str]) -> int:
    assert ranking.usage is not None
    return ranking.usage.pairs - ranking.usage.cached_pairs


def test_a_repeated_request_costs_nothing(client: Client) -> None:
    """Zero model calls and under 2 ms in the sidecar. (The best of 20: what else the machine does is not ours.)"""
    first = ranked(client, 0, 50, query="repeated")
    again = [ranked(client, 0, 50, query="repeated") for _ in range(20)]
    assert computed_pairs(first) == 50
    for each in again:
        assert each.cache_status is CacheStatus.HIT
        assert each.usage is not None
        assert (computed_pairs(each), each.usage.tokens) == (0, 0)
        assert [item.index for item in each] == [item.index for item in first]
    assert min(each.timing.total_ms for each in again if each.timing is not None) < 2.0


def test_overlapping_candidates_are_not_computed_again(client: Client) -> None:
    """With 80 % of the candidates known, a fifth of the pairs is computed; scores are those of the first time."""
    first = ranked(client, 0, 50, query="overlapping")
    second = ranked(client, 10, 60, query="overlapping")
    assert (computed_pairs(first), computed_pairs(second)) == (50, 10)
    known = {item.document: item.raw_score for item in first}
    shared = [item for item in second if item.document in known]
    assert len(shared) == 40
    assert all(item.raw_score == known[item.document] for item in shared)


@pytest.mark.parametrize("change", [{"instruction": "prefer recent ones"}, {"tenant": "other"}, {"query": "stale!"}])
def test_no_stale_hit(client: Client, change: dict[str, str]) -> None:
    """Invariant 9: another instruction, tenant or query finds neither an answer nor a pair score."""
    ranked(client, 0, 5, query="stale?")
    other = ranked(client, 0, 5, **{"query": "stale?", **change})
    assert other.cache_status is CacheStatus.MISS
    assert computed_pairs(other) == 5


def test_a_restarted_sidecar_is_warm(tmp_path: Path) -> None:
    """Documents that the first process encoded are not encoded by the second one, and score the same."""
    file = {"MILLIRANK_RERANKERS__MINILM_L6__VECTOR_FILE": str(tmp_path / "vectors.db")}
    rankings = []
    for _ in range(2):
        with SidecarProcess(settings(tmp_path, LATE_INTERACTION, **file)) as sidecar:
            (address,) = sidecar.addresses
            with Client(address) as client:
                wait_until_ready(client, LATE_INTERACTION)
                rankings.append(client.rerank(QUERY, TEXTS[:12], budget_ms=BUDGET_MS, reranker=LATE_INTERACTION))
            sidecar.signal(signal.SIGTERM)
            assert sidecar.exit_code() == 0
    cold, warm = rankings
    assert (computed_pairs(cold), computed_pairs(warm)) == (12, 0)
    assert warm.cache_status is CacheStatus.MISS, "this is about vectors; the answer itself must not be kept"
    assert [(item.index, item.raw_score) for item in warm] == [(item.index, item.raw_score) for item in cold]
