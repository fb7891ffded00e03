"""Sentence vectors of a whole collection: computed once with the embedded encoder, kept on disk, searched by cosine."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sidecar.engines.onnx import TokenEncoder

_LOG = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

# How many texts go to the engine at once: enough to fill its batches, few enough for a bar that moves.
_CHUNK = 128
# Below this, comparing with every vector takes about a millisecond and misses nothing, while a graph takes
# seconds to build and misses some neighbours.
_EXACT_BELOW = 20_000
_GRAPH_NEIGHBOURS = 32  # M: edges of a node
_GRAPH_BUILD_WIDTH = 200  # ef_construction
_GRAPH_SEARCH_WIDTH = 400  # ef; 0.998 of the 100 nearest of 7,000 clustered vectors were found with these three
_NORM_TOLERANCE = 1e-2


class DenseIndex:
    """Unit vectors float32 [n, d] and the way to the nearest of them by cosine.

    Exact below ``exact_below`` vectors; above, an HNSW graph (hnswlib), built in one thread so that it is the same each
    time. The scores of `scores` are exact in both cases.
    """

    def __init__(self, vectors: Vectors, exact_below: int = _EXACT_BELOW) -> None:
        self._vectors = vectors
        self._graph: Any = None
        if len(vectors) >= exact_below:
            import hnswlib

            self._graph = hnswlib.Index(space="cosine", dim=vectors.shape[1])
            self._graph.init_index(
                max_elements=len(vectors), M=_GRAPH_NEIGHBOURS, ef_construction=_GRAPH_BUILD_WIDTH, random_seed=0
            )
            self._graph.add_items(vectors, num_threads=1)

    def nearest(self, query: Vectors, k: int) -> list[int]:
        """Positions of the ``k`` nearest (fewer if there are not as many), nearest first; ties by position."""
        k = min(k, len(self._vectors))
        if self._graph is None:
            return [int(i) for i in np.argsort(-(self._vectors @ query), kind="stable")[:k]]
        self._graph.set_ef(max(_GRAPH_SEARCH_WIDTH, 2 * k))
        found = sorted(int(i) for i in self._graph.knn_query(query, k=k, num_threads=1)[0][0])
        exact = self.scores(query, found)
        return [found[i] for i in sorted(range(k), key=lambda i: -exact[i])]

    def scores(self, query: Vectors, positions: Sequence[int]) -> list[float]:
        """Cosine of the query with each of the vectors at ``positions``."""
        return [float(score) for score in self._vectors[list(positions)] @ query]


def encode_all(
    texts: Sequence[str],
    encoder: TokenEncoder,
    max_tokens: int,
    cache_dir: Path | None,
    on_progress: Callable[[int], None],
) -> Vectors:
    """Unit sentence vectors float32 [n, d] of ``texts`` cut to ``max_tokens`` tokens, in their order.

    Kept in ``cache_dir`` (None: not kept) under a digest of the texts and the model revision; a damaged file is made
    anew. ``on_progress`` gets the number of texts done so far. Raises OSError when the directory can't be written.
    """
    path = None if cache_dir is None else cache_dir / _cache_name(texts, encoder.revision, max_tokens)
    if path is not None and (kept := _read(path, len(texts))) is not None:
        on_progress(len(texts))
        return kept
    vectors = _encode(texts, encoder, max_tokens, on_progress)
    if path is not None:
        _write(path, vectors)
    return vectors


def _encode(
    texts: Sequence[str], encoder: TokenEncoder, max_tokens: int, on_progress: Callable[[int], None]
) -> Vectors:
    # Longest first: equal lengths share a batch, and the time that the bar predicts only ever shrinks.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    parts = []
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        parts.append(encoder.encode([texts[i] for i in chunk], max_tokens).sentence_vectors)
        on_progress(start + len(chunk))
    vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors


def _cache_name(texts: Sequence[str], revision: str, max_tokens: int) -> str:
    digest = hashlib.sha256(f"{revision} {max_tokens}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        digest.update(encoded)
    return f"dense-{digest.hexdigest()[:24]}.npz"


def _read(path: Path, count: int) -> Vectors | None:
    """The kept vectors, or None where there are none that can be used. The archive's own CRC guards the content."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            vectors: Vectors = archive["vectors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _LOG.warning("computing the vectors in %s again: %s", path, error)
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != count:
        _LOG.warning("computing the vectors in %s again: %s of %s", path, vectors.shape, vectors.dtype)
        return None
    if np.any(np.abs(np.linalg.norm(vectors, axis=1) - 1) > _NORM_TOLERANCE):
        _LOG.warning("computing the vectors in %s again: they are not of unit length", path)
        return None
    return vectors


def _write(path: Path, vectors: Vectors) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OSError(f"cannot write to cache directory {path.parent} ({error}); set MILLIRANK_CACHE_DIR") from error
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, vectors=vectors)
        unfinished.replace(path)  # atomic: a reader sees the old file or the whole new one
    finally:
        unfinished.unlink(missing_ok=True)
