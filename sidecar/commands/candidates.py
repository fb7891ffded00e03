"""What `rerank` and `explain` share: their arguments, reading candidates, and a private sidecar where none runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from millirank import AsyncClient, Document, Strategy
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from rich.console import Console

from router.arms import State
from sidecar import json_text
from sidecar.rerankers.base import Reranker
from sidecar.settings import DecisionLogSettings, Listen, Mode, Settings, ShadowSettings

_READY_TIMEOUT_S = 30.0
_STRATEGIES = tuple(strategy.value for strategy in Strategy if strategy is not Strategy.UNSPECIFIED)


class InputError(Exception):
    """The command's input can't be used. The message names the line and the fix."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that describe a request and where to send it."""
    parser.add_argument("query", help="the user's query")
    parser.add_argument(
        "--documents",
        default="-",
        metavar="FILE",
        help="candidates, best first, as JSON lines {'text': ..., 'id': ..., 'signals': {'bm25': ...}, "
        "'indexed_ref': {'collection': ..., 'id': ...}}; with an indexed_ref the text may be left out; '-' is "
        "standard input (default)",
    )
    parser.add_argument("--budget-ms", type=float, default=100.0, help="default: %(default)s")
    parser.add_argument("--corpus", default="", help="selects the calibrated profile")
    parser.add_argument("--strategy", choices=_STRATEGIES, default="auto", help="force one (default: %(default)s)")
    parser.add_argument("--reranker", default="", metavar="NAME", help="force one configured reranker")
    parser.add_argument("--rerank-k", type=int, default=0, metavar="K", help="force how many candidates are scored")
    parser.add_argument("--instruction", default="", help="what is wanted beyond relevance; only LLM arms follow it")
    parser.add_argument(
        "--target",
        metavar="ADDRESS",
        help="a running sidecar, host:port or unix:/path (default: a private one)",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="with --target: TLS, trusting the authorities in this PEM file"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="with --target: the bearer token that the sidecar asks for"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("MILLIRANK_CONFIG"),
        metavar="FILE",
        help="settings of the private sidecar (default: $MILLIRANK_CONFIG, or none)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def request_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say about a request, for the client's `rerank` and `explain` alike."""
    return {
        "budget_ms": arguments.budget_ms,
        "corpus": arguments.corpus,
        "strategy": arguments.strategy,
        "reranker": arguments.reranker,
        "rerank_k": arguments.rerank_k,
        "instruction": arguments.instruction,
    }


def read(source: str) -> list[Document]:
    """Candidates from JSON lines. Raises InputError naming the line."""
    try:
        lines = sys.stdin if source == "-" else Path(source).read_text(encoding="utf-8").splitlines()
        return [_document(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{source} is not UTF-8") from None


def _document(line: str, number: int) -> Document:
    where = f"line {number}"
    try:
        entry = json_text.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("text", "" if "indexed_ref" in entry else None), str):
        raise InputError(
            f'{where}: write an object with a \'text\' or an \'indexed_ref\', such as {{"id": "7", "text": "..."}}'
        )
    unknown = set(entry) - {"id", "text", "signals", "indexed_ref"}
    if unknown:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}; known are id, text, signals and indexed_ref")
    signals = entry.get("signals", {})
    if not isinstance(signals, Mapping) or not all(isinstance(value, int | float) for value in signals.values()):
        raise InputError(f"{where}: 'signals' must be an object of numbers, such as {{\"bm25\": 12.3}}")
    return Document(
        text=entry.get("text", ""),
        id=str(entry.get("id", number)),
        signals=dict(signals),
        indexed_ref=_indexed_ref(entry["indexed_ref"], where) if "indexed_ref" in entry else None,
    )


def _indexed_ref(value: object, where: str) -> tuple[str, str]:
    """(collection, id); as where an index is built, a whole number is an id too. Raises InputError."""
    entry = value if isinstance(value, Mapping) else {}
    collection, identifier = entry.get("collection"), entry.get("id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    named = isinstance(collection, str) and collection and isinstance(identifier, str) and identifier
    if not named or set(entry) != {"collection", "id"}:
        raise InputError(
            f'{where}: \'indexed_ref\' must name collection and id, such as {{"collection": "docs", "id": "7"}}'
        )
    return str(collection), str(identifier)


@contextlib.asynccontextmanager
async def connected(
    arguments: argparse.Namespace, span_processor: SpanProcessor | None = None
) -> AsyncIterator[AsyncClient]:
    """A client of ``--target``, or of a sidecar that lives only as long as this command.

    ``span_processor`` sees the client's spans, and those of a private sidecar. Raises InputError for a target that is
    no address.
    """
    tracer_provider = None
    if span_processor is not None:
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        tracer_provider.add_span_processor(span_processor)
    if arguments.target:
        try:
            client = AsyncClient(
                arguments.target,
                credentials=grpc.ssl_channel_credentials(arguments.ca.read_bytes()) if arguments.ca else None,
                token=arguments.token_file.read_text(encoding="utf-8").strip() if arguments.token_file else "",
                tracer_provider=tracer_provider,
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from None
        async with client:
            yield client
        return
    # Imported here: with --target nothing of the server is needed.
    from sidecar.assemble import build
    from sidecar.settings import load

    settings = load(Path(arguments.config) if arguments.config else None, os.environ)
    with tempfile.TemporaryDirectory(prefix="millirank-") as folder:
        sidecar = build(_private(settings, Path(folder)), os.environ, span_processor)
        try:
            (address,) = await sidecar.start()
            with Console(stderr=True).status("loading the models"):
                await _until_ready(sidecar.rerankers)
            async with AsyncClient(address, tracer_provider=tracer_provider) as client:
                yield client
        finally:
            await sidecar.stop()


def _private(settings: Settings, folder: Path) -> Settings:
    """The settings without what belongs to a sidecar that serves: its addresses, and the files that it writes."""
    listen = Listen(tcp="", unix=str(folder / "millirank.sock"))
    return settings.model_copy(
        update={
            "listen": listen,
            "linger_s": 0.0,
            "mode": Mode.ON,
            "decision_log": DecisionLogSettings(),
            "shadow": ShadowSettings(),
        }
    )


async def _until_ready(rerankers: Mapping[str, Reranker]) -> None:
    """Wait for the models; a slow one is not waited for longer than `_READY_TIMEOUT_S`: the table shows its state."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READY_TIMEOUT_S):
            # Polled: rerankers have a state, not an event.
            while any(reranker.availability().state is State.WARMING for reranker in rerankers.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
