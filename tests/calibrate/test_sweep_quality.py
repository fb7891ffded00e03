"""The quality sweep: real sidecar processes, the embedded models, and a stand-in for an LLM's endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.cascades import scores_at
from sidecar.calibrate.collection import Collection
from sidecar.calibrate.records import JudgedList
from sidecar.calibrate.score_store import ScoreStore
from sidecar.calibrate.sweep_quality import SweepError, raw_scores, sweep_quality
from sidecar.calibrate.sweep_sidecar import Texts, ask, sweep_sidecar
from sidecar.reranker_settings import CascadeSettings, LlmSettings
from sidecar.settings import Settings
from tests.calibrate.subjects import collection, whole_collection
from tests.e2e.sidecar_process import REPOSITORY
from tests.rerankers.fake_openai import FakeOpenAI, Fault

pytestmark = pytest.mark.timeout(240)
MODELS = ("minilm-l6", "tiny-cross-encoder")


def settings(llm_base_url: str = "", **more: object) -> Settings:
    """The embedded models; an LLM where an address is given."""
    rerankers = {name: own for name, own in Settings().rerankers.items() if name in MODELS}
    if llm_base_url:
        rerankers["llm"] = LlmSettings(base_url=llm_base_url, model="m")
    return Settings(rerankers={**rerankers, **more})  # type: ignore[arg-type]


def only_llm(llm_base_url: str) -> Settings:
    return Settings(rerankers={"llm": LlmSettings(base_url=llm_base_url, model="m")})


@pytest.fixture(autouse=True, scope="module")
def short_folders() -> Iterator[None]:
    """Sockets lie in the temporary folder, and a path of pytest's is too long for one."""
    before = tempfile.tempdir
    tempfile.tempdir = "/tmp"  # noqa: S108 - private folders are made in it
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def own() -> Collection:
    """Five queries."""
    return collection().sample(5)


@pytest.fixture(scope="module")
def lists(own: Collection) -> list[JudgedList]:
    return candidates(own, "bm25", depth=12, progress=False)


@pytest.fixture(scope="module")
def swept(
    own: Collection, lists: list[JudgedList], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[JudgedList], Path]:
    """The sweep of both models, and where it keeps its scores."""
    cache = tmp_path_factory.mktemp("cache")
    return sweep_quality(own, lists, settings(), cache_dir=cache, progress=False), cache


def test_every_candidate_has_a_score_of_every_model(
    lists: list[JudgedList], swept: tuple[list[JudgedList], Path]
) -> None:
    """The lists come back as they were, with finite raw scores; the exact document has the best one."""
    scored, _ = swept
    assert [replace(judged, raw={}) for judged in scored] == lists
    for judged in scored:
        assert set(judged.raw) == set(MODELS)
        for scores in judged.raw.values():
            assert scores.shape == (len(judged.ids),)
            assert np.isfinite(scores).all()
        assert judged.ids[int(np.argmax(judged.raw["minilm-l6"]))] == judged.query_id.removeprefix("q-")


def test_shallower_scores_are_those_of_the_deepest_sweep(
    own: Collection, swept: tuple[list[JudgedList], Path], tmp_path: Path
) -> None:
    """A request that is forced to score three candidates gets the first three scores of the sweep, bit by bit."""
    scored, _ = swept
    texts = Texts(own)
    judged = scored[0]
    with sweep_sidecar(settings(), tmp_path, "s", judged, texts, 100, lambda words: None) as running:
        assert [arm.name for arm in running.arms] == list(MODELS)
        for arm in running.arms:
            ranking = ask(running.client, judged.query, texts.of(judged), arm.name, 3)
            found = {ranked.index: ranked.raw_score for ranked in ranking if ranked.scored}
            assert found == {place: judged.raw[arm.name][place] for place in range(3)}


def test_a_second_sweep_takes_the_kept_scores(
    own: Collection, lists: list[JudgedList], swept: tuple[list[JudgedList], Path]
) -> None:
    """A mark left in the file comes back for its list; a deeper list, never scored before, is scored."""
    _, cache = swept
    deeper = candidates(own, "bm25", depth=13, progress=False)[:1]
    for file in (cache / "calibrate").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(rows) == 5
        file.write_text("".join(json.dumps({**row, "scores": [7.5] * len(row["scores"])}) + "\n" for row in rows))
    again = sweep_quality(own, [*lists[1:], *deeper], settings(), cache_dir=cache, progress=False)
    for judged in again[:-1]:
        assert all((scores == 7.5).all() for scores in judged.raw.values())
    assert all((scores != 7.5).all() for scores in again[-1].raw.values())


def test_kept_scores_survive_a_line_that_was_cut(lists: list[JudgedList], tmp_path: Path) -> None:
    """Only the cut line's query is missing, and what is written next is not glued to it."""
    names = {"documents_digest": "d", "reranker": "r", "revision": "1"}
    store = ScoreStore(tmp_path, **names)
    first, second, third = lists[:3]
    with_gap = np.array([*([0.5] * (len(first.ids) - 1)), np.nan])
    store.put(first, with_gap)
    store.put(second, np.zeros(len(second.ids)))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-20])
    store = ScoreStore(tmp_path, **names)
    store.put(third, np.ones(len(third.ids)))
    store = ScoreStore(tmp_path, **names)
    np.testing.assert_array_equal(store.get(first), with_gap)
    assert store.get(second) is None
    np.testing.assert_array_equal(store.get(third), np.ones(len(third.ids)))


@pytest.mark.parametrize("other", ["documents_digest", "reranker", "revision"])
def test_kept_scores_are_of_one_model_and_one_collection(lists: list[JudgedList], tmp_path: Path, other: str) -> None:
    """Another revision, model or corpus finds nothing; nor does the same query with other candidates."""
    names = {"documents_digest": "d", "reranker": "r", "revision": "1"}
    judged = lists[0]
    ScoreStore(tmp_path, **names).put(judged, np.zeros(len(judged.ids)))
    assert ScoreStore(tmp_path, **names).get(judged) is not None
    assert ScoreStore(tmp_path, **names).get(replace(judged, ids=judged.ids[::-1])) is None
    assert ScoreStore(tmp_path, **{**names, other: "another"}).get(judged) is None


async def test_an_llm_is_called_once_with_as_many_as_it_takes(tmp_path: Path) -> None:
    """Of 60 candidates the first 50 have grades from one call a query, the others NaN."""
    own = collection().sample(2)
    lists = candidates(own, {"engine": whole_collection(tmp_path, own)}, progress=False)
    async with FakeOpenAI() as server:
        scored = await asyncio.to_thread(
            sweep_quality, own, lists, only_llm(server.base_url), cache_dir=tmp_path, progress=False
        )
        graded = [len(received.passages) for received in server.received]
    assert sorted(graded) == [2, 50, 50]  # two candidates at first, to see whether it is there
    for judged in scored:
        assert np.isfinite(judged.raw["llm"][:50]).all()
        assert np.isnan(judged.raw["llm"][50:]).all()


async def test_a_reranker_that_only_fails_is_left_out(own: Collection, lists: list[JudgedList], tmp_path: Path) -> None:
    """The others are measured, and the notes say which one is not, and why."""
    said: list[str] = []
    async with FakeOpenAI() as server:
        server.fault = Fault.STATUS
        scored = await asyncio.to_thread(
            sweep_quality,
            own,
            lists,
            settings(server.base_url),
            cache_dir=tmp_path,
            progress=False,
            note=said.append,
        )
        assert all(set(judged.raw) == set(MODELS) for judged in scored)
        assert any("llm failed for 5 of 5 queries and is left out" in words for words in said), said
        with pytest.raises(SweepError, match="every reranker failed"):
            await asyncio.to_thread(
                sweep_quality, own, lists, only_llm(server.base_url), cache_dir=tmp_path, progress=False
            )


def test_what_is_not_measured_is_said(own: Collection, lists: list[JudgedList], tmp_path: Path) -> None:
    """An arm that is off, one that judged the collection, and queries that time did not suffice for."""
    said: list[str] = []
    both = CascadeSettings(first=MODELS[0], second=MODELS[1])
    with_off = settings(off=LlmSettings(), both=both)
    judged_by = replace(own, judge="tiny-cross-encoder")
    scored = sweep_quality(judged_by, lists, with_off, cache_dir=tmp_path, progress=False, note=said.append)
    assert set(scored[0].raw) == {"minilm-l6"}
    text = "\n".join(said)
    assert "off is not measured: reranker 'off' is off" in text
    for name in ("tiny-cross-encoder", "both"):
        assert f"{name} is not measured: tiny-cross-encoder made these labels" in text
    with pytest.raises(SweepError, match="time was up before one query was scored"):
        sweep_quality(own, lists, settings(), cache_dir=tmp_path, limit_s=0.0, progress=False)


def test_a_cascade_follows_from_its_stages(own: Collection, lists: list[JudgedList], tmp_path: Path) -> None:
    """It is not asked, and yet its scores at every k are those that it gives when it is."""
    both = CascadeSettings(first=MODELS[0], second=MODELS[1], second_k=4)
    said: list[str] = []
    swept = sweep_quality(own, lists[:1], settings(both=both), cache_dir=tmp_path, progress=False, note=said.append)
    assert said == []
    (judged,) = swept
    assert set(judged.raw) == {*MODELS, "both"}
    texts = Texts(own)
    with sweep_sidecar(settings(both=both), tmp_path, "asked", judged, texts, 1000, said.append) as running:
        for k in (2, 4, 7, 12):
            answered = raw_scores(ask(running.client, judged.query, texts.of(judged), "both", k))
            assert scores_at(judged, "both", k) == pytest.approx(answered[:k], rel=1e-3), k
    np.testing.assert_array_equal(judged.raw["both"], scores_at(judged, "both", 12))


async def test_a_cascade_with_a_listwise_stage_is_asked(
    own: Collection, lists: list[JudgedList], tmp_path: Path
) -> None:
    """What the LLM says of a document depends on the others: nothing follows from its scores for another list, and a
    note says what is an estimate."""
    said: list[str] = []
    async with FakeOpenAI() as server:
        both = CascadeSettings(first=MODELS[0], second="llm", second_k=4)
        (judged,) = await asyncio.to_thread(
            sweep_quality,
            own,
            lists[:1],
            settings(server.base_url, both=both),
            cache_dir=tmp_path,
            progress=False,
            note=said.append,
        )
        assert len(server.received) >= 2, "the LLM alone, and in the cascade"
    assert judged.cascades == {}
    assert np.isfinite(judged.raw["both"]).all()
    assert said == [
        "both is a cascade that does not follow from its stages' scores, so its quality at fewer than 12 candidates is "
        "an estimate from its scores there"
    ]


def test_queries_without_candidates_stay_in_and_are_not_asked(own: Collection, tmp_path: Path) -> None:
    """They count as they are, with empty scores; where no query has a candidate there is nothing to sweep."""
    found = candidates(own, "bm25", depth=3, progress=False)
    empty = replace(found[0], ids=(), lengths=(), signals={"bm25": np.empty(0)})
    scored = sweep_quality(own, [empty, found[1]], settings(), cache_dir=tmp_path, progress=False)
    assert [len(judged.raw["minilm-l6"]) for judged in scored] == [0, 3]
    with pytest.raises(SweepError, match="found nothing for any query"):
        sweep_quality(own, [empty], settings(), cache_dir=tmp_path, progress=False)


_SWEEP = """
import sys
from pathlib import Path
from sidecar.calibrate.candidates import candidates
from sidecar.calibrate.cascades import scores_at
from sidecar.calibrate.private_sidecar import orderly_end
from sidecar.calibrate.sweep_quality import sweep_quality
from sidecar.settings import Settings
from tests.calibrate.subjects import collection

own = collection()
with orderly_end():
    sweep_quality(own, candidates(own, "bm25", progress=False), Settings(), cache_dir=Path(sys.argv[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc to find processes")
def test_an_interrupted_sweep_leaves_its_scores_and_no_process(tmp_path: Path) -> None:
    """Ctrl-C in the middle: exit code 130 at once; the sidecar is gone; what was scored is there."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen([sys.executable, "-c", _SWEEP, str(tmp_path)], env=environment, cwd=REPOSITORY) as sweep:
            end = time.monotonic() + 100
            while not any((tmp_path / "calibrate").glob("scores-*")):
                assert sweep.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            sweep.send_signal(signal.SIGINT)
            assert sweep.wait(30) == 130
        mark = f"MILLIRANK_LISTEN__UNIX={folder}".encode()
        end = time.monotonic() + 5
        while (left := _processes_with(mark)) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == []
        assert list(Path(folder).iterdir()) == []
    assert all(file.read_text().endswith("\n") for file in (tmp_path / "calibrate").iterdir())


def _processes_with(mark: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended in the meantime
            continue
    return found
