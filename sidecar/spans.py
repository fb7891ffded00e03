"""What spans say of requests and of calls to other services. Never any text."""

from __future__ import annotations

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from sidecar.messages import Answer
from sidecar.settings import Mode


def describe(span: Span, answer: Answer) -> None:
    """What became of the request, on its server span; what was predicted for it is on `route`.

    Every attribute costs microseconds here and in the exporter's thread, which takes them from the event loop: what
    is empty or zero is left out.
    """
    if not span.is_recording():
        return
    decision = answer.explanation.decision
    outcome = answer.outcome
    attributes: dict[str, AttributeValue] = {
        "millirank.request_id": answer.request_id,
        "millirank.strategy": decision.strategy.value,
        "millirank.reason": decision.reason.value,
        "millirank.completeness": outcome.completeness.value,
        "millirank.budget_ms": round(answer.explanation.spendable_ms, 3),
    }
    if answer.explanation.mode is not Mode.ON:
        attributes["millirank.mode"] = answer.explanation.mode.value
    if decision.planned_k:
        attributes |= {
            "gen_ai.operation.name": "rerank",
            "millirank.decision_id": answer.explanation.decision_id,
            "millirank.reranker": decision.reranker,
            "millirank.planned_k": decision.planned_k,
            "millirank.scored_k": outcome.scored_k,
            "millirank.predicted_p95_ms": round(decision.predicted_p95_ms, 3),
            "millirank.expected_gain": round(decision.expected_gain, 5),
            "millirank.queue_ms": round(answer.timing.queue_ms, 3),
            "millirank.score_ms": round(answer.timing.score_ms, 3),
            "millirank.cache": answer.cache.value,
        }
    if outcome.usage.cached_pairs:
        attributes["millirank.cached_pairs"] = outcome.usage.cached_pairs
    if outcome.degradations:
        attributes["millirank.degradation"] = [degradation.reason.value for degradation in outcome.degradations]
    span.set_attributes(attributes)
