"""What each attack gains against the gullible stand-in, by mode: the table that documentation quotes.

``python -m tests.rerankers.attacks_table`` prints it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from router.fusion import order
from router.promotion import cap_promotions
from sidecar.rerankers.llm import LlmReranker
from sidecar.rerankers.prompts import Prompting
from tests.rerankers.attacks import ATTACKS, HARMLESS, QUERY, Attack
from tests.rerankers.attacks_gullible import GullibleOpenAI
from tests.rerankers.llm_cases import request_for, until_loaded

ATTACKER = len(HARMLESS)
"""First-stage rank of the hostile document: the last."""


@dataclass(frozen=True, slots=True)
class Graded:
    """One mode's raw scores with the attack in the list, and what they are worth to it."""

    scores: tuple[float, ...]
    others_changed: int
    """Harmless documents whose score is not what it is without the attack."""

    def order(self, cap: int = 0) -> tuple[int, ...]:
        """First-stage ranks in the order that these scores alone make, under a promotion cap."""
        return cap_promotions(order(self.scores, range(len(self.scores)), len(self.scores)), cap)

    def rise(self, cap: int = 0) -> int:
        """Places that the attacker rises."""
        return ATTACKER - self.order(cap).index(ATTACKER)


@dataclass(frozen=True, slots=True)
class Row:
    """One attack in both modes."""

    attack: Attack
    listwise: Graded
    pointwise: Graded


async def rows(attacks: Sequence[Attack] = ATTACKS) -> tuple[Row, ...]:
    """Every attack, one at a time, behind nine harmless candidates, in both modes."""
    async with GullibleOpenAI() as server:
        graded = {mode: await _graded(server, mode, attacks) for mode in ("listwise", "pointwise")}
    return tuple(map(Row, attacks, graded["listwise"], graded["pointwise"]))


def table(found: Iterable[Row], cap: int) -> str:
    """Markdown, one line for each kind of attack: the highest rise and the most other scores that were changed."""
    lines = [
        f"| Attack | tried | listwise: rises by | others changed | pointwise: rises by | others changed | "
        f"either, cap {cap}: rises by |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, group in groupby(found, key=lambda row: row.attack.kind):
        same = list(group)
        cells = [
            len(same),
            max(row.listwise.rise() for row in same),
            max(row.listwise.others_changed for row in same),
            max(row.pointwise.rise() for row in same),
            max(row.pointwise.others_changed for row in same),
            max(max(row.listwise.rise(cap), row.pointwise.rise(cap)) for row in same),
        ]
        lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


async def _graded(server: GullibleOpenAI, prompting: Prompting, attacks: Sequence[Attack]) -> list[Graded]:
    reranker = LlmReranker("grader", server.base_url, "m", prompting=prompting, max_parallel=ATTACKER + 1)
    await until_loaded(reranker)
    alone = (await reranker.score(request_for(QUERY, *HARMLESS), 30.0)).scores
    graded = []
    for attack in attacks:
        scores = (await reranker.score(request_for(QUERY, *HARMLESS, attack.text), 30.0)).scores
        changed = sum(before != after for before, after in zip(alone, scores, strict=False))
        graded.append(Graded(scores, changed))
    await reranker.close()
    return graded


if __name__ == "__main__":
    sys.stdout.write(table(asyncio.run(rows()), cap=3) + "\n")
