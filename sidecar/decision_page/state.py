"""What the page shows, as JSON has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.arms import State
from router.profile import Profile
from sidecar.decision_page.recent import Decided, RecentDecisions
from sidecar.pipeline import Pipeline
from sidecar.profiles import Profiles
from sidecar.rerankers.base import Reranker


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a sidecar that the page looks at. Ask them on the event loop that runs them."""

    recent: RecentDecisions
    pipeline: Pipeline
    rerankers: Mapping[str, Reranker]
    profiles: Callable[[], Profiles]
    utilisation: Callable[[], float]

    def state(self, after: int) -> dict[str, Any]:
        """Everything, of the decisions those that came later than number ``after``."""
        recent = self.recent
        return {
            "since": recent.since,
            "mode": self.pipeline.mode.value,
            "draining": self.pipeline.draining,
            "utilisation": round(self.utilisation(), 4),
            "answered": recent.answered,
            "late": recent.late,
            "by_arm": dict(recent.by_arm),
            "by_degradation": dict(recent.by_degradation),
            "arms": [_arm(name, reranker) for name, reranker in self.rerankers.items()],
            "profiles": [_profile(profile) for profile in self.profiles().all()],
            "decisions": [_decision(decided) for decided in recent.after(after)],
        }

    def considered(self, number: int) -> list[dict[str, Any]] | None:
        """Every arm that one decision looked at, with its reason; None where it is not kept any more."""
        decided = self.recent.get(number)
        if decided is None:
            return None
        return [
            {
                "arm": arm.reranker or arm.strategy.value,
                "k": arm.rerank_k,
                "p50_ms": round(arm.p50_ms, 2),
                "p95_ms": round(arm.p95_ms, 2),
                "gain": round(arm.expected_gain, 4),
                "micro_usd": arm.micro_usd,
                "verdict": arm.verdict.value,
                "detail": arm.detail,
            }
            for arm in decided.explanation.decision.considered
        ]


def _arm(name: str, reranker: Reranker) -> dict[str, Any]:
    availability = reranker.availability()
    return {
        "name": name,
        "strategy": reranker.identity.strategy.value,
        "state": availability.state.value,
        "detail": availability.detail,
        "queue_ms": round(reranker.queue_ms(), 2) if availability.state is State.READY else 0.0,
    }


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "corpus": profile.corpus,
        "revision": profile.revision,
        "gains": {
            signals: {
                name: [[point.k, point.gain, point.lower] for point in arm.gains[signals].points]
                for name, arm in profile.arms.items()
                if signals in arm.gains
            }
            for signals in sorted({signals for arm in profile.arms.values() for signals in arm.gains})
        },
    }


def _decision(decided: Decided) -> dict[str, Any]:
    explanation, timing = decided.explanation, decided.timing
    decision = explanation.decision
    return {
        "number": decided.number,
        "at": decided.at,
        "trace_id": decided.trace_id,
        "corpus": explanation.profile_corpus,
        "signals": decision.signal_set,
        "strategy": decision.strategy.value,
        "arm": decision.reranker or decision.strategy.value,
        "planned_k": decision.planned_k,
        "scored_k": decided.scored_k,
        "documents": explanation.traits.documents,
        "reason": decision.reason.value,
        "spendable_ms": round(explanation.spendable_ms, 2),
        "p50_ms": round(decision.predicted_p50_ms, 2),
        "p95_ms": round(decision.predicted_p95_ms, 2),
        "gain": round(decision.expected_gain, 4),
        "total_ms": round(timing.total_ms, 2),
        "route_ms": round(timing.route_ms, 2),
        "queue_ms": round(timing.queue_ms, 2),
        "score_ms": round(timing.score_ms, 2),
        "cache": decided.cache.value,
        "completeness": decided.completeness,
        "degradation": decided.degradation,
        "micro_usd": decided.micro_usd,
    }
