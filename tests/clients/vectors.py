"""Reads tests/vectors, and plays the sidecar of one. The format: tests/vectors/README.md."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import millirank
from google.protobuf.json_format import ParseDict
from millirank.testing import Behaviour, FakeSidecar, failing
from millirank.v1 import decision_pb2
from millirank.v1 import rerank_service_pb2 as pb
from peers import stopped_port, unresponsive_listener

FOLDER = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Expected:
    """The ``expect`` of a vector; None is not checked."""

    outcome: str | None = None
    fallback: bool | None = None
    reasons: list[str] | None = None
    order: list[int] | None = None
    first_stage_of: int | None = None
    scores: list[float | None] | None = None
    raw_scores: list[float | None] | None = None
    strategy: str | None = None
    decision_reason: str | None = None
    request_id: str | None = None
    error: dict[str, Any] | None = None
    requests: int | None = None
    sent: dict[str, Any] | None = None
    latency_ms: tuple[float, float] | None = None
    deadline_ms: tuple[float, float] | None = None
    stats: dict[str, Any] | None = None
    settle_ms: float = 0.0
    took_ms: tuple[float, float] | None = None


@dataclass(frozen=True)
class Step:
    """What the sidecar does with one request."""

    does: str
    response: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    status: dict[str, Any] | None = None
    delay_ms: float = 0.0


@dataclass(frozen=True)
class Vector:
    """One vector. An unknown key is a TypeError."""

    file: str
    name: str
    contract: str
    request: dict[str, Any]
    sidecar: list[Step]
    expect: Expected
    call: str = "rerank"
    client: dict[str, float] = field(default_factory=dict)

    @property
    def starts_connected(self) -> bool:
        """Whether there is a sidecar that the client can wait for."""
        return self.sidecar[0].does not in ("refuse", "ignore")


def load() -> list[Vector]:
    """Every vector of every file; raises where there are none."""
    vectors = [
        Vector(
            file=path.stem,
            **{
                **raw,
                "sidecar": [Step(**step) for step in raw["sidecar"]],
                "expect": Expected(**raw["expect"]),
            },
        )
        for path in sorted(FOLDER.glob("*.json"))
        for raw in json.loads(path.read_text(encoding="utf-8"))["vectors"]
    ]
    if not vectors:
        raise FileNotFoundError(f"no test vectors in {FOLDER}")
    return vectors


def documents(request: dict[str, Any]) -> list[millirank.Document]:
    """The candidates of a vector's ``request``, each with a payload of its own."""
    if (generated := request.get("generated_documents")) is not None:
        text = "x" * generated["characters"]
        return [millirank.Document(text=text, payload=object()) for _ in range(generated["count"])]
    return [
        millirank.Document(
            id=each.get("id", ""),
            text=each["text"],
            signals={name: float(value) for name, value in each.get("signals", {}).items()},
            indexed_ref=tuple(each["indexed_ref"]) if "indexed_ref" in each else None,
            payload=object(),
        )
        for each in request["documents"]
    ]


def arguments(request: dict[str, Any]) -> dict[str, Any]:
    """The other arguments of the call, under their Python names."""
    rest = {name: value for name, value in request.items() if name not in ("query", "documents", "generated_documents")}
    if "min_score" in rest:
        rest["min_score"] = float(rest["min_score"])
    if "strategy" in rest:
        rest["strategy"] = rest["strategy"].lower()
    if "allowed" in rest:
        rest["allowed"] = [each.lower() for each in rest["allowed"]]
    return rest


@contextmanager
def playing(vector: Vector) -> Iterator[tuple[str, FakeSidecar]]:
    """The target to connect to, and the sidecar that notes what arrives."""
    script = _Script(vector.sidecar)
    match vector.sidecar[0].does:
        case "refuse":
            yield stopped_port(), script.sidecar
        case "ignore":
            with unresponsive_listener() as target:
                yield target, script.sidecar
        case _:
            with script.sidecar as sidecar:
                try:
                    yield sidecar.target, sidecar
                finally:
                    script.over.set()


class _Script:
    """A sidecar that goes through its steps, one per request; the last one repeats."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self.over = threading.Event()
        self.sidecar = FakeSidecar(self._behave)
        if (decision := steps[0].decision) is not None:
            self.sidecar.decision = ParseDict(decision, decision_pb2.Decision())

    def _behave(self, request: pb.RerankRequest) -> pb.RerankResponse:
        step = self._steps[min(len(self.sidecar.requests), len(self._steps)) - 1]
        time.sleep(step.delay_ms / 1e3)
        if step.does == "hang":
            self.over.wait()
        elif step.does == "disconnect":
            self.sidecar.stop()
        elif step.does == "status":
            return _failing(**(step.status or {}))(request)
        elif step.does != "answer":
            raise ValueError(f"no sidecar can do {step.does!r}")
        return ParseDict(step.response or {}, pb.RerankResponse())


def _failing(
    code: str,
    message: str,
    field: str = "",
    reason: str = "",
    domain: str = "millirank.io",
    retry_after_ms: float | None = None,
) -> Behaviour:
    return failing(code, message, field=field, reason=reason, domain=domain, retry_after_ms=retry_after_ms)
