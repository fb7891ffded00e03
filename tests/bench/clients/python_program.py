"""``python -m tests.bench.clients.python_program TARGET ROUNDS CALLS WARM-UP``: what the Python clients add to stubs.

The same request by both in turn, to one sidecar, in one process, as the programs for Go (clients/go/bench) and Java
(ClientBench) do. Prints ``{"Python": {"stub": [[ms, ...], ...], "client": ...}, "Python, asyncio": ...}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
from millirank import AsyncClient, Client, Outcome, Ranking, Strategy
from millirank.v1 import decision_pb2, rerank_service_pb2_grpc
from millirank.v1 import rerank_service_pb2 as pb

_QUERY = "how to open a file for reading and writing"
_BUDGET_S = 20
"""Nothing is to run into it."""
_TEXTS = [
    (f"Candidate {number} " + "says what a passage of a manual says about files. " * 20)[:600] for number in range(100)
]

Took = dict[str, list[list[float]]]


def _message() -> pb.RerankRequest:
    """What one would write without the client."""
    message = pb.RerankRequest(query=_QUERY)
    message.budget.latency.seconds = _BUDGET_S
    message.routing.strategy = decision_pb2.STRATEGY_NONE
    for text in _TEXTS:
        message.documents.add(text=text)
    return message


def _check_answer(response: pb.RerankResponse) -> None:
    if len(response.results) != len(_TEXTS):
        raise RuntimeError(f"{len(response.results)} results")


def _check_ranking(ranking: Ranking[str]) -> None:
    if ranking.outcome is not Outcome.RANKED:
        raise RuntimeError(f"{ranking.outcome}: {ranking.degradations}")


def threads(target: str, rounds: int, calls: int, warm_up: int) -> Took:
    """The synchronous client and the blocking stub."""
    with grpc.insecure_channel(target) as channel, Client(target) as client:
        stub = rerank_service_pb2_grpc.RerankServiceStub(channel)

        def by_stub() -> None:
            _check_answer(stub.Rerank(_message(), timeout=_BUDGET_S))

        def by_client() -> None:
            _check_ranking(client.rerank(_QUERY, _TEXTS, budget_ms=_BUDGET_S * 1e3, strategy=Strategy.NONE))

        took: Took = {"stub": [], "client": []}
        ways: list[tuple[str, Callable[[], None]]] = [("stub", by_stub), ("client", by_client)]
        for number in range(rounds + 1):
            in_round: dict[str, list[float]] = {"stub": [], "client": []}
            for call in range(calls if number else warm_up):
                for name, way in ways if call % 2 else reversed(ways):
                    started = time.perf_counter()
                    way()
                    in_round[name].append((time.perf_counter() - started) * 1e3)
            if number:
                for name, taken in in_round.items():
                    took[name].append(taken)
        return took


async def tasks(target: str, rounds: int, calls: int, warm_up: int) -> Took:
    """The asyncio client and stub."""
    async with grpc.aio.insecure_channel(target) as channel, AsyncClient(target) as client:
        stub = rerank_service_pb2_grpc.RerankServiceStub(channel)

        async def by_stub() -> None:
            _check_answer(await stub.Rerank(_message(), timeout=_BUDGET_S))

        async def by_client() -> None:
            _check_ranking(await client.rerank(_QUERY, _TEXTS, budget_ms=_BUDGET_S * 1e3, strategy=Strategy.NONE))

        took: Took = {"stub": [], "client": []}
        ways: list[tuple[str, Callable[[], Awaitable[None]]]] = [("stub", by_stub), ("client", by_client)]
        for number in range(rounds + 1):
            in_round: dict[str, list[float]] = {"stub": [], "client": []}
            for call in range(calls if number else warm_up):
                for name, way in ways if call % 2 else reversed(ways):
                    started = time.perf_counter()
                    await way()
                    in_round[name].append((time.perf_counter() - started) * 1e3)
            if number:
                for name, taken in in_round.items():
                    took[name].append(taken)
        return took


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    plan = tuple(map(int, numbers))
    found = {"Python": threads(where, *plan), "Python, asyncio": asyncio.run(tasks(where, *plan))}
    sys.stdout.write(json.dumps(found) + "\n")
