"""The wire of a remote pool: one JSON body to a rerank endpoint, one body back.

One attempt, and no clock of its own: whoever calls puts one timeout around everything. Nothing that the endpoint says
reaches an error message, since it may repeat queries or documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import propagate

from sidecar.rerankers.base import BackendError, BadOutputError, RerankerError

if TYPE_CHECKING:
    from httpx2 import AsyncClient

MAX_ANSWER_BYTES = 1 << 20
"""1,000 results take about 60 kB. An endpoint that sends the documents back all the same is cut off here."""
# As many as there may be requests; the pool queues, not this process. A connection that is kept saves a handshake.
_MOST_CONNECTIONS = 1_000
_KEPT_CONNECTIONS = 32
_KEPT_S = 60.0

_HINTS = {
    301: "url redirects: set it to where the endpoint is",
    302: "url redirects: set it to where the endpoint is",
    307: "url redirects: set it to where the endpoint is",
    308: "url redirects: set it to where the endpoint is",
    400: "check api and model",
    401: "check the key in api_key_env",
    403: "check what the key in api_key_env may use",
    404: "check url (it is the endpoint itself, with its path) and model",
    413: "lower max_documents",
    422: "check api and model, or lower max_documents",
    424: "the endpoint's model can't rerank, or failed",
    429: "the endpoint's rate limit or queue is full",
}


class Endpoint:
    """An open endpoint. Making one imports the HTTP client and reads certificates: do it in a thread."""

    def __init__(self, url: str, api_key: str) -> None:
        """Raises ImportError where the HTTP client is not installed, and what it says of a URL that it refuses."""
        import httpx2

        self._url = httpx2.URL(url)
        # Compressed answers are not asked for and never unpacked: a small body could unpack to any size.
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._client: AsyncClient = httpx2.AsyncClient(
            headers=headers,
            # Documents go to the configured endpoint, not to where it points.
            follow_redirects=False,
            timeout=None,
            limits=httpx2.Limits(
                max_connections=_MOST_CONNECTIONS,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEPT_S,
            ),
        )

    async def post(self, body: bytes) -> bytes:
        """The body of the answer. Raises BackendError, or BadOutputError if it is too long.

        The current span's context goes along, so that the pool's own spans join the trace. Cancelling closes the
        connection.
        """
        headers: dict[str, str] = {}
        propagate.inject(headers)
        failure: RerankerError
        try:
            async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                if response.status_code != 200:
                    raise _status_error(response.status_code)
                answer = bytearray()
                async for part in response.aiter_raw():
                    answer += part
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise BadOutputError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
                return bytes(answer)
        except RerankerError:
            raise
        except Exception as error:  # noqa: BLE001 - HTTP client and TLS have errors of their own
            failure = BackendError(f"no usable answer from the endpoint ({type(error).__name__})")
        # Raised outside the handler, so that the client's error, which names the URL, is not chained to it.
        raise failure

    async def close(self) -> None:
        """Close connections; calls under way fail with BackendError."""
        await self._client.aclose()


def misconfigured(name: str, url: str) -> str:
    """Why the reranker is off, with field and fix; empty if it is not. A URL may hold a password: it is not quoted."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if valid:
        return ""
    return (
        f"reranker {name!r}: url is no http:// or https:// URL with a host; "
        "it should be the endpoint itself, such as http://pool:8080/rerank"
    )


def _status_error(status: int) -> BackendError:
    hint = _HINTS.get(status, "")
    return BackendError(f"HTTP {status}" + (f": {hint}" if hint else ""))
