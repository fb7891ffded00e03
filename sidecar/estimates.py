"""How long things take on this machine: one estimator per reranker for whole stages, one for single chunks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from router.arms import State, Strategy, Work
from router.latency import LatencyEstimator, LatencyPrior, Pace
from router.profile import Profile
from sidecar.rerankers.base import Reranker

# For a reranker that no profile knows. Pessimistic on purpose: the first real measurements replace it quickly.
_UNKNOWN: Mapping[Strategy, LatencyPrior] = {
    Strategy.CROSS_ENCODER: LatencyPrior(base_ms=10.0, ms_per_token=0.2, spread=2.0),
    Strategy.LATE_INTERACTION: LatencyPrior(base_ms=10.0, ms_per_token=0.2, spread=2.0),
    Strategy.CASCADE: LatencyPrior(base_ms=1.0, ms_per_token=0.001, spread=2.0),  # its tokens are microseconds
    Strategy.LLM: LatencyPrior(base_ms=800.0, ms_per_token=0.1, spread=2.5),
}

# What a chunk costs beside its tokens is a part of what a stage costs: messages, batching, one model call.
_CHUNK_BASE_SHARE = 0.5

_LOOK_EVERY_S = 1.0  # for what was measured anew
_UNUSED_S = 60.0  # two of the estimators' idle half-lives: then the prior counts three quarters anyway


class Estimates:
    """Latency estimators of every reranker, seeded from the profile and from the warm-up of the worker."""

    def __init__(self, rerankers: Mapping[str, Reranker], profile: Profile, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rerankers = rerankers
        self.stage: dict[str, LatencyEstimator] = {}
        self.chunk: dict[str, LatencyEstimator] = {}
        self._priors: dict[str, LatencyPrior] = {}
        self._unseeded = set(rerankers)
        self._measured: dict[str, Sequence[tuple[int, float]]] = {}  # what the arm was seeded with
        self._seeded_at: dict[str, float] = {}
        self._look_again = -math.inf
        for name, reranker in rerankers.items():
            self._begin(name, _prior(reranker, profile))

    def pace(self, name: str, work: Work, now: float) -> Pace:
        """How long stages of this reranker take now.

        A stage whose first piece would not be started is not planned: chunks that were cut off teach only the chunks'
        estimator, and an arm that is planned again and again with nothing scored would never show that it is slow.
        """
        pace = self.stage[name].pace(now)
        if not work.tokens or self._rerankers[name].limits.whole_list:
            return pace
        first = work.fixed_tokens + work.tokens[0]
        excess_ms = self.chunk[name].pace(now).at(first).p95_ms - pace.at(first).p95_ms
        return pace._replace(p95_base_ms=pace.p95_base_ms + excess_ms) if excess_ms > 0.0 else pace

    def use(self, profile: Profile) -> None:
        """Another profile decides from now on. Arms for which it states another latency start again from that, as
        after a restart; the others keep what they have learnt."""
        for name, reranker in self._rerankers.items():
            prior = _prior(reranker, profile)
            if prior != self._priors[name]:
                self._begin(name, prior)
                self._unseeded.add(name)

    def seed(self) -> None:
        """Teach both estimators what rerankers have measured of themselves, in the warm-up and while they were idle."""
        now = self._clock()
        look = tuple(self._unseeded)
        if now >= self._look_again:
            self._look_again = now + _LOOK_EVERY_S
            look = tuple(self._rerankers)
        for name in look:
            reranker = self._rerankers[name]
            if reranker.availability().state is State.READY:
                measured = reranker.warm_up_samples()
                if name in self._unseeded or (measured is not self._measured[name] and self._is_unused(name, now)):
                    self._unseeded.discard(name)
                    self._measured[name] = measured
                    self.stage[name] = _seeded(self._priors[name], measured, now)
                    self.chunk[name] = _seeded(_of_a_chunk(self._priors[name]), measured, now)
                    self._seeded_at[name] = self.chunk[name].last

    def _is_unused(self, name: str, now: float) -> bool:
        """No request has been computed with it for long, or ever: what it has measured of itself is all there is.

        Else a model that was warmed up beside something that took the CPU would be too slow to be chosen for good. An
        arm in use learns from its requests, which know better what they take than a model knows.
        """
        last = self.chunk[name].last
        return last == self._seeded_at[name] or now - last >= _UNUSED_S

    def _begin(self, name: str, prior: LatencyPrior) -> None:
        self._priors[name] = prior
        self.stage[name] = LatencyEstimator(prior)
        self.chunk[name] = LatencyEstimator(_of_a_chunk(prior))


def _prior(reranker: Reranker, profile: Profile) -> LatencyPrior:
    known = profile.arms.get(reranker.identity.name)
    return known.latency if known else _UNKNOWN[reranker.identity.strategy]


def _seeded(prior: LatencyPrior, samples: Sequence[tuple[int, float]], now: float) -> LatencyEstimator:
    """An estimator for this machine. The profile's prior was measured on another one: its shape is kept, its level
    is the warm-up's (the median ratio).

    The prior is of everything that a stage takes; a model that warms up measures nothing but itself. So samples of
    which tokens are not the most part are left out: beside those, messages and fusing would seem to cost nothing. And
    where the model is faster than the prior says, messages and fusing need not be (int8 on another CPU made it 9 times
    faster, and them not): the base stays, and what it would have lost is added to the samples.
    """
    samples = [one for one in samples if prior.ms_per_token * one[0] > prior.base_ms] or samples
    beside_ms = 0.0
    if samples:
        ratios = (elapsed_ms / (prior.base_ms + prior.ms_per_token * tokens) for tokens, elapsed_ms in samples)
        factor = statistics.median(ratios)
        beside_ms = prior.base_ms * max(0.0, 1.0 - factor)
        prior = replace(prior, base_ms=prior.base_ms * max(1.0, factor), ms_per_token=prior.ms_per_token * factor)
    estimator = LatencyEstimator(prior)
    for tokens, elapsed_ms in samples:
        estimator.observe(tokens, elapsed_ms + beside_ms, now)
    return estimator


def _of_a_chunk(prior: LatencyPrior) -> LatencyPrior:
    return replace(prior, base_ms=prior.base_ms * _CHUNK_BASE_SHARE)
