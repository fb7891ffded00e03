"""Whatever numbers a model answers and whatever signals come along: the order that the pipeline makes of them."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.arms import Strategy
from router.policy import Routing
from sidecar.messages import Answer, Completeness, DegradationReason, Request
from sidecar.rerankers.base import Scored
from tests.helpers import ScriptedReranker, arm_data, profile, request, rig

# Few values, so that ties are common, and the ends of the float range.
_FINITE = st.sampled_from([0.0, -0.0, 1.0, 1.5, -3.0, 1e-320, 1e300, -1.7e308, 1.7e308]) | st.floats(
    allow_nan=False, allow_infinity=False
)
_ANY = _FINITE | st.sampled_from([math.nan, math.inf, -math.inf])
_SIGNALS = st.dictionaries(st.sampled_from(["bm25", "dense"]), _FINITE)


def answered(asked: Request, scores: tuple[float, ...], weight: float = 0.0) -> Answer:
    """The answer to a request whose model says ``scores``, in one call; ``weight`` is that of bm25 in the fusion."""
    reranker = ScriptedReranker()
    reranker.script = [Scored(scores=scores, tokens=10, compute_ms=1.0)]
    weights = {"bm25": weight} if weight else {"rank": 0.0}
    data = arm_data()
    data["weights"] = {
        "": {"rerank": 1.0, "signals": {}},
        "bm25": {"rerank": 1.0, "signals": weights},
    }
    parts = rig(reranker, profiles=[profile(scripted=data)])
    return asyncio.run(parts.pipeline.rerank(asked, None, parts.clock()))


def asked(signals: list[dict[str, float]], **fields: int) -> Request:
    routing = Routing(Strategy.CROSS_ENCODER)
    texts = ["red"] * len(signals)
    return request("red", *texts, signals=signals, routing=routing, budget_ms=1e6, **fields)


@given(signals=st.lists(_SIGNALS, min_size=2, max_size=12), weight=st.sampled_from([0.0, 0.5, -2.0]), data=st.data())
def test_any_finite_scores(signals: list[dict[str, float]], weight: float, data: st.DataObject) -> None:
    """Invariants 3 and 4: a permutation, best fused score first, ties in first-stage order; the model's own scores come
    out as they went in, and top_n is a prefix of the whole."""
    scores = tuple(data.draw(st.lists(_FINITE, min_size=len(signals), max_size=len(signals))))
    ranked = answered(asked(signals), scores, weight).outcome.ranked
    assert sorted(item.position for item in ranked) == list(range(len(signals)))
    fused = [(item.score, item.position) for item in ranked]
    for (better, before), (worse, behind) in pairwise(fused):
        assert better is not None
        assert worse is not None
        assert math.isfinite(better)
        assert better > worse or (better == worse and before < behind)
    assert [item.raw_score for item in ranked] == [scores[item.position] for item in ranked]
    top_n = data.draw(st.integers(1, len(signals) + 2))
    assert answered(asked(signals, top_n=top_n), scores, weight).outcome.ranked == ranked[:top_n]


@given(signals=st.lists(_SIGNALS, min_size=2, max_size=12), scores=st.lists(_ANY, max_size=14))
def test_any_answer_of_a_model(signals: list[dict[str, float]], scores: list[float]) -> None:
    """Invariant 4: unless every candidate has exactly one finite score, the result is discarded: first-stage order, and
    BAD_OUTPUT says why."""
    usable = len(scores) == len(signals) and all(map(math.isfinite, scores))
    outcome = answered(asked(signals), tuple(scores)).outcome
    if usable:
        assert outcome.completeness is Completeness.FULL
    else:
        assert outcome.completeness is Completeness.FIRST_STAGE_ONLY
        assert [degradation.reason for degradation in outcome.degradations] == [DegradationReason.BAD_OUTPUT]
        assert [(item.position, item.score) for item in outcome.ranked] == [(at, None) for at in range(len(signals))]


@given(scores=st.lists(_FINITE, min_size=2, max_size=12), data=st.data())
def test_first_stage_order_changes_ties_only(scores: list[float], data: st.DataObject) -> None:
    """Without signals the order follows the model's scores, whatever order the candidates came in."""
    places = data.draw(st.permutations(range(len(scores))))
    shuffled = tuple(scores[place] for place in places)
    straight = answered(asked([{}] * len(scores)), tuple(scores)).outcome.ranked
    turned = answered(asked([{}] * len(scores)), shuffled).outcome.ranked
    for one, other in zip(straight, turned, strict=True):
        assert one.score is not None
        assert other.score is not None
        assert math.isclose(one.score, other.score, rel_tol=1e-9, abs_tol=1e-9)
