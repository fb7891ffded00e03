"""What can be chosen: strategies, arms and what each would cost one request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """How candidates are reordered."""

    NONE = "none"
    SIGNALS = "signals"
    CROSS_ENCODER = "cross_encoder"
    LATE_INTERACTION = "late_interaction"
    LLM = "llm"
    CASCADE = "cascade"


class State(StrEnum):
    """Whether a reranker can take work now."""

    READY = "ready"
    WARMING = "warming"
    CIRCUIT_OPEN = "circuit_open"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Availability:
    """A reranker's state and, where it is not READY, the reason in words (never query or document text)."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What scoring would still have to compute, per candidate in first-stage order.

    ``tokens[i]`` is the cost of candidate ``i`` in model tokens: the whole pair for a cross-encoder; for late
    interaction the document if its vectors are not kept, next to nothing if they are. ``fixed_tokens`` is paid once
    per request (the query). ``micro_usd_per_token`` is 0 for local models. ``warm`` counts candidates that need no
    model run. ``refusal`` says in words why these candidates can't be scored at all; '' if they can.
    ``unknown``: they are refused because they name something that is not configured.
    """

    tokens: tuple[int, ...]
    fixed_tokens: int = 0
    micro_usd_per_token: float = 0.0
    warm: int = 0
    refusal: str = ""
    unknown: bool = False

    def tokens_at(self, k: int) -> int:
        """Tokens to compute for the first ``k`` candidates, the fixed part included."""
        return self.fixed_tokens + sum(self.tokens[:k])
