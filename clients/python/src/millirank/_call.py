"""One rerank on its way: what was asked, how much time is left, and how it ends. No transport."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Generic, TypeVar

from millirank._ranking import Degradation, Outcome, Ranking, Reason
from millirank._request import (
    Extractors,
    Options,
    candidates,
    check_budget_ms,
    encode_latency,
    encode_request,
)
from millirank._silence import MAX_UNANSWERED
from millirank._status import Failure
from millirank._wire import UnusableAnswerError, first_stage, ranking_from
from millirank.v1 import rerank_service_pb2 as pb

T = TypeVar("T")

# Making the fallback takes this long per candidate (measured: 2.5 ms for a thousand). It is made after the timer has
# fired, so the timer fires that much earlier.
_FALL_BACK_MS_PER_CANDIDATE = 0.003
_MAX_RESERVE_SHARE = 0.1  # of the budget: a reserve of 1 ms must not eat half of a budget of 2 ms


class RerankCall(Generic[T]):
    """The caller's clock starts when this is made; it only ever reads the monotonic one.

    Raises `InvalidRequestError` where an argument is wrong. ``reserve_ms`` is kept back from what the sidecar
    may spend, for the way there and back; ``slack_ms`` is what the gRPC deadline adds to the budget, so that
    a late answer can still be counted and a dead call still ends.
    """

    def __init__(
        self,
        query: str,
        documents: Iterable[T],
        extractors: Extractors[T],
        options: Options,
        *,
        reserve_ms: float,
        slack_ms: float,
    ) -> None:
        self._started = time.monotonic()
        self.budget_ms = check_budget_ms(options.budget_ms)
        self._reserve_ms = min(reserve_ms, _MAX_RESERVE_SHARE * self.budget_ms)
        self._slack_ms = slack_ms
        self._strict = options.strict
        self._top_n = options.top_n
        self._may_omit = options.min_score is not None
        self._request_id = options.request_id
        self.documents = candidates(documents)
        self._encoded = encode_request(query, self.documents, extractors, options)

    def left_ms(self) -> float:
        """What is left of the budget; negative when it has been overrun."""
        return self.budget_ms - self._elapsed_ms()

    def timer_s(self) -> float:
        """How long the local timer may wait from now, in seconds, at least 0."""
        kept = min(self._top_n or len(self.documents), len(self.documents))
        return max(0.0, self.left_ms() - _FALL_BACK_MS_PER_CANDIDATE * kept) / 1e3

    def rpc_timeout_s(self) -> float:
        """The gRPC timeout from now, in seconds: what is left of the budget, plus the slack."""
        return max(0.0, self.left_ms() + self._slack_ms) / 1e3

    def message(self) -> bytes:
        """The request to send now, with what the sidecar may still spend, and what `rpc_timeout_s` adds to that: the
        sidecar then knows how long the request was under way before it was read.
        """
        return self._encoded + encode_latency(self.left_ms() - self._reserve_ms, self._reserve_ms + self._slack_ms)

    def message_without_clock(self) -> bytes:
        """The request with its whole budget, as if it had just come in: for ExplainRoute."""
        return self._encoded + encode_latency(self.budget_ms - self._reserve_ms)

    def answer_without_sidecar(self) -> Ranking[T] | None:
        """The answer where asking would be pointless: nothing to order, or no time to ask. Otherwise None."""
        if not self.documents:
            return Ranking((), Outcome.RANKED, request_id=self._request_id, elapsed_ms=self._elapsed_ms())
        if self.budget_ms == 0:
            return self.fall_back(Failure(Reason.BUDGET_TOO_SMALL, "budget_ms is 0"))
        if self.left_ms() <= self._reserve_ms:
            detail = f"preparing the request took {self._elapsed_ms():.1f} of {self.budget_ms:g} ms"
            return self.fall_back(Failure(Reason.BUDGET_EXHAUSTED, detail))
        return None

    def timed_out(self) -> Failure:
        """What to conclude when the local timer fires first."""
        return Failure(Reason.SIDECAR_TIMEOUT, f"no answer within the budget of {self.budget_ms:g} ms")

    def held_back(self) -> Failure:
        """What to conclude where the sidecar reads nothing, so that it is not even asked."""
        return Failure(Reason.SIDECAR_TIMEOUT, f"not asked: the last {MAX_UNANSWERED} calls got no answer")

    def read(self, response: pb.RerankResponse) -> Ranking[T] | Failure:
        """The sidecar's ranking, or what makes it unusable."""
        try:
            return ranking_from(
                response,
                self.documents,
                top_n=self._top_n,
                may_omit=self._may_omit,
                elapsed_ms=self._elapsed_ms(),
            )
        except UnusableAnswerError as error:
            return Failure(Reason.SIDECAR_ERROR, f"the answer can't be used: {error}")

    def fall_back(self, failure: Failure) -> Ranking[T]:
        """First-stage order instead of an answer. Raises `RerankError` for a strict call."""
        if self._strict:
            raise failure.as_error()
        return Ranking(
            results=first_stage(self.documents, self._top_n),
            outcome=Outcome.FIRST_STAGE,
            degradations=(Degradation(failure.reason, failure.detail),),
            fallback=True,
            request_id=self._request_id,
            elapsed_ms=self._elapsed_ms(),
        )

    def _elapsed_ms(self) -> float:
        return (time.monotonic() - self._started) * 1e3
