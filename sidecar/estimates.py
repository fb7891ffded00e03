"""How long things take on this machine: one estimator per reranker for whole stages, one for single chunks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

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
_LITTLE = 32  # chunks: what so few have taught is given up for a new warm-up

_Samples: TypeAlias = Sequence[tuple[int, float]]  # (tokens computed, milliseconds)


class Estimates:
    """Latency estimators of every reranker, seeded from the profile and from the warm-up of the worker."""

    def __init__(self, rerankers: Mapping[str, Reranker], profile: Profile, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rerankers = rerankers
        self.stage: dict[str, LatencyEstimator] = {}
        self.chunk: dict[str, LatencyEstimator] = {}
        self._priors: dict[str, LatencyPrior] = {}
        self._unseeded = set(rerankers)
        self._measured: dict[str, _Samples] = {}  # by rerankers of themselves, as far as it has been learnt
        self._own: dict[str, int] = {}  # how many of an arm's samples were those
        self._look_again = 0.0
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
        if not self._unseeded and now < self._look_again:
            return
        self._look_again = now + _LOOK_EVERY_S
        for name, reranker in self._rerankers.items():
            if reranker.availability().state is State.READY:
                measured, before = reranker.warm_up_samples(), self._measured.get(name, ())
                self._measured[name] = measured
                if name in self._unseeded or measured is not before:
                    self._learn(name, measured, before, now)
                    self._unseeded.discard(name)

    def _learn(self, name: str, measured: _Samples, before: _Samples, now: float) -> None:
        """An arm that hardly any request has been computed with begins anew: a warm-up beside something that took the
        CPU is forgotten at once. Other arms learn what is new."""
        prior = self._priors[name]
        if name in self._unseeded or self.chunk[name].samples < self._own[name] + _LITTLE:
            self.stage[name] = _seeded(prior, measured, now)
            self.chunk[name] = _seeded(_of_a_chunk(prior), measured, now)
            self._own[name] = self.chunk[name].samples
            return
        for tokens, elapsed_ms in _telling(prior, [one for one in measured if one not in before]):
            self.stage[name].observe(tokens, elapsed_ms, now)
            self.chunk[name].observe(tokens, elapsed_ms, now)

    def _begin(self, name: str, prior: LatencyPrior) -> None:
        self._priors[name] = prior
        self.stage[name] = LatencyEstimator(prior)
        self.chunk[name] = LatencyEstimator(_of_a_chunk(prior))


def _prior(reranker: Reranker, profile: Profile) -> LatencyPrior:
    known = profile.arms.get(reranker.identity.name)
    return known.latency if known else _UNKNOWN[reranker.identity.strategy]


def _seeded(prior: LatencyPrior, samples: _Samples, now: float) -> LatencyEstimator:
    """An estimator for this machine. The profile's prior was measured on another one: its shape is kept, its level
    is the warm-up's (the median ratio).

    """
    samples = _telling(prior, samples) or samples
    if samples:
        ratios = (elapsed_ms / (prior.base_ms + prior.ms_per_token * tokens) for tokens, elapsed_ms in samples)
        factor = statistics.median(ratios)
        prior = replace(prior, base_ms=prior.base_ms * factor, ms_per_token=prior.ms_per_token * factor)
    estimator = LatencyEstimator(prior)
    for tokens, elapsed_ms in samples:
        estimator.observe(tokens, elapsed_ms, now)
    return estimator


def _telling(prior: LatencyPrior, samples: _Samples) -> _Samples:
    """Those that say something about requests.

    The prior is of everything that a stage takes; a model that warms up measures nothing but itself. So samples of
    which tokens are not the most part are left out: beside those, messages and fusing would seem to cost nothing.
    """
    return [one for one in samples if prior.ms_per_token * one[0] > prior.base_ms]


def _of_a_chunk(prior: LatencyPrior) -> LatencyPrior:
    return replace(prior, base_ms=prior.base_ms * _CHUNK_BASE_SHARE)
