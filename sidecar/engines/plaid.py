"""Late interaction over PLAID indexes that ``millirank index`` has built: no document is encoded for a request.

What runs is colbert-ai's own scoring, the same that RAGatouille's ``search(query, doc_ids=...)`` ends in: the codes
and residuals of the candidates are decompressed and their MaxSim is computed. Given the candidates, PLAID does not
search its centroids, so it leaves out none that it has. RAGatouille's wrapper around it is not used: it prints, loads
the texts of the whole collection, and imports two frameworks for chains of LLM calls.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sidecar.engines.specs import IndexSpec
from sidecar.indexing import colbert_library, extensions, work
from sidecar.indexing.checkpoint import Checkpoint, of_index
from sidecar.indexing.manifest import IndexFolderError, IndexManifest, read_ids, read_manifest, verify
from sidecar.worker_messages import KEPT_QUERIES, IndexedResult, ScoreIndexed, Task

ENGINE_VERSION = "plaid/1"  # raise it when the arithmetic around the library changes
LIBRARIES = ("colbert-ai", "torch", "transformers", "tokenizers")
# The library adds in an order that depends on a document's neighbours, so that equal documents differ by some 1e-7.
# Rounded, they tie, and keep their first-stage order.
SCORE_DECIMALS = 5
WARM_UP_QUERY = "how to warm up a model"
WARM_UP_DOCUMENTS = (1, 10, 50, 100)


@dataclass(frozen=True, slots=True)
class Collection:
    """One loaded index. ``numbers`` is document id -> number; ``scorer`` and ``model`` are colbert-ai's."""

    numbers: Mapping[str, int]
    scorer: Any
    model: Any
    config: Any


class PlaidModel:
    """Answers `ScoreIndexed`.

    Scores are MaxSim as in `sidecar.engines.vectors`: the mean over the query's tokens, so that they have the scale of
    a model that encodes its documents itself. Queries are filled up to the checkpoint's length, as ColBERT does.
    """

    def __init__(self, collections: Mapping[str, Collection], revision: str) -> None:
        self._collections = collections
        self._queries: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self.revision = revision

    def run(self, task: Task[object]) -> IndexedResult:
        """Scores the documents. Raises TypeError for a task of another kind, KeyError for an unknown collection."""
        if not isinstance(task, ScoreIndexed):
            raise TypeError(f"an index cannot run {type(task).__name__}")
        collection = self._collections[task.collection]
        numbers = [collection.numbers.get(identifier) for identifier in task.ids]
        found = [number for number in numbers if number is not None]
        unscored = frozenset(position for position, number in enumerate(numbers) if number is None)
        if not found:
            return IndexedResult((0.0,) * len(numbers), unscored, len(collection.numbers), 0)
        tokens, query = self._query(task.collection, task.query)
        scores = _maxsim(collection, query, found)
        return IndexedResult(
            scores=tuple(0.0 if number is None else scores[number] for number in numbers),
            unscored=unscored,
            documents=len(collection.numbers),
            tokens=tokens,
        )

    def warm_up(self) -> list[tuple[int, float]]:
        """Several numbers of documents with a query that is new, then with one that is kept.

        Returns (tokens as `Work` counts them, milliseconds).
        """
        samples = []
        for name, collection in self._collections.items():
            for count in WARM_UP_DOCUMENTS:
                ids = tuple(islice(collection.numbers, count))
                task = ScoreIndexed(f"{WARM_UP_QUERY} {count}", name, ids)
                for query_tokens in (work.QUERY_TOKENS, 0):
                    started = time.perf_counter()
                    self.run(task)
                    elapsed_ms = (time.perf_counter() - started) * 1e3
                    samples.append((query_tokens + work.document_tokens(len(ids)), elapsed_ms))
        self._queries.clear()
        return samples[2:]  # the very first run allocates and does not count

    def rehearse(self, step: int) -> tuple[int, float]:
        """Nothing: its query would stay among those that the parent knows to be kept."""
        return 0, 0.0

    def _query(self, collection: str, query: str) -> tuple[int, Any]:
        """Tokens read for it (0 if it is kept), and its vectors: float32 [1, tokens, dim]."""
        key = collection, query
        kept = self._queries.get(key)
        if kept is not None:
            self._queries.move_to_end(key)
            return 0, kept
        import torch

        with torch.inference_mode():
            vectors = self._collections[collection].model.queryFromText([query])
        self._queries[key] = vectors
        if len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return int(vectors.size(1)), vectors


def _maxsim(collection: Collection, query: Any, numbers: Sequence[int]) -> dict[int, float]:
    """Document number -> MaxSim. A number that occurs twice is computed once."""
    ranked, sums = collection.scorer.rank(collection.config, query, pids=list(dict.fromkeys(numbers)))
    length = query.size(1)
    return {number: round(total / length, SCORE_DECIMALS) for number, total in zip(ranked, sums, strict=True)}


def load(spec: IndexSpec, threads: int) -> PlaidModel:
    """Loads every index. Raises IndexFolderError, naming the collection, when one is damaged or stale, when the
    extensions are not compiled, or the extra is not installed.

    One index that can't be used switches all of them off: configure a reranker for each where that is not wanted.
    """
    colbert_library.require()
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        ""  # colbert-ai takes a GPU wherever it sees one; here it is float32 on the CPU
    )
    colbert_library.silence_libraries()
    # Everything that may be wrong with the files is found before the libraries are imported, which takes seconds.
    folders = [_checked(name, folder) for name, folder in spec.collections]
    import torch

    torch.set_num_threads(threads)
    models: dict[tuple[str, int], Any] = {}
    with colbert_library.quiet():
        extensions.load()
        collections = {folder.manifest.collection: _load(folder, models) for folder in folders}
    parts = [ENGINE_VERSION, *(f"{name}={importlib.metadata.version(name)}" for name in LIBRARIES)]
    parts += [f"{folder.manifest.collection}={folder.manifest.digest}" for folder in folders]
    return PlaidModel(collections, hashlib.blake2b("\n".join(parts).encode(), digest_size=6).hexdigest())


@dataclass(frozen=True, slots=True)
class _IndexFolder:
    """An index whose files are those of its manifest, and the checkpoint that it was built from."""

    path: Path
    manifest: IndexManifest
    checkpoint: Checkpoint


def _checked(name: str, path: Path) -> _IndexFolder:
    try:
        manifest = read_manifest(path)
        if manifest.collection != name:
            raise IndexFolderError(f"{path} holds the collection {manifest.collection!r}; configure it by that name")
        verify(path, manifest)
        return _IndexFolder(path, manifest, of_index(path, manifest))
    except IndexFolderError as error:
        raise IndexFolderError(f"collection {name!r}: {error}") from error


def _load(folder: _IndexFolder, models: dict[tuple[str, int], Any]) -> Collection:
    """One index; ``models`` are the checkpoints that are in memory already."""
    from colbert.search.index_storage import IndexScorer

    key = folder.checkpoint.digest, folder.manifest.max_tokens
    if key not in models:
        models[key] = colbert_library.load_model(folder.checkpoint.folder, folder.path)
    try:
        scorer = IndexScorer(str(folder.path), use_gpu=False)
    except Exception as error:  # the library raises what its parts do; the files are those that were built
        raise IndexFolderError(f"{folder.path} cannot be loaded: {type(error).__name__}: {error}") from error
    model = models[key]
    return Collection(read_ids(folder.path), scorer, model, model.colbert_config)
