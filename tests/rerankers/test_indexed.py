"""Late interaction over an index: what it refuses, what it scores, and that it agrees with other readers of it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from router.arms import State
from sidecar.rerankers.base import Document, IndexUnavailableError, ScoreRequest
from sidecar.rerankers.indexed import IndexedReranker
from sidecar.rerankers.loadable import RunOptions, index
from tests.e2e.sidecar_process import REPOSITORY, clean_environment
from tests.rerankers.indexes import BUILD_S, COLLECTION, MISSING, documents, needs_ragatouille, refer
from tests.rerankers.local_models import PATIENT_S, score, settled

pytest_plugins = ("tests.rerankers.indexes",)
pytestmark = [pytest.mark.timeout(BUILD_S + 120), pytest.mark.asyncio(loop_scope="module")]

QUERIES = (
    "how to read a csv file",
    "sort a list by key",
    "send bytes over a socket",
    "which exception is raised when a number is too large",
    "parse command line arguments and print a help text when something is wrong with what the user has given",
)
# ColBERT sums to 4 decimals of float32; a document's neighbours may change the fifth of the mean.
TOLERANCE = 2e-5


def reranker_of(*folders: Path, names: Sequence[str] = (COLLECTION,)) -> IndexedReranker:
    collections = tuple(zip(names, folders, strict=True))
    return IndexedReranker("indexed", index(collections, RunOptions(threads=1)))


def unloaded(*names: str) -> IndexedReranker:
    """A reranker that is configured for these collections and never started."""
    return reranker_of(*(Path("nowhere") for _ in names), names=names)


async def test_candidates_without_a_reference_are_refused() -> None:
    """Some without: refused with the count, before any work is planned."""
    work = unloaded("a").work(
        ScoreRequest("q", "", [refer("1", "a"), Document("x", "text", b"0" * 16), refer("2", "a")])
    )
    assert (work.refusal, work.tokens) == ("1 of 3 documents have no indexed_ref", ())


async def test_collection_that_is_not_configured_is_refused() -> None:
    """The name, and those that there are."""
    work = unloaded("a", "b").work(ScoreRequest("q", "", [refer("1", "a"), refer("1", "c")]))
    assert work.refusal == "no index is configured for the collection 'c'; configured: a, b"
    assert work.unknown, "so that a forced request gets NOT_FOUND"


async def test_several_collections_are_refused() -> None:
    """Scores of different indexes can't be compared, so they are not mixed."""
    work = unloaded("a", "b").work(ScoreRequest("q", "", [refer("1", "b"), refer("1", "a")]))
    assert work.refusal == "the documents lie in 2 collections (a, b); send those of one at a time"


async def test_work_is_the_query_and_little_else() -> None:
    """A query costs its 32 tokens, sixteen documents cost one, all of them are warm; and no text is needed."""
    reranker = unloaded("a")
    work = reranker.work(ScoreRequest("q", "", [refer(str(number), "a") for number in range(40)]))
    assert (work.fixed_tokens, sum(work.tokens), len(work.tokens), work.warm, work.refusal) == (32, 3, 40, 40, "")
    assert not reranker.limits.reads_text


async def test_missing_index_switches_it_off(tmp_path: Path) -> None:
    """No index in the folder: OFF with the collection, the file and the fix, or with the extra that is missing."""
    reranker = reranker_of(tmp_path)
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    if "colbert" in MISSING:
        assert availability.detail == "colbert is not installed: run `pip install 'millirank-server[ragatouille]'`"
    else:
        assert f"collection 'stdlib': {tmp_path / 'index.json'} is missing" in availability.detail


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def indexed(plaid_index: Path) -> AsyncIterator[IndexedReranker]:
    """Loaded once for the module."""
    reranker = reranker_of(plaid_index)
    await reranker.start()
    await settled(reranker)
    assert reranker.availability().state is State.READY, reranker.availability()
    yield reranker
    await reranker.close()


@needs_ragatouille
async def test_agrees_with_the_same_checkpoint_elsewhere(plaid_index: Path, indexed: IndexedReranker) -> None:
    """MultiVectorEncoder ranks the same documents the same way (Kendall's tau at least 0.9), on the same scale."""
    vectors = _multi_vectors(plaid_index.parent / "colbert")
    refs = [refer(each.id) for each in documents()]
    for query in QUERIES:
        scored = await score(indexed, refs, query)
        compared = [position for position in range(len(refs)) if position not in scored.unscored]
        assert len(compared) >= 200
        mine = np.array(scored.scores)[compared]
        theirs = vectors(query)[compared]
        assert _kendall_tau(mine, theirs) >= 0.9
        assert np.abs(mine - theirs).max() < 0.1


@needs_ragatouille
async def test_agrees_with_ragatouille(plaid_index: Path, indexed: IndexedReranker) -> None:
    """RAGatouille reads the folder, and its own search among the same documents gives the same order."""
    ids = [each.id for each in documents()][:60]
    scored = await score(indexed, [refer(identifier) for identifier in ids], QUERIES[0])
    theirs = _ragatouille_search(plaid_index, QUERIES[0], ids)
    mine = sorted(ids, key=lambda identifier: -scored.scores[ids.index(identifier)])
    assert set(theirs) == set(mine)
    places = {identifier: place for place, identifier in enumerate(theirs)}
    # Neighbours whose scores round to the same five decimals may have changed places.
    by_place = sorted(ids, key=places.__getitem__)
    kept = [scored.scores[ids.index(identifier)] for identifier in by_place]
    assert all(first >= second - TOLERANCE for first, second in itertools.pairwise(kept))


@needs_ragatouille
async def test_ids_that_the_index_lacks_are_not_scored(indexed: IndexedReranker) -> None:
    """They are marked, and change nothing for the others."""
    known = [refer(each.id) for each in documents()[:5]]
    alone = await score(indexed, known)
    among = await score(indexed, [refer("nobody"), *known, refer("nothing")])
    assert (alone.unscored, among.unscored) == (frozenset(), frozenset({0, 6}))
    assert among.scores[1:6] == pytest.approx(alone.scores, abs=TOLERANCE)
    assert among.cached == 5


@needs_ragatouille
async def test_an_index_that_has_none_of_them_is_unavailable(indexed: IndexedReranker) -> None:
    """Nothing to score is an error of its own kind, with the numbers and no id."""
    with pytest.raises(IndexUnavailableError) as caught:
        await score(indexed, [refer("nobody"), refer("nothing")])
    assert (
        str(caught.value) == f"indexed: none of the 2 documents is in the index 'stdlib', which has {len(documents())}"
    )


@needs_ragatouille
async def test_refused_candidates_can_not_be_scored(indexed: IndexedReranker) -> None:
    """Whoever asks all the same gets the reason."""
    with pytest.raises(IndexUnavailableError, match="no index is configured for the collection 'other'"):
        await score(indexed, [refer("1", "other")])


@needs_ragatouille
async def test_scores_follow_the_documents(indexed: IndexedReranker) -> None:
    """Turned around, the scores are turned around; a document that comes twice scores the same; none is no work."""
    refs = [refer(each.id) for each in documents()[:50]]
    forward = await score(indexed, refs)
    backward = await score(indexed, refs[::-1])
    twice = await score(indexed, [refs[0], refs[1], refs[0]])
    assert backward.scores[::-1] == pytest.approx(forward.scores, abs=TOLERANCE)
    assert len(set(forward.scores)) > 40, "different texts must not all score the same, or this test sees nothing"
    assert twice.scores[0] == twice.scores[2] == pytest.approx(forward.scores[0], abs=TOLERANCE)
    assert (await score(indexed, [])).scores == ()


@needs_ragatouille
async def test_a_query_is_encoded_once(indexed: IndexedReranker) -> None:
    """The second chunk of a request finds the query's vectors, and both sides know."""
    refs = [refer(each.id) for each in documents()[:20]]
    query = "a question that nobody has asked before"
    assert indexed.work(ScoreRequest(query, "", refs)).fixed_tokens == 32
    first = await score(indexed, refs[:10], query)
    assert indexed.work(ScoreRequest(query, "", refs)).fixed_tokens == 0
    second = await score(indexed, refs[10:], query)
    assert (first.tokens, second.tokens) == (32, 0)


@needs_ragatouille
async def test_a_thousand_documents_are_one_call(indexed: IndexedReranker) -> None:
    """The largest request is answered whole, with ids that come many times over."""
    refs = [refer(each.id) for each in documents()]
    many = (refs * (1_000 // len(refs) + 1))[:1_000]
    scored = await score(indexed, many)
    assert len(scored.scores) == 1_000
    assert scored.scores[: len(refs)] == scored.scores[len(refs) : 2 * len(refs)]


@needs_ragatouille
async def test_time_that_is_up(indexed: IndexedReranker) -> None:
    """A deadline that has passed is a TimeoutError, and the next request is served."""
    refs = [refer(each.id) for each in documents()[:10]]
    with pytest.raises(TimeoutError):
        await indexed.score(ScoreRequest(QUERIES[0], "", refs), 0.0)
    assert len((await indexed.score(ScoreRequest(QUERIES[0], "", refs), PATIENT_S)).scores) == 10


@needs_ragatouille
@pytest.mark.parametrize("damage", ["changed", "stale", "renamed"])
async def test_index_that_can_not_be_used_switches_it_off(tmp_path: Path, plaid_index: Path, damage: str) -> None:
    """Damaged, stale or under another name: OFF, with what is wrong, and without loading anything."""
    copy = Path(shutil.copytree(plaid_index, tmp_path / "index"))
    names: tuple[str, ...] = (COLLECTION,)
    if damage == "changed":
        residuals = copy / "0.residuals.pt"
        residuals.write_bytes(residuals.read_bytes()[:-1])
        words = "0.residuals.pt is damaged"
    elif damage == "stale":
        manifest = json.loads((copy / "index.json").read_bytes())
        (copy / "index.json").write_text(json.dumps(manifest | {"checkpoint_digest": "0" * 64}))
        words = "is stale: the checkpoint"
    else:
        names = ("other",)
        words = "holds the collection 'stdlib'; configure it by that name"
    reranker = reranker_of(copy, names=names)
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    assert words in availability.detail
    assert availability.detail.startswith(f"collection {names[0]!r}: ")


@needs_ragatouille
async def test_nothing_is_compiled_to_answer(
    tmp_path: Path, plaid_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the extensions are not compiled it is OFF with the command that does it, and nothing gets compiled."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    reranker = reranker_of(plaid_index)
    await reranker.start()
    await settled(reranker)
    availability = reranker.availability()
    await reranker.close()
    assert availability.state is State.OFF
    assert "not compiled" in availability.detail
    assert "`millirank index --compile`" in availability.detail
    assert not list(tmp_path.iterdir())


@needs_ragatouille
async def test_revision_is_that_of_the_files(plaid_index: Path, indexed: IndexedReranker) -> None:
    """It is known once the index is loaded: 12 hex digits."""
    assert len(bytes.fromhex(indexed.identity.revision)) == 6


def _kendall_tau(first: Any, second: Any) -> float:
    """Kendall's tau-a: (concordant - discordant pairs) / pairs."""
    rows, columns = np.triu_indices(len(first), k=1)
    agreement = np.sign(first[rows] - first[columns]) * np.sign(second[rows] - second[columns])
    return float(agreement.mean())


def _multi_vectors(checkpoint: Path) -> Any:
    """query -> mean MaxSim with every one of `documents`, by sentence-transformers in this process."""
    from sentence_transformers import MultiVectorEncoder

    encoder = MultiVectorEncoder(str(checkpoint), device="cpu")
    texts = encoder.encode_document([each.text for each in documents()], show_progress_bar=False)

    def scores(query: str) -> Any:
        words = np.asarray(encoder.encode_query(query, show_progress_bar=False))
        return np.array([(np.asarray(text) @ words.T).max(axis=0).mean() for text in texts])

    return scores


def _ragatouille_search(folder: Path, query: str, ids: Sequence[str]) -> list[str]:
    """Ids in the order of ``RAGPretrainedModel.search``, in a process of its own: the library changes what it is in."""
    program = """
import json, sys
from pathlib import Path
from sidecar.indexing import checkpoint, colbert_library, extensions, manifest
folder = Path(sys.argv[1])
with colbert_library.quiet():
    colbert_library.adapt(checkpoint.of_index(folder, manifest.read_manifest(folder)).folder)
    extensions.load()
    from ragatouille import RAGPretrainedModel
    ids = json.loads(sys.argv[3])
    found = RAGPretrainedModel.from_index(folder).search(sys.argv[2], k=len(ids), doc_ids=ids)
print(json.dumps([each["document_id"] for each in found]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder), query, json.dumps(list(ids))],
        env=clean_environment(HF_HUB_OFFLINE="1"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout))
