"""What the real router does with the fitted profile: which arm for which budget, and what its answers are worth."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.arms import Availability, State, Strategy, Work
from router.budget import spendable
from router.latency import LatencyEstimator, LatencyPrior, Pace
from router.policy import Decision, RerankerView, Routing, choose
from router.profile import SIGNALS_ARM, Profile
from sidecar.calibrate.records import JudgedList, LatencySample
from sidecar.calibrate.report.orders import Query
from sidecar.calibrate.report.readout import NONE_ARM, Choice
from sidecar.planner import signals_ms


@dataclass(frozen=True, slots=True)
class Load:
    """What one arm's requests computed: ``tokens`` at k candidates are about fixed + per_document * k."""

    fixed: float
    per_document: float
    micro_usd_per_token: float

    def work(self, documents: int) -> Work:
        """The same for a request with so many candidates."""
        # Whole tokens whose sums stay on the line.
        sums = [round(self.fixed + self.per_document * k) for k in range(documents + 1)]
        tokens = tuple(after - before for before, after in itertools.pairwise(sums))
        return Work(tokens, fixed_tokens=sums[0], micro_usd_per_token=self.micro_usd_per_token)


def loads(samples: Sequence[LatencySample], *, warm: bool) -> dict[str, Load]:
    """The load of each reranker, by least squares over its samples with warm (or cold) documents."""
    groups: defaultdict[str, list[LatencySample]] = defaultdict(list)
    for sample in samples:
        if sample.warm == warm and sample.reranker not in (NONE_ARM, SIGNALS_ARM):
            groups[sample.reranker].append(sample)
    return {name: _load(group) for name, group in groups.items()}


def _load(samples: Sequence[LatencySample]) -> Load:
    k = np.array([sample.pairs for sample in samples], dtype=np.float64)
    tokens = np.array([sample.tokens for sample in samples], dtype=np.float64)
    spread = float(((k - k.mean()) ** 2).sum())
    slope = float(((k - k.mean()) * (tokens - tokens.mean())).sum()) / spread if spread else 0.0
    slope = max(0.0, slope)
    fixed = float(tokens.mean() - slope * k.mean())
    if fixed < 0.0:  # a line through the origin fits better than a negative number of tokens
        fixed, slope = 0.0, float(tokens.sum() / k.sum()) if k.sum() else 0.0
    price = sum(sample.micro_usd for sample in samples)
    return Load(fixed, slope, price / float(tokens.sum()) if tokens.sum() else 0.0)


@dataclass(frozen=True, slots=True)
class Router:
    """`router.policy.choose` as a sidecar without load would call it, every reranker ready.

    ``reserve_ms``, ``default_ms`` and ``max_micro_usd`` are the sidecar's settings. ``max_documents``: the most
    candidates that one answer of a reranker covers, where that is limited.
    """

    loads: Mapping[str, Load]
    max_documents: Mapping[str, int]
    default_ms: float
    reserve_ms: float
    max_micro_usd: int

    def decide(self, query: Query, profile: Profile, budget_ms: float) -> Decision:
        """The decision for this query with ``profile``."""
        traits = query.traits
        views = [
            RerankerView(
                name=name,
                strategy=arm.strategy,
                availability=Availability(State.READY),
                work=_work(self.loads[name], traits.documents),
                pace=_pace(arm.latency),
                whole_list=arm.strategy is Strategy.LLM and name in self.max_documents,
                max_documents=self.max_documents.get(name),
            )
            for name, arm in profile.arms.items()
            if name in self.loads
        ]
        return choose(
            traits=traits,
            spendable_ms=spendable(budget_ms, None, self.default_ms, self.reserve_ms).spendable_ms,
            max_micro_usd=self.max_micro_usd,
            routing=Routing(),
            profile=profile,
            rerankers=views,
            signals_ms=signals_ms(traits.documents),
        )


# A few arms and list lengths, for thousands of decisions.
@functools.lru_cache(maxsize=256)
def _work(load: Load, documents: int) -> Work:
    return load.work(documents)


@functools.lru_cache(maxsize=256)
def _pace(prior: LatencyPrior) -> Pace:
    return LatencyEstimator(prior).pace(0.0)


def max_documents(lists: Sequence[JudgedList], name: str, k: int) -> int | None:
    """The most candidates that ``name`` scored in one list, where that is less than it was given; None otherwise."""
    given = max(min(k, len(judged.ids)) for judged in lists)
    scored = max(int(np.isfinite(judged.raw[name]).sum()) for judged in lists)
    return scored if scored < given else None


def arm_of(decision: Decision) -> tuple[str, int]:
    """(reranker, rerank_k) of the arm taken, strategies without a model by their own name."""
    return decision.reranker or decision.strategy.value, decision.planned_k


def choices(decisions: Sequence[Decision], ks: Sequence[int]) -> tuple[Choice, ...]:
    """Which arms were taken for which share of the requests, the most frequent first.

    A request with fewer candidates than planned for counts as the next larger of ``ks`` (ascending): 37 of 37 is
    what a rerank_k of 50 gives.
    """
    counts = Counter((name, next((g for g in ks if g >= k), k) if k else 0) for name, k in map(arm_of, decisions))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Choice(name, k, count / len(decisions)) for (name, k), count in ordered)


def predicted(decisions: Sequence[Decision]) -> tuple[float, float]:
    """Mean predicted p50 and largest predicted p95, in ms."""
    return (
        statistics.fmean(decision.predicted_p50_ms for decision in decisions),
        max(decision.predicted_p95_ms for decision in decisions),
    )
