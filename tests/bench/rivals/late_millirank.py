"""This project's late interaction: the embedded encoder and `LateInteractionScorer`, as in a worker process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from sidecar.embedded import model_dir
from sidecar.engines.late_interaction import LateInteractionScorer
from sidecar.engines.manifest import read_manifest
from sidecar.engines.onnx import TokenEncoder
from sidecar.engines.vectors import QueryVectors, cosine, maxsim, quantise_query
from tests.bench.rivals.child import Operation, peak_mb, serve, timed

_STORE_BYTES = 256 << 20


def load(threads: int) -> Mapping[str, Operation]:
    """Every operation that takes several queries answers the milliseconds of each; queries must be new ones."""
    manifest = read_manifest(model_dir("minilm-l6"))
    encoder = TokenEncoder(manifest, threads)
    scorer = LateInteractionScorer(encoder, manifest.truncation, _STORE_BYTES)

    def cold(query: str, texts: Sequence[str]) -> dict[str, Any]:
        result, ms = timed(lambda: scorer.score(query, [(_key(text), text) for text in texts]))
        if result.warm:
            raise ValueError(f"{result.warm} texts were to be cold")
        return {"ms": ms, "tokens": result.tokens}

    def warm(queries: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        kept = [(_key(text), None) for text in texts]
        taken = []
        for query in queries:
            result, ms = timed(lambda query=query: scorer.score(query, kept))  # type: ignore[misc]
            if result.missing:
                raise ValueError(f"{len(result.missing)} texts were to be warm")
            taken.append(ms)
        return {"ms": taken}

    def encode_query(query: str) -> QueryVectors:
        encoded = encoder.encode_queries([query], manifest.truncation.query_max_tokens)
        return quantise_query(encoded.vectors[0], encoded.sentences[0])

    def queries_alone(queries: Sequence[str]) -> dict[str, Any]:
        return {"ms": [timed(lambda query=query: encode_query(query))[1] for query in queries]}  # type: ignore[misc]

    def similarity(queries: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        entries = scorer.kept.find(dict.fromkeys(_key(text) for text in texts))
        vectors = list(entries.values())
        taken = []
        for vector in map(encode_query, queries):
            _, ms = timed(lambda v=vector: (maxsim(v, vectors), cosine(v, vectors)))  # type: ignore[misc]
            taken.append(ms)
        return {"ms": taken}

    return {"cold": cold, "warm": warm, "query": queries_alone, "similarity": similarity, "peak": peak_mb}


def _key(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


if __name__ == "__main__":
    serve(load)
