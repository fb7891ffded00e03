"""Exports of tiny checkpoints, to be imported only where the extra export is installed."""

from __future__ import annotations

from pathlib import Path

from sidecar.engines.export.export import Outcome, Plan, Precision, export
from sidecar.engines.export.fidelity import PairGroup
from tests.rerankers import tiny_checkpoints

GROUPS = (
    PairGroup("reads rows of a csv file", (*tiny_checkpoints.SENTENCES, "a much longer text " * 40, "short", "")),
    PairGroup("die lange Straße", tiny_checkpoints.SENTENCES),
)
PLAN = Plan("tiny", "a test", Precision.FP32, max_tokens=0, threads=1, pace_seconds=0.0)


def exported(checkpoint: Path, target: Path, plan: Plan = PLAN) -> Outcome:
    """An export without a progress bar."""
    return export(checkpoint, target, plan, GROUPS, lambda what, done, of: None)


def copied(source: Path, target: Path) -> Path:
    """A copy of a flat folder."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
