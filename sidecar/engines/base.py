"""What an engine is to the rest of a worker process: something that scores pairs, or something that encodes texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairScores:
    """``scores`` is float32 [n], the model's logits, unfiltered; ``tokens`` is what it read, padding not counted."""

    scores: Floats
    tokens: int


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """``vectors[i]`` is float32 [t_i, token_dim], ``sentences`` float32 [n, sentence_dim]; all rows have length 1.

    ``sentence_dim`` is 0 where a model has token vectors only. ``tokens`` is what the model read, padding not counted.
    """

    vectors: list[Floats]
    sentences: Floats
    tokens: int


class Scorer(Protocol):
    """A cross-encoder."""

    def score(self, query: str, texts: Sequence[str], max_tokens: int, query_max_tokens: int) -> PairScores:
        """Scores each (query, text), in input order.

        The query is cut to ``query_max_tokens``, then the text so that the pair has at most ``max_tokens``.
        """
        ...


class Encoder(Protocol):
    """A model with a vector per token."""

    @property
    def maxsim_ratio(self) -> float:
        """What brings MaxSim to the scale of the cosine (see `sidecar.engines.late_interaction`)."""
        ...

    def encode(self, texts: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes documents, each cut to ``max_tokens`` tokens; results in input order."""
        ...

    def encode_query(self, query: str, max_tokens: int) -> EncodedTexts:
        """Encodes one query; some models mark queries differently from documents."""
        ...
