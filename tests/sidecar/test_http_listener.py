"""The HTTP listener: what tools that know Cohere's or Jina's endpoint send, and what they get. Real HTTP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import aiohttp
import cohere
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arms import Strategy
from sidecar.http_server import HttpServer
from sidecar.http_shapes import relevance_scores
from sidecar.listeners import ListenError
from sidecar.rerankers.base import BackendError
from sidecar.settings import Listen, Mode, Settings
from tests.helpers import MARKER, ScriptedReranker, rig
from tests.sidecar.http_calls import BUDGET, QUERY, TEXTS, asked, head, post, served, talk

# --- tools that know other services ----------------------------------------------------------------------------------


async def test_cohere_client_is_answered() -> None:
    """The official Cohere client, pointed at the sidecar, gets the order, falling scores, and no more than top_n."""
    async with served(rig(ScriptedReranker())) as url:
        client = cohere.AsyncClientV2(api_key="unused", base_url=url)
        answer = await client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS, top_n=2)
    assert [result.index for result in answer.results] == [1, 2]
    scores = [result.relevance_score for result in answer.results]
    assert 1.0 >= scores[0] > scores[1] >= 0.0
    assert answer.id


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
async def test_jina_shape(path: str) -> None:
    """Documents may be objects with a text, and come back where they are wanted; usage counts tokens."""
    body = asked(documents=[{"text": text} for text in TEXTS], return_documents=True)
    async with served(rig(ScriptedReranker())) as url:
        status, answer, _ = await post(url, body, path, **BUDGET)
    assert status == 200
    assert [result["document"]["text"] for result in answer["results"]] == ["red green", "red", "blue"]
    assert answer["usage"]["total_tokens"] >= 0
    assert answer["model"] == "scripted"


async def test_decision_is_told_in_headers() -> None:
    """Their JSON has no place for it, so headers say what was taken, why, and how much of it was done."""
    async with served(rig(ScriptedReranker())) as url:
        _, _, headers = await post(url, asked(), **BUDGET)
    told = {name: value for name, value in headers.items() if name.startswith("X-Millirank-")}
    assert told.pop("X-Millirank-Request-Id")
    assert told == {
        "X-Millirank-Strategy": "cross_encoder",
        "X-Millirank-Reason": "best_expected_gain",
        "X-Millirank-Completeness": "full",
        "X-Millirank-Scored": "3/3",
    }


async def test_degradation_is_told_in_headers() -> None:
    """Invariant 5: a failing backend is 200 in first-stage order, and says so; scores still fall."""
    reranker = ScriptedReranker()
    reranker.script = [BackendError("down")]
    async with served(rig(reranker)) as url:
        status, answer, headers = await post(url, asked(), **BUDGET)
    assert status == 200
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert [result["relevance_score"] for result in answer["results"]] == [1.0, 0.5, 1 / 3]
    assert headers["X-Millirank-Degradations"] == "backend_error"


async def test_model_that_is_configured_is_forced() -> None:
    """`model` names one of our rerankers, or is another service's word and leaves the choice to the router."""
    parts = rig(ScriptedReranker())
    async with served(parts) as url:
        for model, reason in (("scripted", "forced"), ("jina-reranker-v2", "best_expected_gain")):
            _, _, headers = await post(url, asked(model=model), **BUDGET)
            assert headers["X-Millirank-Reason"] == reason


async def test_budget_header_is_the_budget() -> None:
    """A budget of nothing is first-stage order with BUDGET_TOO_SMALL, as over gRPC."""
    async with served(rig(ScriptedReranker())) as url:
        _, answer, headers = await post(url, asked(), **{"X-Millirank-Budget-Ms": "0"})
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert headers["X-Millirank-Degradations"] == "budget_too_small"


async def test_trace_context_is_adopted() -> None:
    """The caller's traceparent is the parent of the server span; the tree holds route and score."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    parts = rig(ScriptedReranker())
    async with served(parts) as url:
        await post(url, asked(), traceparent=parent, **BUDGET)
    server = parts.span("POST /v2/rerank")
    assert f"{server.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    assert {parts.span(name).context.trace_id for name in ("route", "score")} == {server.context.trace_id}


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "(body): is not JSON"),
        (b"[" * 100_000, "(body): is not JSON"),
        ([1], "(body): is not a JSON object"),
        ({**asked(), "\ud800": 1}, "\\ud800: is not known here"),
        (asked(topn=3), "topn: is not known here; known are documents"),
        (asked(query=""), "query: is empty"),
        (asked(query=7), "query: must be a string"),
        (asked(query="\ud800"), "query: is not valid Unicode"),
        (asked(documents="red"), "documents: must be a list"),
        (asked(documents=["red", 7]), "documents[1]: must be a string, or an object with a 'text'"),
        (asked(documents=["red", {"title": "x"}]), "documents[1]: must be a string, or an object with a 'text'"),
        (asked(documents=["red", ""]), "documents[1].text: is empty"),
        (asked(documents=["red"] * 1001), "documents: has 1001 entries; at most 1000"),
        (asked(top_n=-1), "top_n: must be a whole number"),
        (asked(top_n=True), "top_n: must be a whole number"),
        (asked(top_n=1.5), "top_n: must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_body(body: object, words: str) -> None:
    """400 with the key and the fix; nothing is computed."""
    reranker = ScriptedReranker()
    async with served(rig(reranker)) as url:
        status, answer, _ = await post(url, body, **BUDGET)
    assert status == 400
    assert words in answer["message"]
    assert reranker.calls == []


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e9"])
async def test_bad_budget(value: str) -> None:
    """400 naming the header."""
    async with served(rig(ScriptedReranker())) as url:
        status, answer, _ = await post(url, asked(), **{"X-Millirank-Budget-Ms": value})
    assert (status, "x-millirank-budget-ms" in answer["message"]) == (400, True)


@pytest.mark.parametrize("header", ["X-Millirank-Corpus", "X-Millirank-Tenant"])
async def test_header_that_is_no_text(header: str) -> None:
    """400 naming the header for bytes that are no UTF-8; aiohttp hands them on as halves of surrogate pairs."""
    body = json.dumps(asked()).encode()
    async with served(rig(ScriptedReranker())) as url:
        answer = await talk(url, head(len(body), f"{header}: \xff") + body)
    assert answer.startswith("HTTP/1.1 400 ")
    assert f"{header.lower()}: is not valid Unicode text" in answer


async def test_bug_is_internal_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 11: 500 with a request id; the exception's words are neither told nor logged."""
    reranker = ScriptedReranker()
    reranker.script = [ValueError(MARKER)]
    async with served(rig(reranker)) as url:
        status, answer, _ = await post(url, asked(query=MARKER), **BUDGET)
    assert status == 500
    assert answer["id"] in answer["message"]
    assert MARKER not in json.dumps(answer) + caplog.text


# --- who may, and where ----------------------------------------------------------------------------------------------


async def test_token(tmp_path: Path) -> None:
    """Cohere's api_key is the token; a wrong one is 401 before the body is read; health needs none."""
    path = tmp_path / "token"
    path.write_text("secret\n")
    async with served(rig(ScriptedReranker()), token_file=str(path)) as url:
        assert (await post(url, asked(), Authorization="Bearer secret", **BUDGET))[0] == 200
        for wrong in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer "}):
            assert (await post(url, b"{", **wrong))[0] == 401
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as health:
            assert health.status == 200


async def test_health_follows_the_drain() -> None:
    """NOT_SERVING is 503, for load balancers; answers are still given, in first-stage order."""
    parts = rig(ScriptedReranker())
    async with served(parts) as url:
        parts.pipeline.draining = True
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as health:
            assert health.status == 503
        _, _, headers = await post(url, asked(), **BUDGET)
    assert headers["X-Millirank-Degradations"] == "draining"


@pytest.mark.parametrize("address", ["8080", ":8080", "localhost", "localhost:http"])
async def test_malformed_address(address: str) -> None:
    """The message names the setting and shows an address."""
    parts = rig(ScriptedReranker())
    server = HttpServer(parts.pipeline, (), Listen(http=address), parts.settings.limits, parts.frame, drain_s=1.0)
    with pytest.raises(ListenError, match=r"listen\.http is .*; write host:port"):
        await server.start()


async def test_mode_off_is_first_stage_order() -> None:
    """What is switched off for gRPC is switched off here."""
    reranker = ScriptedReranker()
    async with served(rig(reranker, settings=Settings(mode=Mode.OFF))) as url:
        _, answer, headers = await post(url, asked(), **BUDGET)
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert headers["X-Millirank-Strategy"] == Strategy.NONE
    assert reranker.calls == []


# --- scores ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.floats(allow_nan=False), max_size=50))
def test_relevance_never_rises_and_stays_within_0_and_1(fused: list[float | None]) -> None:
    """Whatever was fused, capped or not scored: tools that sort by relevance keep our order."""
    scores = relevance_scores(fused)
    assert len(scores) == len(fused)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_relevance_by_hand() -> None:
    """The logistic function of 0 is a half, of ln 3 three quarters."""
    assert relevance_scores([math.log(3), 0.0, -math.log(3)]) == pytest.approx([0.75, 0.5, 0.25])
