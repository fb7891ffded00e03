"""What an LLM call is estimated to cost, and what it did cost, by exact numbers."""

from __future__ import annotations

import json

import pytest

from sidecar.rerankers import prompts
from sidecar.rerankers.base import ScoreRequest
from sidecar.rerankers.llm import LlmReranker
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import REQUEST, documents, request_for, until_loaded


async def test_price_is_what_the_backend_reports(server: FakeOpenAI) -> None:
    """12,345 prompt and 678 completion tokens at 150 and 600 micro-USD per 1,000 are 2,258.55 micro-USD."""
    llm = await until_loaded(
        LlmReranker(
            "grader",
            server.base_url,
            "m",
            prompt_price_micro_usd_per_1k=150,
            completion_price_micro_usd_per_1k=600,
        )
    )
    server.usage = {"prompt_tokens": 12345, "completion_tokens": 678}
    scored = await llm.score(REQUEST, 5.0)
    assert scored.tokens == 13023
    assert scored.micro_usd == pytest.approx(1851.75 + 406.80)
    await llm.close()


@pytest.mark.parametrize("fault", [Fault.NO_USAGE, Fault.ABSURD_USAGE])
async def test_tokens_are_estimated_where_none_are_reported(server: FakeOpenAI, fault: Fault) -> None:
    """A backend that reports no usage, or nonsense, is not free."""
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m", completion_price_micro_usd_per_1k=1000))
    server.fault = fault
    scored = await llm.score(REQUEST, 5.0)
    (received,) = server.received
    schema = json.dumps(received.schema, separators=(",", ":"))
    characters = len(received.system) + len(received.user) + len(schema)
    answer = '{"P01": 1, "P02": 2, "P03": 0, "P04": 3}'
    completion = max(len(answer) // 4, 4 * 6)
    assert scored.tokens == pytest.approx(characters / 4 + completion, abs=3)
    assert scored.micro_usd == pytest.approx(completion)
    await llm.close()


async def test_work_estimates_what_is_sent(llm: LlmReranker, server: FakeOpenAI) -> None:
    """Estimated prompt tokens come within 3 % of a quarter of the characters that are really sent."""
    request = request_for("how do I " * 10, *(f"{number} " + "word " * (10 * number) for number in range(40)))
    work = llm.work(request)
    await llm.score(request, 5.0)
    (received,) = server.received
    schema = json.dumps(received.schema, separators=(",", ":"))
    sent = (len(received.system) + len(received.user) + len(schema)) / 4
    assert work.tokens_at(40) - (40 * 6 + 4) == pytest.approx(sent, rel=0.03)
    assert work.warm == 0


def test_work_counts_each_candidate_up_to_its_cut() -> None:
    """A candidate is min(characters / 4 rounded up, cut) plus 17 prompt and 6 completion tokens."""
    llm = LlmReranker("grader", "http://a/v1", "m", max_document_tokens=10)
    work = llm.work(ScoreRequest("q" * 8, "i" * 5, documents("", "x", "x" * 36, "x" * 37, "x" * 5000)))
    assert work.tokens == (23, 24, 32, 33, 33)
    assert work.fixed_tokens == -(-len(prompts.SYSTEM_PROMPT) // 4) + 2 + 2 + 25 + 4


def test_pointwise_work_pays_the_prompt_for_every_candidate() -> None:
    """Pointwise nothing is shared: each candidate carries system prompt, query, instruction and brackets."""
    asked = ScoreRequest("q" * 8, "i" * 5, documents("", "x" * 36, "x" * 5000))
    listwise = LlmReranker("grader", "http://a/v1", "m", max_document_tokens=10).work(asked)
    pointwise = LlmReranker("grader", "http://a/v1", "m", max_document_tokens=10, prompting="pointwise").work(asked)
    assert pointwise.fixed_tokens == 0
    assert pointwise.tokens == tuple(own + listwise.fixed_tokens for own in listwise.tokens)


async def test_pointwise_work_estimates_what_is_sent(server: FakeOpenAI) -> None:
    """Estimated prompt tokens come within 3 % of a quarter of the characters of all calls together."""
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m", prompting="pointwise"))
    request = request_for("how do I " * 10, *(f"{number} " + "word " * (10 * number) for number in range(8)))
    work = llm.work(request)
    await llm.score(request, 5.0)
    sent = [(each.system, each.user, json.dumps(each.schema, separators=(",", ":"))) for each in server.received]
    assert len(sent) == 8
    assert work.tokens_at(8) - 8 * (6 + 4) == pytest.approx(sum(map(len, sum(sent, ()))) / 4, rel=0.03)
    await llm.close()


def test_nothing_to_grade_is_free() -> None:
    """Pointwise without candidates there is no work, and no token that a price could be divided by."""
    llm = LlmReranker("grader", "http://a/v1", "m", prompting="pointwise", completion_price_micro_usd_per_1k=1)
    work = llm.work(ScoreRequest("q", "", ()))
    assert (work.tokens, work.fixed_tokens, work.micro_usd_per_token) == ((), 0, 0.0)


@pytest.mark.parametrize(("prompt_price", "completion_price"), [(150.0, 600.0), (600.0, 150.0), (0.0, 0.0)])
@pytest.mark.parametrize(("prompting", "most"), [("listwise", 50), ("pointwise", 60)])
def test_estimated_price_is_never_below_the_sum(
    prompting: prompts.Prompting, most: int, prompt_price: float, completion_price: float
) -> None:
    """For no k is the single price of `Work` less than the two prices give; for one k it is exactly that."""
    llm = LlmReranker(
        "grader",
        "http://a/v1",
        "m",
        prompt_price_micro_usd_per_1k=prompt_price,
        completion_price_micro_usd_per_1k=completion_price,
        prompting=prompting,
    )
    work = llm.work(ScoreRequest("query", "", documents(*("x" * (1 + 997 * number % 1500) for number in range(60)))))
    surplus = []
    for k in range(0 if prompting == "listwise" else 1, most + 1):
        completion = 4 + 6 * k if prompting == "listwise" else 10 * k
        prompt = work.tokens_at(k) - completion
        exact = (prompt * prompt_price + completion * completion_price) / 1000
        surplus.append(work.tokens_at(k) * work.micro_usd_per_token - exact)
    assert min(surplus) == pytest.approx(0.0, abs=1e-6)
