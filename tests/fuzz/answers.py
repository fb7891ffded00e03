"""Answers of backends, and of the sidecar to its client."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator

from millirank import _wire as client_wire
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from sidecar.rerankers import prompts, remote_shapes
from sidecar.rerankers.base import Document, ScoreRequest
from tests.fuzz.target import Target

_COUNT = 3  # documents that a backend was asked about


def _llm(data: bytes) -> None:
    prompt = _prompt()
    answer = prompts.read_answer(data, prompt)
    assert bool(answer.scores) != bool(answer.problem)
    assert 0 <= answer.usage.prompt <= 1 << 31
    assert 0 <= answer.usage.completion <= 1 << 31
    if answer.scores:
        assert len(answer.scores) == _COUNT
        assert set(answer.scores) <= set(map(float, range(prompts.LOWEST_SCORE, prompts.HIGHEST_SCORE + 1)))


@functools.cache
def _prompt() -> prompts.Prompt:
    texts = [Document(str(number), f"text {number}", bytes([number])) for number in range(_COUNT)]
    return prompts.build(ScoreRequest("query", "", texts), 100)


def _llm_seeds() -> Iterator[bytes]:
    grades = json.dumps({prompts.label(number): number for number in range(_COUNT)})
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    for choice in (
        {"finish_reason": "stop", "message": {"content": grades}},
        {"finish_reason": "length", "message": {"content": grades[:9]}},
        {"message": {"refusal": "no", "content": None}},
    ):
        yield json.dumps({"choices": [choice], "usage": usage}).encode()


def _remote(data: bytes) -> None:
    for api in remote_shapes.APIS:
        scores = remote_shapes.read_scores(api, data, _COUNT)
        if isinstance(scores, str):
            assert scores
        else:
            assert len(scores) == _COUNT
            assert all(map(math.isfinite, scores))


def _remote_seeds() -> Iterator[bytes]:
    places = (2, 0, 1)
    yield json.dumps({"results": [{"index": place, "relevance_score": 0.5} for place in places]}).encode()
    yield json.dumps([{"index": place, "score": -1e300} for place in places]).encode()


def _answer(data: bytes) -> None:
    """What the client library makes of a sidecar's answer."""
    try:
        response = pb.RerankResponse.FromString(data)
    except Exception:  # noqa: BLE001 - gRPC's own: the client never sees bytes that are no message
        return
    ranking = client_wire.ranking_from(response, ("a", "b", "c"), top_n=0, may_omit=False, elapsed_ms=1.0)
    assert sorted(ranked.index for ranked in ranking) == [0, 1, 2]
    assert all(math.isfinite(ranked.score or 0.0) for ranked in ranking)


def _answer_seeds() -> Iterator[bytes]:
    response = pb.RerankResponse(request_id="r", completeness=pb.COMPLETENESS_PARTIAL)
    for index in (1, 0, 2):
        response.results.add(id=str(index), index=index, score=0.5, raw_score=1.0)
    response.degradations.add(reason=pb.DEGRADATION_REASON_OVERLOADED, detail="d")
    response.decision.considered.add(reranker="r", verdict=dpb.VERDICT_CHOSEN)
    yield response.SerializeToString()


TARGETS = (
    Target("llm", _llm, (), tuple(_llm_seeds())),
    Target("remote", _remote, (), tuple(_remote_seeds())),
    Target("answer", _answer, (client_wire.UnusableAnswerError,), tuple(_answer_seeds())),
)
