"""Documents -> token vectors while an index is built: what colbert-ai's ``CollectionEncoder`` does, with less padding.

colbert-ai pads all documents of a batch of 1,600 to the longest of them, and encodes most small collections twice, once
as the sample that the centroids are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

BATCH_DOCUMENTS = 32
# A chunk of the index that is the sample at the same time is kept up to this size: 8,192 documents of 180 tokens are
# 760 MB.
KEPT_DOCUMENTS = 8_192

Progress = Callable[[int], None]
"""Told how many documents have just been encoded."""


class DocumentEncoder:
    """Stands in for ``colbert.indexing.collection_encoder.CollectionEncoder``."""

    def __init__(self, model: Any, progress: Progress) -> None:
        self._model = model
        self._progress = progress
        self._last: tuple[list[str], tuple[Any, list[int]]] | None = None

    def encode_passages(self, passages: Sequence[str]) -> tuple[Any, list[int]]:
        """Vectors float32 [all tokens, dim] of the documents one after the other, and how many each of them has."""
        import torch

        texts = list(passages)
        if self._last is not None and self._last[0] == texts:
            self._progress(len(texts))
            return self._last[1]
        vectors: list[Any] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        with torch.inference_mode():
            for first in range(0, len(order), BATCH_DOCUMENTS):
                batch = order[first : first + BATCH_DOCUMENTS]
                encoded = self._model.docFromText([texts[position] for position in batch], keep_dims=False)
                for position, document in zip(batch, encoded, strict=True):
                    vectors[position] = document.float()
                self._progress(len(batch))
            result = torch.cat(vectors), [len(document) for document in vectors]
        self._last = (texts, result) if len(texts) <= KEPT_DOCUMENTS else None
        return result
