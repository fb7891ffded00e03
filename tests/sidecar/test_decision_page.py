"""The decision page's listener: what it tells, what it keeps to itself, and whom it answers."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN

from router.arms import Strategy
from router.policy import Routing
from sidecar.decision_page.recent import KEPT, RecentDecisions
from sidecar.decision_page.server import DecisionPage
from sidecar.decision_page.state import Source
from sidecar.listeners import ListenError
from sidecar.profiles import Profiles
from tests.helpers import MARKER, Rig, ScriptedReranker, profile, request, rig

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("tests")


@dataclass(slots=True)
class Page:
    """An open page over the parts of a test."""

    url: str
    parts: Rig
    recent: RecentDecisions

    async def decide(self, query: str, *texts: str, **fields: Any) -> None:
        """One request, kept as the sidecar does."""
        with TRACER.start_as_current_span("request") as span:
            answer = await self.parts.pipeline.rerank(request(query, *texts, **fields), None, self.parts.clock())
        self.recent.add(span, answer)

    async def get(self, path: str, **headers: str) -> tuple[int, Message, bytes]:
        def ask() -> tuple[int, Message, bytes]:
            try:
                asked = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - ours
                with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
                    return answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.headers, error.read()

        return await asyncio.to_thread(ask)

    async def state(self, after: int = 0) -> dict[str, Any]:
        return dict(json.loads((await self.get(f"/state.json?after={after}"))[2]))


@asynccontextmanager
async def opened() -> AsyncIterator[Page]:
    reranker = ScriptedReranker()
    parts, recent = rig(reranker), RecentDecisions()
    profiles = Profiles(profile(), {})
    server = DecisionPage(
        Source(recent, parts.pipeline, {"scripted": reranker}, lambda: profiles, lambda: 0.5), "127.0.0.1:0"
    )
    try:
        yield Page(f"http://{await server.start()}", parts, recent)
    finally:
        await server.stop()


async def test_a_decision_with_what_came_of_it() -> None:
    """Arm, candidates, predictions and times of one request; counts of all; the state of arms; the profile's curves."""
    async with opened() as page:
        await page.decide("red", "red", "blue", budget_ms=60_000.0)
        await page.decide("red", "red", "blue", budget_ms=0.0)
        state = await page.state()
    first, second = state["decisions"]
    assert (first["arm"], first["strategy"], first["reason"]) == ("scripted", "cross_encoder", "best_expected_gain")
    assert (first["planned_k"], first["scored_k"], first["documents"]) == (2, 2, 2)
    assert first["p95_ms"] > first["p50_ms"] > 0
    assert first["total_ms"] >= first["score_ms"] > 0
    assert re.fullmatch("[0-9a-f]{32}", first["trace_id"])
    assert (second["arm"], second["degradation"]) == ("none", "budget_too_small")
    assert state["by_arm"] == {"scripted": 1, "none": 1}
    assert (state["answered"], state["late"], state["mode"], state["utilisation"]) == (2, 0, "on", 0.5)
    assert state["arms"][0]["state"] == "ready"
    assert state["profiles"][0]["gains"]["bm25"] == {"scripted": [[2, 0.1, 0.1]]}


async def test_every_arm_of_one_decision() -> None:
    """What was looked at and why it was not taken, also for what was not traced; of a decision that is gone, 404."""
    async with opened() as page:
        await page.decide("red", "red", "blue", budget_ms=60_000.0)
        status, _, body = await page.get("/considered/1.json")
        assert (await page.get("/considered/2.json"))[0] == 404
    assert status == 200
    verdicts = {arm["arm"]: arm["verdict"] for arm in json.loads(body)}
    assert verdicts["scripted"] == "chosen"
    assert verdicts["none"] == "lower_gain"


async def test_only_what_is_new_and_no_more_than_200() -> None:
    """The page asks with the last number that it knows; memory is bounded, the counts are of all."""
    async with opened() as page:
        answer = await page.parts.pipeline.rerank(
            request("red", "red", routing=Routing(Strategy.NONE)), None, page.parts.clock()
        )
        for _ in range(KEPT + 50):
            page.recent.add(INVALID_SPAN, answer)
        state = await page.state()
        assert [each["number"] for each in state["decisions"]] == list(range(51, KEPT + 51))
        assert state["answered"] == KEPT + 50
        assert state["decisions"][0]["trace_id"] == ""
        assert [each["number"] for each in (await page.state(after=248))["decisions"]] == [249, 250]
        for wrong in ("-1", "x", "9" * 16, "²"):
            assert (await page.get(f"/state.json?after={urllib.request.quote(wrong)}"))[0] == 400


async def test_no_text_and_no_id_of_the_caller() -> None:
    """Invariant 11: query, documents, instruction, tenant and request id are in nothing that the page can be told."""
    async with opened() as page:
        await page.decide(
            f"{MARKER} red",
            f"{MARKER} red",
            MARKER,
            instruction=MARKER,
            tenant=MARKER,
            request_id=MARKER,
            corpus=MARKER,
        )
        bodies = [(await page.get(path))[2] for path in ("/state.json", "/considered/1.json")]
    assert b"scripted" in bodies[0]
    assert all(MARKER.encode() not in body for body in bodies)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/state.json", "/absent"])
async def test_nothing_from_elsewhere_may_run(path: str) -> None:
    """The policy holds for every answer: scripts and styles are the page's own files, and inline ones are not run."""
    async with opened() as page:
        status, headers, body = await page.get(path)
    assert status == (404 if path == "/absent" else 200)
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    outside = re.findall(rb"https?://[^\"' ]+", body)
    assert outside in ([], [b"http://www.w3.org/2000/svg"])  # a name, which nobody asks for


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8081", 200), ("127.0.0.1", 200), ("[::1]:8081", 200), ("[::1]", 200), ("evil.example:8081", 421)],
)
async def test_it_answers_to_local_names_only(host: str, status: int) -> None:
    """A page of another site whose name points here (DNS rebinding) gets nothing."""
    async with opened() as page:
        found, _, body = await page.get("/state.json", Host=host)
    assert found == status
    assert (b"decisions" in body) == (status == 200)


@pytest.mark.parametrize("address", ["0.0.0.0:8081", "10.0.0.1:8081", "[::]:8081"])
def test_addresses_that_others_reach(address: str) -> None:
    """The setting, its value and what to write instead."""
    source = Source(RecentDecisions(), rig().pipeline, {}, lambda: Profiles(profile(), {}), lambda: 0.0)
    with pytest.raises(ListenError, match=r"listen\.page is .* must be a loopback address"):
        DecisionPage(source, address)
