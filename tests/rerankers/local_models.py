"""What the tests of the local rerankers share: documents, requests, and waiting for a state."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from router.arms import State, Strategy
from sidecar.embedded import model_dir
from sidecar.rerankers.base import Document, Reranker, Scored, ScoreRequest
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.loadable import RunOptions, onnx_model

MINILM = model_dir("minilm-l6")
TINY_CROSS_ENCODER = model_dir("tiny-cross-encoder")

QUERY = "how to read a csv file"
READY_S = 120.0  # loading takes 1 to 3 s (with torch 10) on a machine that has nothing else to do
PATIENT_S = 120.0


def cross_encoder(name: str, folder: Path, **options: Any) -> CrossEncoder:
    """A cross-encoder on ONNX Runtime; ``options`` as in `RunOptions`."""
    return CrossEncoder(name, onnx_model(folder, Strategy.CROSS_ENCODER, RunOptions(**options)))


def late_interaction(
    name: str, folder: Path, *, warm_idle: bool = True, vector_bytes: int = 1 << 27, **options: Any
) -> LateInteraction:
    """Late interaction on ONNX Runtime; ``options`` as in `RunOptions`."""
    model = onnx_model(folder, Strategy.LATE_INTERACTION, RunOptions(vector_bytes=vector_bytes, **options))
    return LateInteraction(name, model, warm_idle=warm_idle)


def document(text: str) -> Document:
    """A document as the pipeline makes it."""
    return Document(id="d", text=text, digest=blake2b(text.encode(), digest_size=16).digest())


def documents(count: int, words: int = 6, tag: str = "text") -> list[Document]:
    """Different short documents; another ``tag`` makes other documents."""
    return [document(f"{tag} number {number} " + "about files " * (words // 2)) for number in range(count)]


async def score(reranker: Reranker, texts: Iterable[Document], query: str = QUERY) -> Scored:
    """Scores without hurry."""
    return await reranker.score(ScoreRequest(query, "", list(texts)), PATIENT_S)


async def until(condition: Callable[[], bool], within_s: float = READY_S) -> None:
    """Waits for a condition, or raises TimeoutError."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true in time")
        await asyncio.sleep(0.005)


async def ready(reranker: Reranker) -> None:
    """Starts a reranker and waits until it has loaded."""
    await reranker.start()
    await settled(reranker)
    assert reranker.availability().state is State.READY, reranker.availability()


async def settled(reranker: Reranker) -> None:
    """Waits until a reranker is READY or OFF."""
    await until(lambda: reranker.availability().state is not State.WARMING)


def copy_model(
    source: Path, target: Path, change: Callable[[bytes], bytes] | None = None, file: str = "model.onnx"
) -> Path:
    """A copy of a model folder; ``change`` edits ``file``, and the manifest, where there is one, follows it."""
    shutil.copytree(source, target)
    if change is not None:
        changed = target / file
        changed.write_bytes(change(changed.read_bytes()))
        stated = target / "model.json"
        if stated.exists():
            manifest = json.loads(stated.read_bytes())
            manifest["files"][file] = sha256(changed.read_bytes()).hexdigest()
            stated.write_text(json.dumps(manifest), encoding="utf-8")
    return target
