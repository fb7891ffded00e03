"""``millirank explain``: what would be decided for a request, with every arm and the reason against it."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys

from millirank import Decision, Document, MillirankError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.profile import ProfileError
from sidecar.commands import candidates
from sidecar.listeners import ListenError
from sidecar.settings import SettingsError
from sidecar.telemetry import TelemetryError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    candidates.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 with a decision, 1 when the sidecar refused the request, 2 when the input can't be used."""
    try:
        documents = candidates.read(arguments.documents)
        decision = asyncio.run(_decision(arguments, documents))
    except (candidates.InputError, SettingsError, ProfileError, TelemetryError, ListenError) as error:
        sys.stderr.write(f"millirank explain: {error}\n")
        return 2
    except MillirankError as error:
        sys.stderr.write(f"millirank explain: {error}\n")
        return 1
    if arguments.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(decision), ensure_ascii=False) + "\n")
    else:
        show(decision, Console())
    return 0


async def _decision(arguments: argparse.Namespace, documents: list[Document]) -> Decision:
    async with candidates.connected(arguments) as client:
        return await client.explain(
            arguments.query,
            documents,
            **candidates.request_options(arguments),
        )


def show(decision: Decision, console: Console) -> None:
    """The considered table and the decision in words."""
    table = Table("arm", "k", "p50 ms", "p95 ms", "expected gain", "verdict", "because")
    for arm in decision.considered:
        chosen = arm.verdict == "chosen"
        table.add_row(
            escape(arm.reranker or arm.strategy),
            str(arm.rerank_k),
            f"{arm.predicted_p50_ms:.1f}",
            f"{arm.predicted_p95_ms:.1f}",
            f"{arm.expected_gain:+.3f}",
            arm.verdict.replace("_", " "),
            escape(arm.detail),
            style="bold green" if chosen else None,
        )
    console.print(table)
    console.print(
        f"{decision.reranker or decision.strategy} at k={decision.planned_k}: {decision.reason.replace('_', ' ')}; "
        f"{decision.spendable_ms:.1f} ms could be spent, "
        f"profile {decision.profile_corpus!r} {decision.profile_revision}",
        markup=False,
    )
