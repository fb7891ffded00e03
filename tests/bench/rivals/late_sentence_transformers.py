"""`MultiVectorEncoder` of sentence-transformers, with vectors kept by whoever calls it, and its own similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.rivals.child import Operation, peak_mb, serve, timed

BATCH_SIZE = 8  # measured against 32, the default, on two cores: long texts leave the cache


def load(model: str, threads: int) -> Mapping[str, Operation]:
    """``model`` is a ColBERT checkpoint; operations as in `tests.bench.rivals.late_millirank`."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    torch.set_num_threads(threads)
    encoder = MultiVectorEncoder(model, device="cpu", local_files_only=True)
    kept: dict[str, Any] = {}

    def encode(query: str) -> Any:
        return encoder.encode_query([query], show_progress_bar=False)

    def cold(query: str, texts: Sequence[str]) -> dict[str, Any]:
        def run() -> None:
            vectors = encoder.encode_document(list(texts), batch_size=BATCH_SIZE, show_progress_bar=False)
            encoder.similarity(encode(query), vectors)
            kept.update(zip(texts, vectors, strict=True))

        _, ms = timed(run)
        return {"ms": ms}

    def warm(queries: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        vectors = [kept[text] for text in texts]
        return {"ms": [timed(lambda q=q: encoder.similarity(encode(q), vectors))[1] for q in queries]}  # type: ignore[misc]

    def queries_alone(queries: Sequence[str]) -> dict[str, Any]:
        return {"ms": [timed(lambda q=q: encode(q))[1] for q in queries]}  # type: ignore[misc]

    def similarity(queries: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        vectors = [kept[text] for text in texts]
        encoded = [encode(query) for query in queries]
        return {"ms": [timed(lambda q=q: encoder.similarity(q, vectors))[1] for q in encoded]}  # type: ignore[misc]

    return {"cold": cold, "warm": warm, "query": queries_alone, "similarity": similarity, "peak": peak_mb}


if __name__ == "__main__":
    serve(load)
