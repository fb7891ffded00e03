"""Configuration and life cycle of the LLM arm."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from router.arms import State
from sidecar.rerankers import prompts
from sidecar.rerankers.base import BackendError, NotReadyError, Reranker
from sidecar.rerankers.llm import LlmReranker
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import AT_ONCE, REQUEST, failure, until, until_loaded


@pytest.mark.parametrize(
    ("base_url", "model", "reason"),
    [
        ("", "", "reranker 'grader': base_url and model not set;"),
        ("", "m", "reranker 'grader': base_url not set;"),
        ("http://a/v1", "", "reranker 'grader': model not set;"),
        ("api.openai.com/v1", "m", "reranker 'grader': base_url is no http:// or https:// URL"),
        ("http://", "m", "reranker 'grader': base_url is no http:// or https:// URL"),
        ("http://user:secret@a:port/v1", "m", "reranker 'grader': base_url is no http:// or https:// URL"),
    ],
)
async def test_off_with_the_exact_reason(base_url: str, model: str, reason: str) -> None:
    """What is not configured, or wrongly, is OFF, says which field and never quotes the URL."""
    llm = LlmReranker("grader", base_url, model)
    await llm.start()
    availability = llm.availability()
    assert availability.state is State.OFF
    assert availability.detail.startswith(reason)
    assert "secret" not in availability.detail
    with pytest.raises(NotReadyError, match=reason.split(":")[0]):
        await llm.score(REQUEST, 1.0)
    await llm.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_price_micro_usd_per_1k": -1.0},
        {"completion_price_micro_usd_per_1k": float("nan")},
        {"max_document_tokens": 0},
        {"max_parallel": 0},
        {"promotion_cap": -1},
        {"prompting": "pairwise"},
        {"timeout_s": 0.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    """A wrong number is named when the reranker is made, not when the first request comes."""
    with pytest.raises(ValueError, match=f"reranker 'grader': {next(iter(wrong))} is "):
        LlmReranker("grader", "http://a/v1", "m", **wrong)  # type: ignore[arg-type]


async def test_warming_until_the_library_is_there(server: FakeOpenAI) -> None:
    """start() returns at once; until the SDK is imported the arm is WARMING and refuses work."""
    llm = LlmReranker("grader", server.base_url, "m")
    started = time.monotonic()
    await llm.start()
    assert time.monotonic() - started < 0.05
    assert llm.availability().state is State.WARMING
    with pytest.raises(NotReadyError, match="importing the openai library"):
        await llm.score(REQUEST, 1.0)
    await until_loaded(llm)
    assert llm.availability().state is State.READY
    await llm.close()


async def test_missing_library_switches_the_arm_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK the arm is OFF and says what to install."""
    monkeypatch.setitem(sys.modules, "openai", None)
    llm = await until_loaded(LlmReranker("grader", "http://127.0.0.1:1/v1", "m"))
    assert llm.availability().state is State.OFF
    assert "install openai>=2.0" in llm.availability().detail
    await llm.close()


def test_library_is_not_imported_with_the_module() -> None:
    """Importing the reranker costs no openai, HTTP client or pydantic."""
    code = "import sys, sidecar.rerankers.llm; print({'openai', 'httpx', 'httpx2', 'pydantic'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("api_key", "sent"), [("key-1", "Bearer key-1"), ("", "Bearer unused")])
async def test_key_of_the_environment_is_not_sent(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, api_key: str, sent: str
) -> None:
    """Only the configured key goes to the configured endpoint, never OPENAI_API_KEY."""
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else")
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m", api_key))
    await llm.score(REQUEST, 5.0)
    assert server.received[0].headers["authorization"] == sent
    await llm.close()


async def test_close_ends_calls_and_can_be_repeated(server: FakeOpenAI) -> None:
    """A call under way fails as BackendError, later ones are refused, closing twice is fine."""
    llm = await until_loaded(LlmReranker("grader", server.base_url, "m"))
    server.fault = Fault.HANG
    call = asyncio.create_task(llm.score(REQUEST, 5.0))
    await until(lambda: bool(server.received))
    await llm.close()
    await llm.close()
    assert isinstance(await failure(call, AT_ONCE), BackendError)
    assert llm.availability().state is State.OFF
    with pytest.raises(NotReadyError, match="closed"):
        await llm.score(REQUEST, 1.0)


async def test_close_while_loading(server: FakeOpenAI) -> None:
    """Closing before the SDK is there leaves the arm OFF for good."""
    llm = LlmReranker("grader", server.base_url, "m")
    await llm.start()
    await llm.close()
    await asyncio.sleep(0.1)
    assert llm.availability().state is State.OFF


@pytest.mark.parametrize("prompting", prompts.PROMPTINGS)
def test_limits(prompting: prompts.Prompting) -> None:
    """Listwise is one call for at most 50; pointwise is cut into chunks of what may run side by side."""
    limits = LlmReranker("grader", prompting=prompting, max_parallel=6, promotion_cap=3).limits
    expected = {"listwise": (50, True), "pointwise": (6, False)}[prompting]
    assert (limits.max_chunk_documents, limits.whole_list) == expected
    assert limits.promotion_cap == 3


def test_is_a_reranker() -> None:
    """It has everything that the protocol asks for; a remote model has no queue and nothing to warm up."""
    llm: Reranker = LlmReranker("grader")
    assert llm.queue_ms(0.0) == 0.0
    assert tuple(llm.warm_up_samples()) == ()
    llm.remember(REQUEST.documents)
    assert llm.identity.name == "grader"
