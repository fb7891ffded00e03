"""What the route span says of the arms: all of them, within bounds."""

from __future__ import annotations

from router.arms import Strategy
from router.policy import ConsideredArm, Verdict
from sidecar.planner import _arm_lines
from tests.helpers import ScriptedReranker, request, rig


def arm(number: int, words: str = "expected gain {}") -> ConsideredArm:
    return ConsideredArm(
        Strategy.CROSS_ENCODER, f"r{number}", 10, 1.0, 2.0, 0.1, 0, Verdict.LOWER_GAIN, (words, number)
    )


async def test_every_arm_is_on_the_span() -> None:
    """First-stage order, signals and each reranker at each k, with verdict and reason."""
    parts = rig(ScriptedReranker())
    answer = await parts.pipeline.rerank(request("red", "red", "blue", budget_ms=60_000.0), None, parts.clock())
    lines = (parts.span("route").attributes or {})["millirank.considered"]
    assert list(lines) == _arm_lines(answer.explanation.decision.considered)  # type: ignore[arg-type]
    assert any(str(line).startswith("scripted@2: chosen: ") for line in lines)  # type: ignore[union-attr]


def test_many_arms_are_cut_and_counted() -> None:
    """64 lines, then how many more there are: a collector refuses what is too large, and would lose the whole span."""
    assert _arm_lines([arm(number) for number in range(64)])[-1] == "r63@10: lower_gain: expected gain 63"
    lines = _arm_lines([arm(number) for number in range(70)])
    assert len(lines) == 65
    assert lines[-1] == "and 6 more"


def test_a_long_reason_is_cut() -> None:
    """300 characters each."""
    (line,) = _arm_lines([arm(1, "x" * 1000)])
    assert len(line) == 300
    assert line.endswith("x…")
