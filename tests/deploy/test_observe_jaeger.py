"""One request in a real Jaeger: what `deploy/jaeger/run.sh` starts is called, and the trace is read back through
Jaeger's query API."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from millirank import Client, Strategy
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.deploy.observing import DEPLOY, Program, eventually, free_address, get_json, tool
from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.sidecar_process import PATIENCE_S, REPOSITORY, clean_environment
from tests.helpers import MARKER
from tests.rerankers.fake_openai import FakeOpenAI

RPC = "millirank.v1.RerankService/Rerank"


@dataclass(frozen=True, slots=True)
class Watched:
    """A sidecar, and the Jaeger that gets its traces."""

    target: str
    query: str
    otlp: str

    def trace(self, service: str, holds: str) -> Trace:
        """The newest trace of a service that holds a span of that name and is complete."""

        def look() -> Trace | None:
            found = [Trace(each) for each in get_json(f"{self.query}/api/traces?service={service}&limit=20")["data"]]
            complete = [each for each in found if each.is_connected() and each.named(holds) and each.named("route")]
            return max(complete, key=lambda each: each.started) if complete else None

        return eventually(look, f"no complete trace of {service} with {holds!r}")


class Trace:
    """A trace as Jaeger's API has it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.spans: list[dict[str, Any]] = data["spans"]
        self.started = min(span["startTime"] for span in self.spans)

    def named(self, name: str, **tags: Any) -> list[dict[str, Any]]:
        """Its spans of that name with those tags (``span_kind`` for span.kind)."""
        wanted = {key.replace("_", "."): value for key, value in tags.items()}
        return [
            span for span in self.spans if span["operationName"] == name and wanted.items() <= tags_of(span).items()
        ]

    def service(self, span: dict[str, Any]) -> str:
        return str(self.data["processes"][span["processID"]]["serviceName"])

    def parent(self, span: dict[str, Any]) -> dict[str, Any] | None:
        ids = [each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"]
        return next((each for each in self.spans if each["spanID"] in ids), None)

    def is_chain(self, *spans: dict[str, Any]) -> bool:
        """Whether each is the next one's parent."""
        return all(self.parent(child) is parent for parent, child in pairwise(spans))

    def is_connected(self) -> bool:
        """One span has no parent; every other one's is in the trace."""
        roots = [span for span in self.spans if not span["references"]]
        return len(roots) == 1 and all(self.parent(span) for span in self.spans if span not in roots)


def tags_of(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


@contextmanager
def started(folder: Path, **variables: str) -> Iterator[tuple[Program, Watched]]:
    """What `deploy/jaeger/run.sh` starts, and the script itself."""
    tool("all-in-one", "make deploy-tools FOLDERS=jaeger builds Jaeger")
    query, otlp, target = free_address(), free_address(), free_address()
    millirank = folder / "millirank"
    # The sidecar of this checkout, whichever one the environment was installed from.
    millirank.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidecar "$@"\n')
    millirank.chmod(0o700)
    settings = model_settings(folder) | {
        "MILLIRANK": str(millirank),
        "QUERY": query,
        "OTLP": otlp,
        "MILLIRANK_LISTEN__TCP": target,
        **variables,
    }
    # MILLIRANK is the script's own variable; the sidecar's begin with MILLIRANK_.
    with Program(["sh", DEPLOY / "jaeger" / "run.sh"], settings) as running:
        running.wait_for_line('"message": "serving"')
        yield running, Watched(target, f"http://{query}", f"http://{otlp}")


@contextmanager
def watched(folder: Path, **variables: str) -> Iterator[Watched]:
    """The same with its model ready, until SIGTERM; no word of a test's texts is in what it printed."""
    with started(folder, **variables) as (running, watching):
        wait_until_ready(watching.target)
        yield watching
        running.alive()
        assert running.end() == 143
    assert MARKER not in running.output


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example service in Go."""
    go = tool("go", "install Go 1.26")
    program = tmp_path_factory.mktemp("go") / "search"
    folder = REPOSITORY / "clients" / "go" / "examples" / "search"
    subprocess.run([go, "build", "-o", program, "."], cwd=folder, check=True, timeout=600)
    return program


@pytest.mark.timeout(600)  # the first build of the Go program may take minutes
def test_one_tree_from_a_go_service_to_the_chunks(search: Path, tmp_path: Path) -> None:
    """search -> client -> RPC -> server -> route and chunks: one trace over two processes, with the decision on it and
    no word of the query or the pages."""
    pages = [{"id": f"page-{number}", "text": f"open file number {number} {MARKER}"} for number in range(40)]
    with watched(tmp_path) as running:
        ended = subprocess.run(
            [search, "-sidecar", running.target, "-budget", "10s", f"open a file {MARKER}"],
            input="".join(json.dumps(page) + "\n" for page in pages),
            env=clean_environment(OTEL_EXPORTER_OTLP_ENDPOINT=running.otlp),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        trace = running.trace("search", "score")
        drawn = subprocess.run(
            [
                sys.executable,
                REPOSITORY / "docs" / "trace_picture.py",
                f"--jaeger={running.query}",
                f"--trace={trace.data['traceID']}",
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout

    (root,) = trace.named("search")
    (call,) = trace.named("millirank.Rerank")
    (rpc,) = trace.named(RPC, span_kind="client")
    (server,) = trace.named(RPC, span_kind="server")
    (route,) = trace.named("route")
    scores = trace.named("score")
    assert trace.parent(root) is None
    assert trace.is_chain(root, call, rpc, server, route)
    assert all(trace.is_chain(server, score) for score in scores)
    assert [trace.service(span) for span in (root, call, rpc, server, route)] == ["search"] * 3 + ["millirank"] * 2

    # Why this arm, what it was predicted to cost and what it did cost.
    decided, done = tags_of(route), tags_of(server)
    assert decided["millirank.reranker"] == "minilm-l6"
    assert re.search(r"minilm-l6@\d+: chosen: ", decided["millirank.considered"])
    assert re.search(r"none@0: ", decided["millirank.considered"])
    assert decided["millirank.predicted_p95_ms"] > 0
    assert 0 < done["millirank.scored_k"] == done["millirank.planned_k"] == decided["millirank.planned_k"]
    assert sum(tags_of(each)["millirank.chunk.documents"] for each in scores) == done["millirank.scored_k"]
    assert done["millirank.score_ms"] == pytest.approx(
        sum(tags_of(each)["millirank.compute_ms"] for each in scores), abs=0.05
    )
    assert MARKER not in json.dumps(trace.data)

    # The picture for who has no web pages of Jaeger: every span has a bar, every arm its line.
    picture = ElementTree.fromstring(drawn)  # noqa: S314 - ours
    bars = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(trace.spans) + 1  # and the background
    words = [each.text or "" for each in picture.findall("{http://www.w3.org/2000/svg}text")]
    assert {"search", "route", "score"} <= set(words)
    assert any("minilm-l6@10: chosen: " in each for each in words)


@pytest.mark.timeout(300)
async def test_an_llm_call_is_in_the_tree(tmp_path: Path) -> None:
    """server -> score -> chat: model, host, tokens and price of the call that the money went to."""
    async with FakeOpenAI() as llm:
        variables = {
            "MILLIRANK_RERANKERS__LLM__BASE_URL": llm.base_url,
            "MILLIRANK_RERANKERS__LLM__MODEL": "gpt-4o-mini",
            "MILLIRANK_RERANKERS__LLM__PROMPT_MICRO_USD_PER_1K": "150",
            "NO_PROXY": "127.0.0.1",
        }
        # In a thread: the stand-in of the LLM answers on this event loop.
        trace = await asyncio.to_thread(_forced_llm_trace, tmp_path, variables)
    (server,) = trace.named(RPC, span_kind="server")
    (score,) = trace.named("score")
    (chat,) = trace.named("chat gpt-4o-mini", span_kind="client")
    assert trace.is_chain(server, score, chat)
    tags = tags_of(chat)
    assert tags["gen_ai.operation.name"] == "chat"
    assert tags["server.address"] == "127.0.0.1"
    assert tags["gen_ai.usage.input_tokens"] == 1000
    assert tags["millirank.cost_micro_usd"] == 150
    assert MARKER not in json.dumps(trace.data)


def _forced_llm_trace(folder: Path, variables: dict[str, str]) -> Trace:
    with watched(folder, **variables) as running:
        provider = TracerProvider(resource=Resource({"service.name": "caller"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=running.otlp, insecure=True)))

        def asked() -> bool:
            with Client(running.target, tracer_provider=provider) as client:
                ranking = client.rerank(
                    MARKER, [f"{MARKER} a", "b"], budget_ms=30_000, strategy=Strategy.LLM, max_cost_micro_usd=1_000_000
                )
            # Its library is imported behind the first answers.
            return ranking.decision is not None and ranking.decision.scored_k == 2

        eventually(asked)
        provider.shutdown()
        return running.trace("caller", "chat gpt-4o-mini")


@pytest.mark.timeout(180)
def test_ctrl_c_ends_both(tmp_path: Path) -> None:
    """130, and neither Jaeger nor the sidecar is left."""
    with started(tmp_path) as (running, watching):
        assert get_json(f"{watching.query}/api/services")["errors"] is None
        assert running.interrupt() == 130
        for address in (watching.target, watching.query.removeprefix("http://")):
            host, port = address.split(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=5)
