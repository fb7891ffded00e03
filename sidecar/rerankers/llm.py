"""The LLM arm: any OpenAI-compatible chat endpoint grades all candidates in one call.

One attempt per call, one clock around all of it. The SDK's own retries and its per-read timeout are off:
either can make a call many times longer than it may be. Nothing that the backend says reaches an error
message, since it may repeat queries or documents.

Not for models that reason first: they refuse temperature 0 or spend the completion limit on thinking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from router.arms import Availability, State, Strategy, Work
from sidecar.rerankers import prompts
from sidecar.rerankers.base import (
    BackendError,
    BadOutputError,
    CircuitOpenError,
    Document,
    Identity,
    Limits,
    NotReadyError,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.breaker import Breaker, Permit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_CANDIDATES = 50
"""Candidates in one call: more make prompts slow and grades careless."""

MAX_ANSWER_BYTES = 1 << 20
"""An answer of 50 grades takes a few kB; whatever is longer than this is not an answer."""

_USUAL_WEIGHT = 0.1  # of the newest call in the moving mean: about the last ten count

_HINTS = {
    307: "base_url redirects: set it to where the endpoint is",
    308: "base_url redirects: set it to where the endpoint is",
    400: "the model must take strict JSON schemas, temperature 0, max_completion_tokens and long prompts",
    401: "check api_key",
    403: "check what api_key may use",
    404: "check base_url and model",
    413: "lower max_document_tokens",
    429: "the endpoint's rate limit or quota is used up",
}


class LlmReranker:
    """Grades candidates with an LLM; implements the `Reranker` protocol.

    Scores are integers from 0 to 10 (as floats), so ties are common; fusion with first-stage signals breaks
    them. Prices are micro-USD per 1,000 tokens: 0.15 USD per million tokens is 150.
    """

    def __init__(
        self,
        name: str,
        base_url: str = "",
        model: str = "",
        api_key: str = "",
        *,
        prompt_price_micro_usd_per_1k: float = 0.0,
        completion_price_micro_usd_per_1k: float = 0.0,
        max_document_tokens: int = 200,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without ``base_url`` or ``model`` the reranker is OFF and says so; ``api_key`` may stay empty.

        ``max_document_tokens`` cuts each candidate (at 4 characters a token); ``timeout_s`` is the longest
        that any call may take, whatever its caller would grant; ``clock`` gives monotonic seconds. Raises
        ValueError for a negative price or a limit that is not positive.
        """
        for field, price in (
            ("prompt_price_micro_usd_per_1k", prompt_price_micro_usd_per_1k),
            ("completion_price_micro_usd_per_1k", completion_price_micro_usd_per_1k),
        ):
            if not 0 <= price < float("inf"):
                raise ValueError(f"reranker {name!r}: {field} is {price}; it must be 0 or more")
        if max_document_tokens < 1:
            raise ValueError(f"reranker {name!r}: max_document_tokens is {max_document_tokens}; it must be 1 or more")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"reranker {name!r}: timeout_s is {timeout_s}; it must be more than 0")
        self._base_url = base_url
        self._model = model
        self._api_key = api_key
        self._prompt_price = prompt_price_micro_usd_per_1k
        self._completion_price = completion_price_micro_usd_per_1k
        self._max_document_tokens = max_document_tokens
        self._timeout_s = timeout_s
        self._clock = clock
        self._identity = Identity(name, Strategy.LLM, _revision(base_url, model, max_document_tokens))
        self._breaker = Breaker()
        self._usual_s = 0.0  # moving mean of calls that succeeded
        self._client: AsyncOpenAI | None = None
        self._loading: asyncio.Task[None] | None = None
        self._off = _misconfigured(name, base_url, model)

    @property
    def identity(self) -> Identity:
        """``revision`` changes with endpoint, model, prompt, schema and the cut of candidates."""
        return self._identity

    @property
    def limits(self) -> Limits:
        """All candidates in one call, at most 50; there is no partial result."""
        return Limits(max_chunk_documents=MAX_CANDIDATES, whole_list=True)

    def availability(self) -> Availability:
        """OFF with the reason, WARMING until the SDK is imported, CIRCUIT_OPEN, else READY.

        READY also when the next call would be the probe of a circuit that has been open: only a call can
        close it.
        """
        if self._off:
            return Availability(State.OFF, self._off)
        if self._client is None:
            return Availability(State.WARMING, "importing the openai library")
        blocked = self._breaker.blocked(self._clock())
        return Availability(State.CIRCUIT_OPEN, blocked) if blocked else Availability(State.READY)

    def work(self, query: str, instruction: str, documents: Sequence[Document]) -> Work:
        """Estimated prompt and completion tokens (characters / 4), and a price per token.

        Prompt and completion tokens have two prices and `Work` has one: it is the dearest mean price over
        the first k candidates, k up to 50, so that no k is promised cheaper than it is estimated to be.
        """
        per_candidate = prompts.PASSAGE_PROMPT_TOKENS + prompts.PASSAGE_COMPLETION_TOKENS
        cap = self._max_document_tokens
        tokens = tuple(min(prompts.text_tokens(document.text), cap) + per_candidate for document in documents)
        texts = (prompts.SYSTEM_PROMPT, query, instruction)
        frame = prompts.FRAME_PROMPT_TOKENS + prompts.FRAME_COMPLETION_TOKENS
        fixed = sum(map(prompts.text_tokens, texts)) + frame
        # Share of completion tokens in the first k candidates: the mean price is highest at its one end.
        shares = [
            (prompts.FRAME_COMPLETION_TOKENS + k * prompts.PASSAGE_COMPLETION_TOKENS) / total
            for k, total in enumerate(accumulate(tokens[:MAX_CANDIDATES], initial=fixed))
        ]
        surcharge = self._completion_price - self._prompt_price
        dearest = max(shares) if surcharge > 0 else min(shares)
        price = (self._prompt_price + surcharge * dearest) / 1000
        return Work(tokens=tokens, fixed_tokens=fixed, micro_usd_per_token=price)

    async def start(self) -> None:
        """Import the SDK in a thread (about two seconds of CPU); returns at once. Idempotent."""
        if not self._off and self._loading is None:
            self._loading = asyncio.create_task(self._load())

    def queue_ms(self) -> float:
        """0: calls run side by side, and whatever queue the backend has is part of its own time."""
        return 0.0

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """None: each would cost money before anybody asked for anything."""
        return ()

    def remember(self, documents: Sequence[Document]) -> None:
        """Nothing to prepare: an LLM keeps nothing about documents."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Grade all candidates of ``request`` in one call.

        Raises TimeoutError after ``timeout_s`` (or the configured limit, if shorter), NotReadyError,
        CircuitOpenError, BackendError, BadOutputError; ValueError for more than 50 candidates. Cancelling
        closes the connection, which tells the backend to stop.
        """
        if len(request.documents) > MAX_CANDIDATES:
            raise ValueError(f"{len(request.documents)} candidates in one call; at most {MAX_CANDIDATES} are taken")
        if self._client is None or self._off:
            raise NotReadyError(self.availability().detail)
        if not request.documents:
            return Scored(scores=(), tokens=0)
        limit_s = min(timeout_s, self._timeout_s)
        if limit_s <= 0:
            raise TimeoutError(f"{self._identity.name}: no time left to call the backend")
        started = self._clock()
        permit = self._breaker.admit(started)
        if permit is None:
            raise CircuitOpenError(self._breaker.blocked(started))
        try:
            async with asyncio.timeout(limit_s):
                prompt = prompts.build(request, self._max_document_tokens)
                answer = prompts.read_answer(await self._post(self._client, prompt), prompt)
        except TimeoutError:
            self._timed_out(permit, limit_s)
            raise TimeoutError(f"{self._identity.name}: no answer within {1000 * limit_s:.0f} ms") from None
        except RerankerError:
            self._breaker.failed(permit, self._clock())
            raise
        except BaseException:  # cancelled, which says nothing about the backend
            self._breaker.withdrawn(permit)
            raise
        elapsed_s = self._clock() - started
        self._breaker.succeeded(permit)
        self._usual_s += (elapsed_s - self._usual_s) * (_USUAL_WEIGHT if self._usual_s else 1.0)
        return Scored(
            scores=answer.scores,
            tokens=answer.usage.prompt + answer.usage.completion,
            compute_ms=1000 * elapsed_s,
            micro_usd=self._price(answer.usage),
        )

    async def close(self) -> None:
        """Close connections; calls under way fail with BackendError. OFF from then on. Idempotent."""
        self._off = self._off or "closed"
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _load(self) -> None:
        try:
            self._client = await asyncio.to_thread(self._connect)
        except Exception as error:  # noqa: BLE001 - whatever it is, it switches this arm off
            # An ImportError's text is module names; any other may quote base_url, which may hold a password.
            detail = str(error) if isinstance(error, ImportError) else type(error).__name__
            self._off = (
                f"reranker {self._identity.name!r}: the openai library cannot be set up ({detail}); "
                "install openai>=2.0 and check base_url"
            )

    def _connect(self) -> AsyncOpenAI:
        import openai

        client = openai.AsyncOpenAI(
            base_url=self._base_url,
            # Never None: the SDK would take OPENAI_API_KEY from the environment and send it to any base URL.
            api_key=self._api_key or "unused",
            max_retries=0,
            timeout=None,
            # Documents go to the configured endpoint, not to where it points.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=None),
        )
        # The SDK imports this part only when it is touched: now, and not on the first request.
        _ = client.chat.completions.with_streaming_response
        return client

    async def _post(self, client: AsyncOpenAI, prompt: prompts.Prompt) -> bytes:
        """The body of the backend's answer. Raises BackendError, or BadOutputError if it is too long."""
        failure: RerankerError
        try:
            # Streamed only to stop reading at a limit: the SDK would read whatever comes into memory.
            async with client.chat.completions.with_streaming_response.create(
                model=self._model,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "relevance", "strict": True, "schema": prompt.schema},
                },
                temperature=0,
                max_completion_tokens=prompt.max_completion_tokens,
            ) as response:
                body = bytearray()
                async for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise BadOutputError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
                return bytes(body)
        except BadOutputError:
            raise
        except Exception as error:  # noqa: BLE001 - SDK, HTTP client and TLS have errors of their own
            failure = _backend_error(error)
        # Raised outside the handler, so that the SDK's error, which quotes the body, is not chained to it.
        raise failure

    def _timed_out(self, permit: Permit, waited_s: float) -> None:
        """Count a timeout as a failure, unless the caller granted less than the backend usually takes.

        Otherwise one caller with a tiny budget would open the circuit for everybody.
        """
        if waited_s >= self._usual_s:
            self._breaker.failed(permit, self._clock())
        else:
            self._breaker.withdrawn(permit)

    def _price(self, usage: prompts.Usage) -> float:
        """Micro-USD of a call."""
        return (usage.prompt * self._prompt_price + usage.completion * self._completion_price) / 1000


def _misconfigured(name: str, base_url: str, model: str) -> str:
    """Why the reranker is off, with field and fix; empty if it is not. A base_url may hold a password."""
    missing = [field for field, value in (("base_url", base_url), ("model", model)) if not value]
    if missing:
        return (
            f"reranker {name!r}: {' and '.join(missing)} not set; an LLM arm needs the base_url of an "
            "OpenAI-compatible endpoint (such as https://api.openai.com/v1) and a model (such as gpt-4o-mini)"
        )
    try:
        url = urlsplit(base_url)
        valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        return (
            f"reranker {name!r}: base_url is no http:// or https:// URL with a host; "
            "it should look like https://api.openai.com/v1"
        )
    return ""


def _revision(base_url: str, model: str, max_document_tokens: int) -> str:
    """32 hex digits. The endpoint counts too: the same model name means other weights elsewhere."""
    digest = blake2b(prompts.fingerprint(max_document_tokens, MAX_CANDIDATES), digest_size=16)
    digest.update("\0".join((base_url, model)).encode())
    return digest.hexdigest()


def _backend_error(error: Exception) -> BackendError:
    """Status, error types and our own hint; nothing that the backend wrote."""
    import openai

    if isinstance(error, openai.APIStatusError):
        hint = _HINTS.get(error.status_code, "")
        return BackendError(f"HTTP {error.status_code} ({type(error).__name__})" + (f": {hint}" if hint else ""))
    causes = [type(error).__name__]
    if error.__cause__ is not None:
        causes.append(type(error.__cause__).__name__)
    return BackendError(f"no usable answer from the backend ({', caused by '.join(causes)})")
