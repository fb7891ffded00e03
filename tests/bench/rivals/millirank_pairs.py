"""This project's cross-encoder engine, loaded and run as a worker process does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.engines import models
from sidecar.engines.manifest import read_manifest
from sidecar.engines.specs import OnnxSpec
from sidecar.worker_messages import Load, ScorePairs
from tests.bench.rivals.child import Operation, peak_mb, serve, timed


def load(model: str, threads: int) -> Mapping[str, Operation]:
    """``model`` is a folder that `millirank models export` wrote, with its own choice of batches."""
    manifest = read_manifest(Path(model))
    spec = OnnxSpec(manifest, manifest.truncation, manifest.batch_tokens)
    loaded = models.load(Load(spec, threads=threads, niceness=0))
    loaded.warm_up()

    def score(query: str, texts: Sequence[str]) -> dict[str, Any]:
        result, ms = timed(lambda: loaded.run(ScorePairs(query, tuple(texts))))
        return {"scores": list(result.scores), "ms": ms}  # type: ignore[attr-defined]

    return {"score": score, "peak": peak_mb}


if __name__ == "__main__":
    serve(load)
