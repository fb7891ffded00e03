"""The wire of the LLM arm: one prompt to an OpenAI-compatible chat endpoint, one body back.

One attempt, and no clock of its own: the SDK's retries and its per-read timeout are off, since either can make a
call many times longer than it may be; whoever calls puts one timeout around everything. Nothing that the backend
says reaches an error message, since it may repeat queries or documents.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.rerankers.base import BackendError, BadOutputError, RerankerError
from sidecar.rerankers.prompts import Prompt

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_ANSWER_BYTES = 1 << 20
"""An answer of 50 grades takes a few kB; whatever is longer than this is not an answer."""

_TRACE_CONTEXT = TraceContextTextMapPropagator()
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


class Chat:
    """An open endpoint. Making one imports the SDK (about two seconds of CPU): do it in a thread."""

    def __init__(self, base_url: str, model: str, api_key: str) -> None:
        """Raises ImportError where the SDK is not installed, and whatever the SDK says of a URL it refuses."""
        import openai

        logging.getLogger("openai._base_client").addFilter(_holds_no_request)
        self._model = model
        self._client: AsyncOpenAI = openai.AsyncOpenAI(
            base_url=base_url,
            # Never None: the SDK would take OPENAI_API_KEY from the environment and send it to any base URL.
            api_key=api_key or "unused",
            max_retries=0,
            timeout=None,
            # Documents go to the configured endpoint, not to where it points.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=None),
        )
        # The SDK imports this part only when it is touched: now, and not on the first request.
        _ = self._client.chat.completions.with_streaming_response

    async def post(self, prompt: Prompt) -> bytes:
        """The body of the backend's answer. Raises BackendError, or BadOutputError if it is too long.

        The current span's ids go along, so that a backend of one's own joins the trace; no baggage, which is others'.
        """
        headers: dict[str, str] = {}
        _TRACE_CONTEXT.inject(headers)
        failure: RerankerError
        try:
            # Streamed only to stop reading at a limit: the SDK would read whatever comes into memory.
            async with self._client.chat.completions.with_streaming_response.create(
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
                extra_headers=headers,
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

    async def close(self) -> None:
        """Close connections; calls under way fail with BackendError."""
        await self._client.close()


def misconfigured(name: str, base_url: str, model: str) -> str:
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


def _holds_no_request(record: logging.LogRecord) -> bool:
    """openai 2 writes whole requests into its debug log, whoever turns that on. No text goes there (invariant 11)."""
    return not str(record.msg).startswith("Request options")


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
