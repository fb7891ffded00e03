"""Checkpoint -> this project's model folder, as `millirank models export` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sidecar.commands import model_pairs
from sidecar.engines.export.export import Plan, Precision, export
from tests.bench.rivals.child import Operation, serve

PACE_SECONDS = 4.0


def load(checkpoint: str) -> Mapping[str, Operation]:
    """The checkpoint's folder."""

    def export_as(precision: str, folder: str, threads: int) -> dict[str, Any]:
        plan = Plan("bench", "the bench's checkpoint", Precision(precision), 0, threads, PACE_SECONDS)
        outcome = export(Path(checkpoint), Path(folder), plan, model_pairs.standard_library(), lambda *_: None)
        return {
            "batch_tokens": outcome.batch_tokens,
            "fidelity": asdict(outcome.fidelity[outcome.precision]),
        }

    return {"export": export_as}


if __name__ == "__main__":
    serve(load)
