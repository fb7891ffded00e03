"""infinity-emb's rerank through its Python interface, without HTTP, on torch or ONNX Runtime ("optimum")."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.rivals.child import Operation, forget_peak, peak_mb, serve, timed

BATCH_SIZES = (32, 4, 1)  # 32 is the library's default


def load(model: str, threads: int, engine: str) -> Mapping[str, Operation]:
    """``engine`` is torch or optimum. The batch size is fixed when an engine is made, so trying one out makes one."""
    # It finds the ONNX file of a local model only from within its folder, and keeps what it optimises, for all models
    # alike, in the hub's cache: each gets a cache of its own.
    os.environ["HF_HUB_CACHE"] = f"{model}-{engine}-optimised"
    os.chdir(model)
    import torch
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    torch.set_num_threads(threads)
    runner = asyncio.Runner()  # infinity's own tasks live on its loop, from one request to the next

    def started(batch_size: int) -> AsyncEmbeddingEngine:
        # BetterTransformer is gone from the versions of torch and transformers that this one runs on.
        arguments = EngineArgs(
            model_name_or_path=".",
            engine=engine,
            device="cpu",
            dtype="float32",
            batch_size=batch_size,
            bettertransformer=False,
            model_warmup=False,
            trust_remote_code=False,
        )
        one = AsyncEmbeddingEngine.from_args(arguments)
        runner.run(one.astart())
        return one

    current = started(BATCH_SIZES[0])

    def rerank(query: str, texts: Sequence[str]) -> list[float]:
        results, _ = runner.run(current.rerank(query=query, docs=list(texts), raw_scores=True))
        scores = [0.0] * len(texts)
        for result in results:  # best first
            scores[result.index] = float(result.relevance_score)
        return scores

    def tune(query: str, texts: Sequence[str]) -> dict[str, Any]:
        nonlocal current
        taken_ms = {}
        for size in BATCH_SIZES:  # one engine at a time: what it keeps in memory is a figure, too
            runner.run(current.astop())
            current = started(size)
            rerank(query, texts)
            taken_ms[size] = min(timed(lambda: rerank(query, texts))[1] for _ in range(2))
        chosen = min(taken_ms, key=lambda size: taken_ms[size])
        runner.run(current.astop())
        current = started(chosen)
        rerank(query, texts)
        forget_peak()
        return {"batch_size": chosen}

    def score(query: str, texts: Sequence[str]) -> dict[str, Any]:
        scores, ms = timed(lambda: rerank(query, texts))
        return {"scores": scores, "ms": ms}

    return {"tune": tune, "score": score, "peak": peak_mb}


if __name__ == "__main__":
    serve(load)
