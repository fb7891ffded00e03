"""A cross-encoder that lives elsewhere: a pool behind a Cohere, Jina or Text Embeddings Inference rerank endpoint.

One HTTP call per request, one attempt, one clock around all of it, and a circuit breaker before it. The candidates
are not cut into small chunks as for a local model: each would pay for a round trip, and the pool batches itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate

from opentelemetry.trace import NoOpTracer, Tracer

from router.arms import Availability, Strategy, Work
from sidecar.engines.batching import estimated_tokens
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
from sidecar.rerankers.remote_endpoint import Endpoint, misconfigured
from sidecar.rerankers.remote_shapes import APIS, Api, read_scores, request_body
from sidecar.rerankers.traced_call import traced_call

_NO_CUT = 1 << 20  # tokens: where the pool cuts texts is not known here
# The warm-up: (documents, words of each). The first call opens the connection, and counts for nothing.
_WARM_UP = ((1, 8), (1, 32), (4, 32), (12, 64), (24, 64))


class HttpReranker:
    """Scores candidates with a remote endpoint; implements the `Reranker` protocol.

    The instruction is ignored: these endpoints take none.
    """

    def __init__(
        self,
        name: str,
        url: str,
        api_key: str = "",
        *,
        api: Api = "cohere",
        model: str = "",
        micro_usd_per_1k_documents: float = 0.0,
        max_documents: int = 100,
        timeout_s: float = 5.0,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``url`` is the endpoint itself; if it is no URL the reranker is OFF and says so.

        ``model`` '' sends none; ``max_documents`` bounds one call; ``timeout_s`` is the longest that any call may
        take, whatever its caller would grant; ``clock`` gives monotonic seconds. Raises ValueError for an API that
        does not exist, a negative price, or a limit that is not positive.
        """
        if api not in APIS:
            raise ValueError(f"reranker {name!r}: api is {api!r}; choose {', '.join(APIS)}")
        if not 0 <= micro_usd_per_1k_documents < float("inf"):
            price = micro_usd_per_1k_documents
            raise ValueError(f"reranker {name!r}: micro_usd_per_1k_documents is {price}; it must be 0 or more")
        if max_documents < 1:
            raise ValueError(f"reranker {name!r}: max_documents is {max_documents}; it must be 1 or more")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"reranker {name!r}: timeout_s is {timeout_s}; it must be more than 0")
        self._tracer = tracer or NoOpTracer()
        self._url = url
        self._open = lambda: Endpoint(url, api_key)
        self._api: Api = api
        self._model = model
        self._micro_usd_per_document = micro_usd_per_1k_documents / 1000
        self._timeout_s = timeout_s
        # The endpoint counts too: the same model name, or none, means other weights elsewhere.
        revision = blake2b("\0".join((url, api, model)).encode(), digest_size=16).hexdigest()
        self._identity = Identity(name, Strategy.CROSS_ENCODER, revision)
        self._limits = Limits(max_chunk_documents=max_documents, whole_list=True)
        self._guard = Guard(name, timeout_s, clock)
        self._samples: tuple[tuple[int, float], ...] = ()
        self._endpoint: Endpoint | None = None
        self._loading: asyncio.Task[None] | None = None
        self._loaded = False
        self._off = misconfigured(name, url)

    @property
    def identity(self) -> Identity:
        """``revision`` changes with endpoint, API and model name; what the pool does behind them can't be seen."""
        return self._identity

    @property
    def limits(self) -> Limits:
        """All candidates in one call, at most ``max_documents``."""
        return self._limits

    def availability(self) -> Availability:
        """OFF with the reason, WARMING until the first calls are over, then as the circuit is."""
        return self._guard.availability(self._off, "" if self._loaded else "getting to know the endpoint")

    def work(self, request: ScoreRequest) -> Work:
        """Tokens of every pair, estimated from characters, the query's part in each; and their price per token.

        A document has one price, whatever its length, and `Work` has one price per token: it is the dearest mean
        price over the first k candidates, whatever k may be scored, so that no k is promised cheaper than it is.
        """
        query_tokens = estimated_tokens(request.query, _NO_CUT)
        tokens = tuple(query_tokens + estimated_tokens(document.text, _NO_CUT) for document in request.documents)
        dearest = max((k / total for k, total in enumerate(accumulate(tokens), start=1)), default=0.0)
        return Work(tokens, micro_usd_per_token=self._micro_usd_per_document * dearest)

    async def start(self) -> None:
        """Open the client in a thread, and measure it if it costs nothing; returns at once. Idempotent."""
        if not self._off and self._loading is None:
            self._loading = asyncio.create_task(self._load(), name=f"open {self._identity.name}")

    @property
    def scheduler(self) -> None:
        """None: calls run side by side."""

    def queue_ms(self, end: float = math.inf) -> float:
        """0: calls run side by side, and whatever queue the pool has is part of its own time."""
        return 0.0

    def warm_up_samples(self) -> Sequence[tuple[int, float]]:
        """(tokens, milliseconds) of a few made-up calls; none where they would cost money or the endpoint failed."""
        return self._samples

    def remember(self, documents: Sequence[Document]) -> None:
        """Nothing to prepare: a cross-encoder keeps nothing about documents."""

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        """Score all candidates of ``request``, at most ``limits.max_chunk_documents``, in one call.

        ``tokens`` is the estimate of `work`: endpoints count differently, or not at all. An answer that can't be used
        has its price all the same; what is charged for calls that failed nobody can know: they count as free.

        Raises TimeoutError after ``timeout_s`` (or the configured limit, if shorter), NotReadyError, CircuitOpenError,
        BackendError, BadOutputError; ValueError for too many candidates. Cancelling closes the connection, which
        tells the endpoint to stop.
        """
        most = self._limits.max_chunk_documents
        if len(request.documents) > most:
            raise ValueError(f"{len(request.documents)} candidates in one call; at most {most} are taken")
        if self._endpoint is None or self._off:
            raise NotReadyError(self.availability().detail)
        if not request.documents:
            return Scored(scores=(), tokens=0)
        async with self._guard.call(timeout_s) as call:
            scores = await self._ask(self._endpoint, request, call.limit_s)
        return Scored(
            scores=scores,
            tokens=self.work(request).tokens_at(len(scores)),
            compute_ms=1000 * call.elapsed_s,
            micro_usd=self._micro_usd_per_document * len(scores),
        )

    async def close(self) -> None:
        """Close connections; calls under way fail with BackendError. OFF from then on. Idempotent."""
        self._off = self._off or "closed"
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()

    async def _ask(self, endpoint: Endpoint, request: ScoreRequest, limit_s: float) -> tuple[float, ...]:
        """One call. Raises TimeoutError, BackendError or BadOutputError."""
        texts = [document.text for document in request.documents]
        try:
            async with asyncio.timeout(limit_s):
                with traced_call(self._tracer, "rerank", self._model, self._url) as span:
                    span.set_attribute("millirank.documents", len(texts))
                    answer = await endpoint.post(request_body(self._api, self._model, request.query, texts))
                    scores = read_scores(self._api, answer, len(texts))
                    if isinstance(scores, str):
                        raise BadOutputError(scores)
        except BadOutputError as error:
            error.micro_usd = self._micro_usd_per_document * len(texts)
            raise
        return scores

    async def _load(self) -> None:
        try:
            self._endpoint = await asyncio.to_thread(self._open)
        except Exception as error:  # noqa: BLE001 - whatever it is, it switches this arm off
            # An ImportError's text is module names; any other may quote the URL, which may hold a password.
            detail = str(error) if isinstance(error, ImportError) else type(error).__name__
            self._off = (
                f"reranker {self._identity.name!r}: the HTTP client cannot be set up ({detail}); "
                "install httpx2 and check url"
            )
            return
        if not self._micro_usd_per_document:
            await self._warm_up()
        self._loaded = True

    async def _warm_up(self) -> None:
        """Measure the endpoint with made-up texts, so that the first requests find an estimate of it."""
        samples = []
        for documents, words in _WARM_UP:
            count = min(documents, self._limits.max_chunk_documents)
            text = "warm " * words
            made_up = ScoreRequest("warm up", "", [Document(str(number), text, b"") for number in range(count)])
            try:
                scored = await self.score(made_up, self._timeout_s)
            except (RerankerError, TimeoutError):
                return  # the breaker has counted it, and a request will say why
            samples.append((scored.tokens, scored.compute_ms))
        self._samples = tuple(samples[1:])
