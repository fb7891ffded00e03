"""How large the next chunk of a request is: as predicted by what calls of its reranker have taken so far."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from router.arms import Work
from router.latency import LatencyEstimator
from sidecar.rerankers.base import Limits

# Small enough that a request in a hurry waits little, large enough that batching pays.
TARGET_CHUNK_MS = 15.0
# The mandatory part is not cut for less: two small chunks cost more than one that is a little too long.
_LONGEST_TARGET = 1.5


class Chunks:
    """The candidates of one request at one reranker, as pieces that take a certain time.

    ``last`` is the end of a half-open range of candidates everywhere, ``beside_tokens`` what is computed for other
    requests in the same call.
    """

    def __init__(self, work: Work, limits: Limits, estimator: LatencyEstimator, clock: Callable[[], float]) -> None:
        self._work = work
        self._limits = limits
        self._estimator = estimator
        self._clock = clock
        self.mandatory = 0
        """Candidates that go before other requests' optional ones."""

    def tokens(self, first: int, last: int) -> int:
        """What [first, last) has to compute, with what is paid once per request."""
        return self._fixed(first) + sum(self._work.tokens[first:last])

    def p50_ms(self, first: int, last: int) -> float:
        """How long that takes in the median; nothing to compute takes no time."""
        tokens = self.tokens(first, last)
        return self._estimator.predict(tokens, self._clock()).p50_ms if tokens else 0.0

    def p95_ms(self, first: int, last: int) -> float:
        """How long it takes at p95."""
        tokens = self.tokens(first, last)
        return self._estimator.predict(tokens, self._clock()).p95_ms if tokens else 0.0

    def target_ms(self) -> float:
        """How long a chunk should be: what a call costs beside its work is never more than half of it."""
        return max(TARGET_CHUNK_MS, 2 * self._estimator.pace(self._clock()).p50_base_ms)

    def is_one(self, first: int, last: int) -> bool:
        """Whether [first, last) is a single chunk."""
        if last - first > self._limits.max_chunk_documents:
            return False
        return self.p50_ms(first, last) <= self.target_ms() * (_LONGEST_TARGET if last == self.mandatory else 1.0)

    def shareable_tokens(self, first: int, last: int) -> int:
        """The tokens of [first, last) if it may be computed in one call with those of other requests; else 0."""
        return self.tokens(first, last) if self._limits.shares_calls and self.is_one(first, last) else 0

    def fitting(self, first: int, last: int, remaining_ms: float, beside_tokens: int = 0) -> int:
        """How many of [first, last) are predicted to be scored in time, at p95."""
        now = self._clock()
        before = self._fixed(first) + beside_tokens
        tokens = tuple(accumulate(self._work.tokens[first:last], initial=before))[1:]
        # Predictions grow with the tokens, so the bound is found by bisection. Nothing to compute takes no time.
        return bisect_right(
            tokens, remaining_ms, key=lambda count: self._estimator.predict(count, now).p95_ms if count else 0.0
        )

    def next_size(
        self, first: int, last: int, remaining_ms: float, *, all_or_none: bool = False, beside_tokens: int = 0
    ) -> int:
        """How many of [first, last) the next chunk takes; 0 if not one is predicted to end in time.

        ``all_or_none``: 0, too, if not all of them are, with the chunks after this one.
        """
        limits = self._limits
        last = min(last, first + limits.max_chunk_documents)
        if limits.whole_list:
            # It runs as far as its own timeout allows: there is no smaller piece that could be tried instead.
            return last - first if remaining_ms > 0 else 0
        in_time = self.fitting(first, last, remaining_ms, beside_tokens)
        if in_time < last - first and (limits.side_by_side or all_or_none):
            return 0
        if limits.side_by_side:
            return last - first
        in_one_chunk = (
            last - first
            if self.is_one(first, last)
            else bisect_right(range(first + 1, last + 1), self.target_ms(), key=lambda end: self.p50_ms(first, end))
        )
        return min(in_time, max(1, in_one_chunk))

    def _fixed(self, first: int) -> int:
        return self._work.fixed_tokens if first == 0 else 0
