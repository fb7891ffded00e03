"""Late interaction at engine level: cold documents, then 100 warm ones including the query's encoding."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.connection import quantile
from tests.bench.progress import Steps
from tests.bench.report import Row, Section, Spread
from tests.bench.rerankers.child import Child
from tests.bench.rerankers.contenders import OURS, OWN_ENVIRONMENT, SENTENCE_TRANSFORMERS
from tests.bench.rerankers.pairs import Pairs
from tests.rivals.environment import Environment

DOCUMENTS = 100
TOKENS = 128
_FRESH = 20  # cold documents of each further round
_QUERIES = 12  # of each operation and round
_WARM_UP = 3
_TIMEOUT_S = 300.0
_OPERATIONS = ("warm", "query", "similarity")


@dataclass(slots=True)
class _Times:
    """One entry a round; ``ms`` holds the medians of an operation's queries."""

    cold_per_s: list[float] = field(default_factory=list)
    ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _OPERATIONS})
    warm_ms: list[float] = field(default_factory=list)


def measure(
    colbert: Path, environments: Mapping[Environment, str | None], pairs: Pairs, folder: Path, steps: Steps, rounds: int
) -> Section:
    """``environments`` maps each to why it is not there, or None. Raises ChildError."""
    starts: dict[str, tuple[Environment, str, dict[str, Any]]] = {
        f"{OURS}, {threads} thread{'s' if threads > 1 else ''}": (
            OWN_ENVIRONMENT,
            "late_millirank",
            {"threads": threads},
        )
        for threads in (1, 2)
    }
    starts["sentence-transformers MultiVectorEncoder, 2 threads"] = (
        SENTENCE_TRANSFORMERS,
        "late_sentence_transformers",
        {"model": str(colbert), "threads": 2},
    )
    steps.begin("late interaction", rounds + 1)
    with contextlib.ExitStack() as stack:
        children: dict[str, Child] = {}
        for name, (environment, module, arguments) in starts.items():
            if environments[environment] is None:
                steps.now(f"loading {name}")
                log = folder / f"late-{len(children)}.log"
                child = stack.enter_context(Child(name, environment.python, module, log, lambda: steps.now("loading")))
                child.ask(arguments, _TIMEOUT_S)
                children[name] = child
        times = {name: _Times() for name in children}
        kept = pairs.passages(TOKENS, DOCUMENTS)
        for name, child in children.items():
            steps.now(f"{name}: {DOCUMENTS} documents")
            _cold(child, pairs.questions(1)[0], kept)
            child.ask({"operation": "warm", "queries": pairs.questions(_WARM_UP), "texts": kept}, _TIMEOUT_S)
        steps.done()
        for number in range(rounds):
            fresh = pairs.passages(TOKENS, _FRESH)
            queries = [f"{question} ({number})" for question in pairs.questions(_QUERIES * len(_OPERATIONS) + 1)]
            for name, child in children.items() if number % 2 == 0 else reversed(children.items()):
                steps.now(f"round {number + 1}: {name}")
                _round(child, times[name], queries, fresh, kept)
            steps.done()
    return _section(times, rounds)


def _cold(child: Child, query: str, texts: Sequence[str]) -> float:
    answer = child.ask({"operation": "cold", "query": query, "texts": texts}, _TIMEOUT_S)
    return float(answer["ms"])


def _round(child: Child, times: _Times, queries: Sequence[str], fresh: Sequence[str], kept: Sequence[str]) -> None:
    times.cold_per_s.append(len(fresh) / _cold(child, queries[-1], fresh) * 1e3)
    for place, operation in enumerate(_OPERATIONS):
        # New ones for each operation: the engine keeps the vectors of recent queries.
        own = queries[place * _QUERIES : (place + 1) * _QUERIES]
        request = {"operation": operation, "queries": own} | ({} if operation == "query" else {"texts": kept})
        taken = child.ask(request, _TIMEOUT_S)["ms"]
        times.ms[operation].append(quantile(taken, 0.5))
        if operation == "warm":
            times.warm_ms += taken


def _section(times: Mapping[str, _Times], rounds: int) -> Section:
    rows = []
    for name, one in times.items():
        values = {
            "cold_documents_per_s": Spread.of(one.cold_per_s),
            "warm_p50_ms": Spread.of(one.ms["warm"]),
            "warm_p95_ms": Spread.of([quantile(one.warm_ms, 0.95)]),
            "query_alone_ms": Spread.of(one.ms["query"]),
            "similarity_alone_ms": Spread.of(one.ms["similarity"]),
        }
        rows.append(Row(name, values))
    own = [quantile(one.warm_ms, 0.5) for name, one in times.items() if name.startswith(OURS)]
    return Section(
        title=f"Late interaction: {DOCUMENTS} documents of {TOKENS} tokens, 128 dimensions, engine alone",
        rows=rows,
        figures={"late_interaction_100_ms": min(own)} if own else {},
        notes=(
            f"{rounds} interleaved rounds: {_FRESH} cold documents, then {_QUERIES} new queries for each of the others",
            "warm: the query's encoding, MaxSim over kept vectors and, here only, the cosine; no gRPC, no pipe",
            "the figure is the faster of the two thread counts; a sidecar on two cores takes one",
            "the rival: the same MiniLM weights under a ColBERT head with vectors of the same size in float32; as "
            "ColBERT does, it fills every query up to 32 tokens",
        ),
    )
