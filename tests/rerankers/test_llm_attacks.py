"""Invariant 13: what hostile documents can change at an LLM that obeys them all, and what they never can."""

from __future__ import annotations

import pytest
import pytest_asyncio

from sidecar.rerankers import prompts
from sidecar.rerankers.base import BadOutputError
from sidecar.rerankers.llm import LlmReranker
from tests.rerankers import attacks_table
from tests.rerankers.attacks import ATTACKS, HARMLESS, QUERY, Attack
from tests.rerankers.attacks_gullible import GullibleOpenAI
from tests.rerankers.attacks_table import ATTACKER, Row
from tests.rerankers.fake_openai import grade
from tests.rerankers.llm_cases import request_for, until_loaded

CAPS = (1, 3, 9)
OUTSIDE = [attack for attack in ATTACKS if attack.name in {"other keys", "out of range"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rows() -> tuple[Row, ...]:
    """Every attack in both modes, graded once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        return await attacks_table.rows()


def test_the_corpus_is_worth_its_name(rows: tuple[Row, ...]) -> None:
    """Listwise, every attack that the LLM gets to read moves a score: its own to the top, others', or both."""
    harmless_best = max(grade(QUERY, text) for text in HARMLESS)
    assert len(rows) == len(ATTACKS) >= 20
    for row in rows:
        own = row.listwise.scores[ATTACKER]
        assert row.attack.shown == (own > harmless_best or row.listwise.others_changed > 0), row.attack
    assert max(row.listwise.others_changed for row in rows) == len(HARMLESS)
    assert sum(row.listwise.rise() == ATTACKER for row in rows) > len(rows) / 2


def test_every_answer_stays_scores_of_the_candidates(rows: tuple[Row, ...]) -> None:
    """In both modes: one integer from 0 to 10 for each candidate, and an order that is a permutation."""
    for row in rows:
        for graded in (row.listwise, row.pointwise):
            assert len(graded.scores) == ATTACKER + 1
            assert all(score in range(11) for score in graded.scores)
            for cap in (0, *CAPS):
                assert sorted(graded.order(cap)) == list(range(ATTACKER + 1))


def test_pointwise_no_other_score_moves(rows: tuple[Row, ...]) -> None:
    """Pointwise, every other raw score is exactly what it is without the attacker."""
    assert [row.attack.name for row in rows if row.pointwise.others_changed] == []


def test_pointwise_an_attacker_can_still_lift_itself(rows: tuple[Row, ...]) -> None:
    """What pointwise does not promise: a document that talks its own score up rises. Only the cap bounds that."""
    assert max(row.pointwise.rise() for row in rows) == ATTACKER


@pytest.mark.parametrize("cap", CAPS)
def test_nobody_rises_more_than_the_cap(rows: tuple[Row, ...], cap: int) -> None:
    """With a promotion cap no candidate, hostile or not, stands more than that above its first-stage rank."""
    for row in rows:
        for graded in (row.listwise, row.pointwise):
            assert all(rank - place <= cap for place, rank in enumerate(graded.order(cap)))
    assert max(row.listwise.rise(cap) for row in rows) == cap


def test_what_is_behind_the_cut_does_nothing(rows: tuple[Row, ...]) -> None:
    """A demand that lies behind max_document_tokens is never sent."""
    (hidden,) = [row for row in rows if not row.attack.shown]
    assert (hidden.listwise.rise(), hidden.listwise.others_changed) == (0, 0)


@pytest.mark.parametrize("prompting", prompts.PROMPTINGS)
async def test_no_attack_changes_what_is_asked(monkeypatch: pytest.MonkeyPatch, prompting: prompts.Prompting) -> None:
    """Rules, roles, labels and schema of the request are the same for any text, which arrives as one JSON string."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with GullibleOpenAI() as server:
        llm = await until_loaded(LlmReranker("grader", server.base_url, "m", prompting=prompting))
        for text in ("harmless", *(attack.text for attack in ATTACKS)):
            await llm.score(request_for(QUERY, text), 5.0)
        await llm.close()
    plain, *attacked = server.received
    for received, attack in zip(attacked, ATTACKS, strict=True):
        assert received.system == plain.system == prompts.SYSTEM_PROMPT
        assert [message["role"] for message in received.body["messages"]] == ["system", "user"]
        assert received.schema == plain.schema
        assert received.message == {"query": QUERY, "passages": {"P01": attack.text[:800]}}


@pytest.mark.parametrize("prompting", prompts.PROMPTINGS)
@pytest.mark.parametrize("attack", OUTSIDE, ids=[attack.name for attack in OUTSIDE])
async def test_a_server_without_schemas_can_be_talked_out_of_an_answer_at_most(
    monkeypatch: pytest.MonkeyPatch, attack: Attack, prompting: prompts.Prompting
) -> None:
    """Where the backend does not hold itself to the schema, keys and numbers outside of it are BadOutputError: nobody
    is promoted."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with GullibleOpenAI(constrained=False) as server:
        llm = await until_loaded(LlmReranker("grader", server.base_url, "m", prompting=prompting, max_parallel=10))
        with pytest.raises(BadOutputError):
            await llm.score(request_for(QUERY, *HARMLESS, attack.text), 5.0)
        await llm.close()


def test_table(rows: tuple[Row, ...]) -> None:
    """One line for each kind, with the numbers that the other tests hold."""
    lines = attacks_table.table(rows, cap=3).splitlines()
    kinds = list(dict.fromkeys(attack.kind for attack in ATTACKS))
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == kinds
    ignoring = "| ignore the rules | 3 | 9 | 0 | 9 | 0 | 3 |"
    assert lines[2] == ignoring
