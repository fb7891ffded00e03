"""The latency sweep: how time is shared out, by hand; then real sidecars, cold and warm, with the embedded models."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.collection import Collection
from sidecar.calibrate.latency_plan import affordable, spread
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.sweep_latency import sweep_latency
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.reranker_settings import CascadeSettings, LlmSettings
from sidecar.settings import Settings
from tests.calibrate.subjects import collection, whole_collection
from tests.rerankers.fake_openai import FakeOpenAI

KS = (5, 20)
REQUESTS = 4


# --- how time is shared out ---


def test_everybody_gets_all_requests_where_there_is_time() -> None:
    """(1 + 2) s ten times fit into 30 s, and into any time where no limit is given."""
    assert affordable([1.0, 2.0], 10, 30.0, 3) == [10, 10]
    assert affordable([1.0, 2.0], 10, None, 3) == [10, 10]


def test_the_dear_ones_get_fewer() -> None:
    """60 s for requests of 0.1, 1 and 5 s: 50 of the first take 5 s, which leaves 27.5 s each for the others, of which
    27 and 5 requests fit."""
    assert affordable([5.0, 0.1, 1.0], 50, 60.0, 3) == [5, 50, 27]


def test_nobody_gets_fewer_than_the_fewest() -> None:
    """Even where that takes longer than there is time; nor more than were asked for."""
    assert affordable([100.0, 0.001], 50, 10.0, 3) == [3, 50]
    assert affordable([100.0, 0.001], 2, 10.0, 3) == [2, 2]


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=12), st.integers(3, 60), st.floats(0, 1e4))
def test_the_plan_fits_the_time_but_for_the_fewest(costs: list[float], requests: int, left_s: float) -> None:
    """What goes beyond the fewest never takes longer than the time; cheaper cells never get less than dearer ones."""
    plan = affordable(costs, requests, left_s, 3)
    assert all(3 <= count <= requests for count in plan)
    beyond = sum(cost * count for cost, count in zip(costs, plan, strict=True) if count > 3)
    assert beyond <= left_s * (1 + 1e-9)
    by_cost = [count for _, count in sorted(zip(costs, plan, strict=True))]
    assert all(cheaper >= dearer for cheaper, dearer in pairwise(by_cost))


def test_cells_take_turns_evenly() -> None:
    """Four rounds; who has two requests is in every second one, who has one in the last."""
    assert spread([4, 2, 1]) == [[0], [0, 1], [0], [0, 1, 2]]
    assert spread([]) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_every_cell_is_in_as_many_rounds_as_planned(plan: list[int]) -> None:
    """Once in a round at most, and at no time further than one request ahead of or behind an even pace."""
    rounds = spread(plan)
    assert len(rounds) == max(plan)
    for cell, count in enumerate(plan):
        done = 0
        for number, turn in enumerate(rounds, 1):
            done += turn.count(cell)
            assert turn.count(cell) <= 1
            assert abs(done - count * number / len(rounds)) < 1
        assert done == count


# --- real requests ---


@pytest.fixture(autouse=True, scope="module")
def short_folders() -> Iterator[None]:
    """Sockets lie in the temporary folder, and a path of pytest's is too long for one."""
    before = tempfile.tempdir
    tempfile.tempdir = "/tmp"  # noqa: S108 - private folders are made in it
    yield
    tempfile.tempdir = before


def settings() -> Settings:
    models = ("minilm-l6", "tiny-cross-encoder")
    return Settings(rerankers={name: own for name, own in Settings().rerankers.items() if name in models})


@pytest.fixture(scope="module")
def own() -> Collection:
    return collection().sample(6)


@pytest.fixture(scope="module")
def lists(own: Collection, tmp_path_factory: pytest.TempPathFactory) -> list[JudgedList]:
    """All 60 documents for every query."""
    run = whole_collection(tmp_path_factory.mktemp("run"), own)
    return candidates(own, {"engine": run}, progress=False)


@pytest.fixture(scope="module")
def samples(
    own: Collection, lists: list[JudgedList], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[LatencySample], list[str]]:
    """One sweep, and what was noted."""
    said: list[str] = []
    found = sweep_latency(
        own,
        lists,
        settings(),
        cache_dir=tmp_path_factory.mktemp("cache"),
        ks=(*KS, 200),
        requests=REQUESTS,
        progress=False,
        note=said.append,
    )
    return found, said


@pytest.mark.timeout(240)
def test_every_cell_has_its_samples(samples: tuple[list[LatencySample], list[str]]) -> None:
    """NONE once, SIGNALS and both models at every k that the lists are long enough for, late interaction cold too."""
    found, said = samples
    cells = Counter((sample.reranker, sample.rerank_k, sample.warm) for sample in found)
    assert cells == {
        ("none", 0, True): REQUESTS,
        **{(name, k, True): REQUESTS for name in ("signals", "minilm-l6", "tiny-cross-encoder") for k in KS},
        **{("minilm-l6", k, False): REQUESTS for k in KS},
    }
    assert said == ["latency is not measured at k = 200: too few lists are that long"]


@pytest.mark.timeout(240)
def test_cells_take_turns(samples: tuple[list[LatencySample], list[str]]) -> None:
    """Each quarter of the samples holds every cell once, and not always in the same order."""
    found, _ = samples
    size = len(found) // REQUESTS
    turns = [
        [(sample.reranker, sample.rerank_k, sample.warm) for sample in found[at : at + size]]
        for at in range(0, len(found), size)
    ]
    assert all(sorted(turn) == sorted(turns[0]) for turn in turns)
    assert any(turn != turns[0] for turn in turns)


@pytest.mark.timeout(240)
def test_samples_say_what_was_computed(samples: tuple[list[LatencySample], list[str]]) -> None:
    """Pairs are k; tokens are what the router was told: cold documents are read, warm ones are not, only the query is,
    every time. All but the way to the sidecar and back is the stage."""
    found, _ = samples
    for sample in found:
        modelled = sample.reranker not in ("none", "signals")
        assert sample.pairs == (sample.rerank_k if modelled else 0)
        assert (sample.tokens > 0) == modelled
        assert sample.elapsed_ms > sample.stage_ms > 0.0
        assert sample.micro_usd == 0

    def tokens(k: int, warm: bool) -> list[int]:
        return [s.tokens for s in found if (s.reranker, s.rerank_k, s.warm) == ("minilm-l6", k, warm)]

    assert max(tokens(20, True)) < 20
    assert min(tokens(20, False)) > 20 * 5


@pytest.mark.timeout(240)
def test_more_work_takes_longer(samples: tuple[list[LatencySample], list[str]]) -> None:
    """Medians: cold beyond warm, twenty cold documents beyond five, and any of it beyond no reranking at all."""
    found, _ = samples

    def p50(reranker: str, k: int, warm: bool) -> float:
        return median(s.elapsed_ms for s in found if (s.reranker, s.rerank_k, s.warm) == (reranker, k, warm))

    assert p50("minilm-l6", 20, False) > p50("minilm-l6", 20, True) > p50("none", 0, True)
    assert p50("minilm-l6", 20, False) > p50("minilm-l6", 5, False)
    assert p50("tiny-cross-encoder", 20, True) > p50("tiny-cross-encoder", 5, True)


@pytest.mark.timeout(240)
def test_a_cascade_is_timed_as_its_stages_are(own: Collection, lists: list[JudgedList], tmp_path: Path) -> None:
    """Warm, and cold because late interaction is its first stage; the second one keeps nothing and is not timed cold.
    Its tokens are microseconds, as the router counts them: more for documents that have to be read."""
    both = CascadeSettings(first="minilm-l6", second="tiny-cross-encoder", second_k=4)
    models = Settings(rerankers={**settings().rerankers, "both": both})
    found = sweep_latency(own, lists, models, cache_dir=tmp_path, ks=(10,), requests=2, progress=False)
    cells = Counter((sample.reranker, sample.warm) for sample in found)
    names = ("none", "signals", "minilm-l6", "tiny-cross-encoder", "both")
    assert cells == {**{(name, True): 2 for name in names}, ("minilm-l6", False): 2, ("both", False): 2}
    warm, cold = ([s.tokens for s in found if (s.reranker, s.warm) == ("both", state)] for state in (True, False))
    assert min(cold) > max(warm) > 1000


@pytest.mark.timeout(240)
async def test_an_llm_is_measured_at_what_it_takes(own: Collection, lists: list[JudgedList], tmp_path: Path) -> None:
    """Asked for 20 and 60, it is measured at 20 and at its 50; tokens are what the router was told, one more
    for a longer query; the price is the endpoint's own."""
    async with FakeOpenAI() as server:
        llm = LlmSettings(base_url=server.base_url, model="m", prompt_micro_usd_per_1k=150)
        found = await asyncio.to_thread(
            sweep_latency,
            own,
            lists,
            Settings(rerankers={"llm": llm}),
            cache_dir=tmp_path,
            ks=(20, 60),
            requests=2,
            progress=False,
        )
    graded = [sample for sample in found if sample.reranker == "llm"]
    assert Counter(sample.rerank_k for sample in graded) == {20: 2, 50: 2}
    assert {sample.micro_usd for sample in graded} == {150}
    few, many = ([sample.tokens for sample in graded if sample.rerank_k == k] for k in (20, 50))
    # 30 documents more, each of 23 tokens at least (prompt and completion alone).
    assert min(many) > max(few) + 30 * 23
    assert max(few) - min(few) <= 1


@pytest.mark.timeout(240)
def test_a_time_limit_is_kept_and_what_did_not_fit_is_said(
    own: Collection, lists: list[JudgedList], tmp_path: Path
) -> None:
    """Far more requests than there is time for: fewer are sent, everybody has some, and a note says so."""
    said: list[str] = []
    found = sweep_latency(
        own, lists, settings(), cache_dir=tmp_path, ks=KS, requests=5_000, limit_s=8.0, progress=False, note=said.append
    )
    cells = Counter((sample.reranker, sample.rerank_k, sample.warm) for sample in found)
    assert len(cells) == 9
    assert min(cells.values()) < 5_000
    assert any(words.startswith("fewer than 5000 requests, for lack of time: ") for words in said)
    assert any("minilm-l6@20 cold: " in words for words in said)


@pytest.mark.timeout(240)
def test_new_documents_are_timed_only_where_that_is_asked_for(
    own: Collection, lists: list[JudgedList], tmp_path: Path
) -> None:
    """Without ``cold`` every cell is warm, late interaction's too."""
    found = sweep_latency(own, lists, settings(), cache_dir=tmp_path, ks=KS, requests=2, cold=False, progress=False)
    assert all(sample.warm for sample in found)
    assert {("minilm-l6", k) for k in KS} <= {(sample.reranker, sample.rerank_k) for sample in found}


def test_lists_that_are_too_short_are_refused(own: Collection, tmp_path: Path) -> None:
    """No k fits: the message says how long the longest list is."""
    short = candidates(own, "bm25", depth=3, progress=False)
    with pytest.raises(SweepError, match="no k of 5, 20 fits: the longest list has 3 candidates"):
        sweep_latency(own, short, settings(), cache_dir=tmp_path, ks=KS, progress=False)
