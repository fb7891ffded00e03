"""The LLM arm: any OpenAI-compatible chat endpoint grades the candidates.

Listwise, one call grades all of them. Pointwise, each has a call of its own and they run side by side: dearer, but
no document can say anything about another one (see `prompts`). Either way: one attempt per call, one clock around
all of it, and a circuit breaker before it.

Not for models that reason first: they refuse temperature 0 or spend the completion limit on thinking.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

from opentelemetry.trace import NoOpTracer, Tracer

from router.arms import Availability, Strategy, Work
from sidecar.rerankers import prompts
from sidecar.rerankers.base import (
    BadOutputError,
    Document,
    Identity,
    Limits,
    NotReadyError,
    RerankerError,
    Scored,
    ScoreRequest,
)
from sidecar.rerankers.guard import Guard
from sidecar.rerankers.llm_chat import Chat, misconfigured
from sidecar.rerankers.llm_cost import Prices, estimated_work
from sidecar.rerankers.traced_call import traced_call


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
        prompting: prompts.Prompting = "listwise",
        max_parallel: int = 8,
        promotion_cap: int = 0,
        prompt_price_micro_usd_per_1k: float = 0.0,
        completion_price_micro_usd_per_1k: float = 0.0,
        max_document_tokens: int = 200,
        timeout_s: float = 10.0,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without ``base_url`` or ``model`` the reranker is OFF and says so; ``api_key`` may stay empty.

        ``prompting`` is "listwise", or "pointwise" for documents that nobody vouches for; ``max_parallel`` bounds
        the calls of one pointwise chunk; ``promotion_cap`` is what `Limits` says of it. ``max_document_tokens`` cuts
        each candidate (at 4 characters a token); ``timeout_s`` is the longest that any call may take, whatever its
        caller would grant; ``clock`` gives monotonic seconds. Raises ValueError for a mode that does not exist, a
        negative price or cap, or a limit that is not positive.
        """
        if prompting not in prompts.PROMPTINGS:
            raise ValueError(f"reranker {name!r}: prompting is {prompting!r}; choose {' or '.join(prompts.PROMPTINGS)}")
        for field, price in (
            ("prompt_price_micro_usd_per_1k", prompt_price_micro_usd_per_1k),
            ("completion_price_micro_usd_per_1k", completion_price_micro_usd_per_1k),
        ):
            if not 0 <= price < float("inf"):
                raise ValueError(f"reranker {name!r}: {field} is {price}; it must be 0 or more")
        for field, value, least in (
            ("max_parallel", max_parallel, 1),
            ("promotion_cap", promotion_cap, 0),
            ("max_document_tokens", max_document_tokens, 1),
        ):
            if value < least:
                raise ValueError(f"reranker {name!r}: {field} is {value}; it must be {least} or more")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"reranker {name!r}: timeout_s is {timeout_s}; it must be more than 0")
        self._tracer = tracer or NoOpTracer()
        self._model = model
        self._base_url = base_url
        self._connect = lambda: Chat(base_url, model, api_key)
        self._prompting = prompting
        self._prices = Prices(prompt_price_micro_usd_per_1k, completion_price_micro_usd_per_1k)
        self._max_document_tokens = max_document_tokens
        self._identity = Identity(name, Strategy.LLM, _revision(base_url, model, max_document_tokens, prompting))
        listwise = prompting == "listwise"
        self._limits = Limits(
            max_chunk_documents=prompts.MAX_LISTWISE if listwise else max_parallel,
            whole_list=listwise,
            side_by_side=not listwise,
            promotion_cap=promotion_cap,
        )
        self._guard = Guard(name, timeout_s, clock)
        self._chat: Chat | None = None
        self._loading: asyncio.Task[None] | None = None
        self._off = misconfigured(name, base_url, model)

    @property
    def identity(self) -> Identity:
        """``revision`` changes with endpoint, model, prompting, prompt, schema and the cut of candidates."""
        return self._identity

    @property
    def limits(self) -> Limits:
        """Listwise all candidates in one call, at most 50; pointwise as many in a chunk as run side by side."""
        return self._limits

    def availability(self) -> Availability:
        """OFF with the reason, WARMING until the SDK is imported, then as the circuit is."""
        return self._guard.availability(self._off, "importing the openai library" if self._chat is None else "")

    def work(self, request: ScoreRequest) -> Work:
        """Tokens and price as `estimated_work` has them."""
        return estimated_work(
            request.query,
            request.instruction,
            request.documents,
            max_document_tokens=self._max_document_tokens,
            prompting=self._prompting,
            prices=self._prices,
        )

    async def start(self) -> None:
        """Import the SDK in a thread (about two seconds of CPU); returns at once. Idempotent."""
        if not self._off and self._loading is None:
            self._loading = asyncio.create_task(self._load())

    @property
    def scheduler(self) -> None:
        """None: calls run side by side."""

    def queue_ms(self, end: float = math.inf) -> float:
        """0: calls run side by side, and whatever queue the backend has is part of its own time."""
        return 0.0

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """None: each would cost money before anybody asked for anything."""
        return ()

    def remember(self, documents: Sequence[Document]) -> None:
        """Nothing to prepare: an LLM keeps nothing about documents."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Grade all candidates of ``request``, at most ``limits.max_chunk_documents``.

        Pointwise, candidates whose answers did not come in time are ``unscored``; one call that fails fails the
        chunk and cancels the rest of it, and the error carries the price of what had been answered. What a backend
        charges for calls that were cut off nobody can know: they count as free. To the breaker a chunk is one call.

        Raises TimeoutError after ``timeout_s`` (or the configured limit, if shorter) without any answer,
        NotReadyError, CircuitOpenError, BackendError, BadOutputError; ValueError for too many candidates.
        Cancelling closes the connections, which tells the backend to stop.
        """
        most = self._limits.max_chunk_documents
        if len(request.documents) > most:
            raise ValueError(f"{len(request.documents)} candidates in one call; at most {most} are taken")
        if self._chat is None or self._off:
            raise NotReadyError(self.availability().detail)
        if not request.documents:
            return Scored(scores=(), tokens=0)
        async with self._guard.call(timeout_s) as call:
            answers = await self._answers(self._chat, request, call.limit_s)
            if not any(answers):
                raise TimeoutError
            call.typical = all(answers)
        return self._scored(answers, call.elapsed_s, call.limit_s)

    async def close(self) -> None:
        """Close connections; calls under way fail with BackendError. OFF from then on. Idempotent."""
        self._off = self._off or "closed"
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        chat, self._chat = self._chat, None
        if chat is not None:
            await chat.close()

    async def _load(self) -> None:
        try:
            self._chat = await asyncio.to_thread(self._connect)
        except Exception as error:  # noqa: BLE001 - whatever it is, it switches this arm off
            # An ImportError's text is module names; any other may quote base_url, which may hold a password.
            detail = str(error) if isinstance(error, ImportError) else type(error).__name__
            self._off = (
                f"reranker {self._identity.name!r}: the openai library cannot be set up ({detail}); "
                "install openai>=2.0 and check base_url"
            )

    async def _answers(self, chat: Chat, request: ScoreRequest, limit_s: float) -> list[prompts.Answer | None]:
        """An answer for each prompt, in order; None where it did not come within ``limit_s``.

        Raises the first call's error, with the price of all that was answered.
        """
        calls: list[asyncio.Task[prompts.Answer]] = []
        try:
            async with asyncio.timeout(limit_s):
                built = prompts.build_all(request, self._max_document_tokens, self._prompting)
                calls.extend(asyncio.create_task(self._ask(chat, prompt)) for prompt in built)
                await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        except TimeoutError:
            pass  # said by the answers that are missing
        finally:
            for call in calls:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        answers = [outcome if isinstance(outcome, prompts.Answer) else None for outcome in outcomes]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]  # not those cancelled here
        if failures:
            failure = failures[0]
            if isinstance(failure, RerankerError):
                charged = sum(self._prices.of(answer.usage) for answer in answers if answer)
                failure.micro_usd = charged + sum(
                    other.micro_usd for other in failures if isinstance(other, RerankerError)
                )
            raise failure
        return answers

    async def _ask(self, chat: Chat, prompt: prompts.Prompt) -> prompts.Answer:
        """One call. Raises BackendError or BadOutputError, the latter with its price."""
        with traced_call(self._tracer, "chat", self._model, self._base_url) as span:
            answer = prompts.read_answer(await chat.post(prompt), prompt)
            span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": answer.usage.prompt,
                    "gen_ai.usage.output_tokens": answer.usage.completion,
                    "millirank.cost_micro_usd": round(self._prices.of(answer.usage), 3),
                }
            )
            if answer.problem:
                raise BadOutputError(answer.problem, micro_usd=self._prices.of(answer.usage))
        return answer

    def _scored(self, answers: Sequence[prompts.Answer | None], elapsed_s: float, limit_s: float) -> Scored:
        """Scores in the candidates' order. An answer that is missing is a candidate of a prompt of its own."""
        came = [answer for answer in answers if answer]
        missing = frozenset(number for number, answer in enumerate(answers) if not answer)
        return Scored(
            scores=tuple(score for answer in answers for score in (answer.scores if answer else (0.0,))),
            tokens=sum(answer.usage.prompt + answer.usage.completion for answer in came),
            compute_ms=1000 * elapsed_s,
            micro_usd=sum(self._prices.of(answer.usage) for answer in came),
            unscored=missing,
            shortfall=(
                f"{self._identity.name}: {len(missing)} of {len(answers)} candidates were not answered within "
                f"{1000 * limit_s:.0f} ms"
                if missing
                else ""
            ),
        )


def _revision(base_url: str, model: str, max_document_tokens: int, prompting: prompts.Prompting) -> str:
    """32 hex digits. The endpoint counts too: the same model name means other weights elsewhere."""
    digest = blake2b(prompts.fingerprint(max_document_tokens, prompting), digest_size=16)
    digest.update("\0".join((base_url, model)).encode())
    return digest.hexdigest()
