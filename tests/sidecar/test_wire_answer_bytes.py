"""The answer's bytes, whose results are joined by hand: they mean exactly what protobuf's own encoding would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Strategy
from router.policy import Decision, Reason
from router.traits import Traits
from sidecar import wire
from sidecar.messages import (
    Answer,
    CacheStatus,
    Candidate,
    Completeness,
    Degradation,
    DegradationReason,
    Explanation,
    Outcome,
    Ranked,
    Request,
    ScoreSource,
    Timing,
    Usage,
)
from sidecar.settings import Mode

SOURCES = {
    ScoreSource.FIRST_STAGE: pb.SCORE_SOURCE_FIRST_STAGE,
    ScoreSource.SIGNALS: pb.SCORE_SOURCE_SIGNALS,
    ScoreSource.RERANKER: pb.SCORE_SOURCE_RERANKER,
}
# Source, score and raw score, as the pipeline combines them.
SCORINGS = [
    (ScoreSource.FIRST_STAGE, None, None),
    (ScoreSource.SIGNALS, 0.25, None),
    (ScoreSource.RERANKER, -1.5, 3.0),
    (ScoreSource.RERANKER, 0.0, 0.0),
]


def answer(*ranked: Ranked) -> Answer:
    explanation = Explanation(
        decision_id="d",
        decision=Decision(Strategy.LLM, "llm", 7, Reason.FORCED, 1.0, 2.0, 0.5, considered=(), signal_set=""),
        traits=Traits(1, False, False, 2, 3.0, (), 0.0),
        profile_corpus="c",
        profile_revision="p",
        model_revision="m",
        mode=Mode.ON,
        spendable_ms=98.0,
    )
    degradation = Degradation(DegradationReason.BUDGET_EXHAUSTED, "5 of 7")
    usage = Usage(pairs=5, cached_pairs=2, tokens=300, micro_usd=11)
    outcome = Outcome(ranked, 5, Completeness.PARTIAL, (degradation,), usage)
    return Answer("r-1", explanation, outcome, CacheStatus.MISS, Timing(4.0, 1.0, 2.0, 3.0))


def request(*candidates: Candidate) -> Request:
    return Request(request_id="r-1", corpus="", query="q", candidates=candidates)


def built(candidates: tuple[Candidate, ...], ranked: tuple[Ranked, ...]) -> pb.RerankResponse:
    """What `answer` is on the wire, as a message that protobuf itself puts together."""
    return pb.RerankResponse(
        request_id="r-1",
        results=[
            pb.Result(
                id=candidates[position].id,
                index=position,
                score=score,
                raw_score=raw_score,
                score_source=SOURCES[source],
                truncated=candidates[position].truncated,
            )
            for position, score, raw_score, source in ranked
        ],
        decision=dpb.Decision(
            id="d",
            strategy=dpb.STRATEGY_LLM,
            reranker="llm",
            model_revision="m",
            profile_corpus="c",
            profile_revision="p",
            planned_k=7,
            scored_k=5,
            reason=dpb.DECISION_REASON_FORCED,
            mode=dpb.MODE_ON,
            spendable=wire.duration(98.0),
        ),
        completeness=pb.COMPLETENESS_PARTIAL,
        degradations=[pb.Degradation(reason=pb.DEGRADATION_REASON_BUDGET_EXHAUSTED, detail="5 of 7")],
        timing=pb.Timing(
            total=wire.duration(4.0), route=wire.duration(1.0), queue=wire.duration(2.0), score=wire.duration(3.0)
        ),
        usage=pb.Usage(pairs=5, cached_pairs=2, tokens=300, cost_micro_usd=11),
        cache_status=pb.CACHE_STATUS_MISS,
    )


_scores = st.floats(allow_nan=False, allow_infinity=False)
_ids = st.text(max_size=20) | st.builds(
    lambda character, length: character * length, st.sampled_from("aé語🙂\0"), st.integers(0, 600)
)
_scoring = (
    st.just(SCORINGS[0])
    | st.tuples(st.just(ScoreSource.SIGNALS), _scores, st.none())
    | st.tuples(st.just(ScoreSource.RERANKER), _scores, _scores)
)


@given(
    pattern=st.lists(st.tuples(_ids, st.booleans(), _scoring), min_size=1, max_size=12),
    documents=st.integers(0, 1000),
    first=st.integers(0, 999),
    top_n=st.integers(0, 1000),
)
def test_answer_parses_to_what_protobuf_would_have_built(
    pattern: list[tuple[str, bool, tuple[ScoreSource, float | None, float | None]]],
    documents: int,
    first: int,
    top_n: int,
) -> None:
    """Ids of any length and alphabet, cut texts or not, scored and unscored in any order, up to 1,000 of them."""
    parts = [pattern[position % len(pattern)] for position in range(documents)]
    candidates = tuple(Candidate(name, "text", {}, truncated) for name, truncated, _ in parts)
    order = [(first + place) % documents for place in range(documents)][:top_n]
    ranked = tuple(
        Ranked(position, score, raw_score, source)
        for position in order
        for source, score, raw_score in [parts[position][2]]
    )
    encoded = wire.encode_answer(answer(*ranked), request(*candidates))
    assert pb.RerankResponse.FromString(encoded) == built(candidates, ranked)


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(("source", "score", "raw_score"), SCORINGS)
def test_id_of_every_length(source: ScoreSource, score: float | None, raw_score: float | None, truncated: bool) -> None:
    """From 0 to 600 bytes one by one: where lengths begin to need a second byte nothing is off by one."""
    candidates = tuple(Candidate("x" * length, "text", {}, truncated) for length in range(601))
    ranked = tuple(Ranked(position, score, raw_score, source) for position in range(601))
    encoded = wire.encode_answer(answer(*ranked), request(*candidates))
    assert pb.RerankResponse.FromString(encoded) == built(candidates, ranked)
