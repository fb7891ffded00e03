"""The LLM arm at a backend that fails: each fault is one precise error, in time, without text."""

from __future__ import annotations

import logging
import socket

import pytest

from sidecar.rerankers.base import BackendError, BadOutputError, RerankerError
from sidecar.rerankers.llm import LlmReranker
from tests.helpers import MARKER
from tests.rerankers.fake_openai import FakeOpenAI, Fault
from tests.rerankers.llm_cases import AT_ONCE, REQUEST, failure, request_for, until_loaded
from tests.rerankers.silence import assert_silent

FAULTS = [
    (Fault.HANG, TimeoutError, 0.3, "grader: no answer within 300 ms"),
    (Fault.DRIP, TimeoutError, 0.3, "grader: no answer within 300 ms"),
    (Fault.DROP, BackendError, AT_ONCE, "APIConnectionError, caused by RemoteProtocolError"),
    (Fault.TRUNCATED, BackendError, AT_ONCE, "RemoteProtocolError"),
    (Fault.STATUS, BackendError, AT_ONCE, "HTTP 503 (InternalServerError)"),
    (Fault.REDIRECT, BackendError, AT_ONCE, "HTTP 307 (APIStatusError): base_url redirects"),
    (Fault.FLOOD, BadOutputError, AT_ONCE, "longer than 1048576 bytes"),
    (Fault.NOT_JSON_BODY, BadOutputError, AT_ONCE, "no chat completion"),
    (Fault.NO_CHOICES, BadOutputError, AT_ONCE, "no chat completion"),
    (Fault.NO_CONTENT, BadOutputError, AT_ONCE, "no chat completion"),
    (Fault.REFUSAL, BadOutputError, AT_ONCE, "refused"),
    (Fault.CUT_OFF, BadOutputError, AT_ONCE, "cut off"),
    (Fault.NOT_JSON_CONTENT, BadOutputError, AT_ONCE, "not one JSON object"),
    (Fault.NESTED, BadOutputError, AT_ONCE, "not one JSON object"),
    (Fault.LIST, BadOutputError, AT_ONCE, "not one JSON object"),
    (Fault.TWICE, BadOutputError, AT_ONCE, "no key repeats"),
    (Fault.TOO_FEW, BadOutputError, AT_ONCE, "of 2 labels 1 are missing and 0 are unknown"),
    (Fault.SURPLUS, BadOutputError, AT_ONCE, "of 2 labels 0 are missing and 1 are unknown"),
    (Fault.ABOVE_RANGE, BadOutputError, AT_ONCE, "1 of 2 scores are no integers from 0 to 10"),
    (Fault.BELOW_RANGE, BadOutputError, AT_ONCE, "1 of 2 scores are no integers"),
    (Fault.FRACTION, BadOutputError, AT_ONCE, "1 of 2 scores are no integers"),
    (Fault.BOOLEAN, BadOutputError, AT_ONCE, "1 of 2 scores are no integers"),
    (Fault.TEXT, BadOutputError, AT_ONCE, "1 of 2 scores are no integers"),
    (Fault.NOT_A_NUMBER, BadOutputError, AT_ONCE, "1 of 2 scores are no integers"),
]


def test_every_fault_has_a_row() -> None:
    """A fault added to the fake server needs an expectation; only those about usage still give scores."""
    assert {fault for fault, *_ in FAULTS} == set(Fault) - {Fault.NONE, Fault.NO_USAGE, Fault.ABSURD_USAGE}


@pytest.mark.parametrize(("fault", "kind", "within_s", "words"), FAULTS, ids=[row[0].value for row in FAULTS])
async def test_fault(
    llm: LlmReranker,
    server: FakeOpenAI,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    kind: type[Exception],
    within_s: float,
    words: str,
) -> None:
    """Each fault is one precise error, in time, after one request, without any of the prompt's text."""
    caplog.set_level(logging.DEBUG)
    server.fault = fault
    timeout_s = 0.3 if kind is TimeoutError else 10.0  # what does not hang must not lose the race on a busy machine
    error = await failure(llm.score(request_for(f"{MARKER} q", f"{MARKER} a", f"{MARKER} b"), timeout_s), within_s)
    assert type(error) is kind
    assert words in str(error)
    assert len(server.received) == 1
    assert_silent(error, caplog.text)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "HTTP 400 (BadRequestError): the model must take strict JSON schemas"),
        (401, "HTTP 401 (AuthenticationError): check api_key"),
        (403, "HTTP 403 (PermissionDeniedError): check what api_key may use"),
        (404, "HTTP 404 (NotFoundError): check base_url and model"),
        (413, "HTTP 413 (APIStatusError): lower max_document_tokens"),
        (418, "HTTP 418 (APIStatusError)"),
        (429, "HTTP 429 (RateLimitError): the endpoint's rate limit or quota is used up"),
        (503, "HTTP 503 (InternalServerError)"),
    ],
)
async def test_http_status(llm: LlmReranker, server: FakeOpenAI, status: int, words: str) -> None:
    """A status is named with its fix; there is no retry, even if the server asks for it, and no quote."""
    server.fault, server.status = Fault.STATUS, status
    error = await failure(llm.score(request_for(MARKER, MARKER), 5.0), AT_ONCE)
    assert type(error) is BackendError
    assert str(error).startswith(words)
    assert MARKER not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert len(server.received) == 1


async def test_success_logs_no_text(llm: LlmReranker, server: FakeOpenAI, caplog: pytest.LogCaptureFixture) -> None:
    """Not even at DEBUG do the SDK and its HTTP client write query, document or key."""
    for name in (None, "openai", "httpx2", "httpcore2"):  # the sidecar's own log settings quieten these
        caplog.set_level(logging.DEBUG, logger=name)
    await llm.score(request_for(MARKER, f"{MARKER} text"), 5.0)
    assert "HTTP Response" in caplog.text
    assert MARKER not in caplog.text
    assert "key-1" not in caplog.text


async def test_nobody_listens() -> None:
    """A refused connection is a BackendError that names neither address nor text."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        port = taken.getsockname()[1]
        llm = await until_loaded(LlmReranker("grader", f"http://127.0.0.1:{port}/v1", "m"))
        error = await failure(llm.score(REQUEST, 5.0), AT_ONCE)
        assert type(error) is BackendError
        assert "ConnectError" in str(error)
        await llm.close()


@pytest.mark.parametrize(
    ("fault", "micro_usd"),
    [
        (Fault.TOO_FEW, 210.0),
        (Fault.NOT_JSON_CONTENT, 210.0),
        (Fault.CUT_OFF, 210.0),
        (Fault.REFUSAL, 210.0),
        (Fault.NO_CHOICES, 210.0),
        (Fault.NOT_JSON_BODY, 0.0),
        (Fault.STATUS, 0.0),
        (Fault.DROP, 0.0),
    ],
)
async def test_what_was_charged_in_vain_is_counted(server: FakeOpenAI, fault: Fault, micro_usd: float) -> None:
    """An answer that cannot be used still has its price, 1,000 and 100 tokens at 150 and 600; no answer has none."""
    priced = LlmReranker(
        "grader",
        server.base_url,
        "m",
        prompt_price_micro_usd_per_1k=150,
        completion_price_micro_usd_per_1k=600,
    )
    llm = await until_loaded(priced)
    server.fault = fault
    error = await failure(llm.score(REQUEST, 5.0), AT_ONCE)
    assert isinstance(error, RerankerError)
    assert error.micro_usd == pytest.approx(micro_usd)
    await llm.close()
