"""How long things take on this machine: one estimator per reranker for whole stages, one for single chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from router.arms import State, Strategy
from router.latency import LatencyEstimator, LatencyPrior
from router.profile import Profile
from sidecar.rerankers.base import Reranker

# For a reranker that no profile knows. Pessimistic on purpose: the first real measurements replace it quickly.
_UNKNOWN: Mapping[Strategy, LatencyPrior] = {
    Strategy.CROSS_ENCODER: LatencyPrior(base_ms=10.0, ms_per_token=0.2, spread=2.0),
    Strategy.LATE_INTERACTION: LatencyPrior(base_ms=10.0, ms_per_token=0.2, spread=2.0),
    Strategy.LLM: LatencyPrior(base_ms=800.0, ms_per_token=0.1, spread=2.5),
}

# What a chunk costs beside its tokens is a part of what a stage costs: messages, batching, one model call.
_CHUNK_BASE_SHARE = 0.5


class Estimates:
    """Latency estimators of every reranker, seeded from the profile and from the warm-up of the worker."""

    def __init__(self, rerankers: Mapping[str, Reranker], profile: Profile, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rerankers = rerankers
        self.stage: dict[str, LatencyEstimator] = {}
        self.chunk: dict[str, LatencyEstimator] = {}
        self._unseeded = set(rerankers)
        for name, reranker in rerankers.items():
            known = profile.arms.get(name)
            prior = known.latency if known else _UNKNOWN[reranker.identity.strategy]
            self.stage[name] = LatencyEstimator(prior)
            self.chunk[name] = LatencyEstimator(
                LatencyPrior(prior.base_ms * _CHUNK_BASE_SHARE, prior.ms_per_token, prior.spread)
            )

    def seed(self) -> None:
        """Teach both estimators what the warm-up measured, once for each reranker that has become ready."""
        if not self._unseeded:
            return
        now = self._clock()
        for name in tuple(self._unseeded):
            reranker = self._rerankers[name]
            if reranker.availability().state is State.READY:
                self._unseeded.discard(name)
                for tokens, elapsed_ms in reranker.warm_up_samples():
                    self.stage[name].observe(tokens, elapsed_ms, now)
                    self.chunk[name].observe(tokens, elapsed_ms, now)
