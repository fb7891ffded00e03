"""What an engine is to the rest of a worker process: something that scores pairs, or something that encodes texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class PairList(NamedTuple):
    """A query with the texts that are to be scored for it."""

    query: str
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class PairScores:
    """``scores`` is float32 [n], the model's logits, unfiltered; ``tokens`` is what it read, padding not counted."""

    scores: Floats
    tokens: int


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """``vectors[i]`` is float32 [t_i, token_dim], ``sentences`` float32 [n, sentence_dim]; all rows have length 1.

    ``sentence_dim`` is 0 where a model has token vectors only. ``lengths[i]`` is how many tokens of text i the model
    read, padding not counted.
    """

    vectors: list[Floats]
    sentences: Floats
    lengths: list[int]


class Scorer(Protocol):
    """A cross-encoder."""

    def score_lists(self, lists: Sequence[PairList], max_tokens: int, query_max_tokens: int) -> list[PairScores]:
        """Scores each (query, text) of each list, in input order; pairs of all of them may go into one batch.

        A query is cut to ``query_max_tokens``, then the text so that the pair has at most ``max_tokens``.
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

    def encode_queries(self, queries: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes queries, which some models mark differently from documents; results in input order."""
        ...


def split_scores(lists: Sequence[PairList], scores: Floats, lengths: Sequence[int]) -> list[PairScores]:
    """Scores of all pairs, one list after the other, as those of each list; ``lengths`` are the pairs' tokens."""
    ends = list(accumulate(len(texts) for _, texts in lists))
    return [
        PairScores(scores[first:end], sum(lengths[first:end])) for first, end in zip([0, *ends], ends, strict=False)
    ]
