"""FlashRank's `Ranker.rerank`, on a model put where it would have downloaded one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.rivals.child import Operation, peak_mb, serve, timed

LEAST = 1e-7  # below it a float32 sigmoid says nothing more about its logit


def load(cache_dir: str, model_name: str, max_length: int) -> Mapping[str, Operation]:
    """It has neither a thread count nor a batch size to set: ONNX Runtime takes every core, all pairs are one batch."""
    from flashrank import Ranker, RerankRequest

    ranker = Ranker(model_name=model_name, cache_dir=cache_dir, max_length=max_length, log_level="WARNING")

    def score(query: str, texts: Sequence[str]) -> dict[str, Any]:
        request = RerankRequest(query=query, passages=[{"id": i, "text": text} for i, text in enumerate(texts)])
        ranked, ms = timed(lambda: ranker.rerank(request))
        # It answers best first, with sigmoids; the others give logits in input order.
        by_input = sorted(ranked, key=lambda passage: passage["id"])
        return {"scores": [_logit(float(passage["score"])) for passage in by_input], "ms": ms}

    return {"score": score, "peak": peak_mb}


def _logit(probability: float) -> float:
    bounded = min(max(probability, LEAST), 1 - LEAST)
    return math.log(bounded / (1 - bounded))


if __name__ == "__main__":
    serve(load)
