"""Search pages from standard input: ``python clients/python/examples/search TARGET [QUESTION...] < pages.jsonl``."""

from __future__ import annotations

import sys
import time
from typing import Any

from first_stage import Index
from millirank import Client, Ranking
from service import Answer, SearchService

_QUESTIONS = ("open a file for reading", "run a function in a thread", "shuffle a list in place")
_SHOWN = 5
_IDLE_S = 3


def main(arguments: list[str]) -> int:
    """Exit code 2 where no target is given."""
    if not arguments:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    target, *questions = arguments
    index = Index(sys.stdin)
    with Client(target) as reranker:
        if not reranker.wait_until_ready(30.0):
            sys.stderr.write(f"no sidecar at {target}: the order stays the first stage's\n")
        service = SearchService(index, reranker)
        print(f"{len(index):,} pages; the top 50 of BM25 and vectors reranked within 50 ms")
        for question in questions or _QUESTIONS:
            show(question, service.search(question))
        print(f"\nAgain, {_IDLE_S} s later: an idle sidecar reads the documents it was sent.")
        time.sleep(_IDLE_S)
        for question in questions or _QUESTIONS:
            show(question, service.search(question))
    return 0


def show(question: str, answer: Answer) -> None:
    """Both orders side by side, and why."""
    print(f"\n{question}\n   {'first stage':40.40}    reranked (rank before)")
    for rank, (before, after) in enumerate(zip(answer.found, answer.ranking, strict=True)):
        if rank < _SHOWN:
            print(f"{rank + 1:2} {before.id:40.40}    {after.document.id} ({after.index + 1})")
    print(f"   {answer.ranking.outcome.name} in {answer.ranking.elapsed_ms:.1f} ms: {_why(answer.ranking)}")


def _why(ranking: Ranking[Any]) -> str:
    reasons = "".join(f"; {each.reason.name}, {each.detail}" for each in ranking.degradations)
    if ranking.decision is None:
        return f"first-stage order, kept by the client{reasons}"
    decision = ranking.decision
    name = f"{decision.strategy.name} {decision.reranker}".strip()
    return f"{name}, scored {decision.scored_k} of {decision.planned_k} planned ({decision.reason.name}){reasons}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
