"""Decisions on record: everything that the router was told and what it decided, so that `sidecar.replay` can decide
again. Numbers and configured names only, never a query or a document.

A file of JSON lines of two kinds. A profile stands before the first decision that was made with it::

    {"format": "millirank.decisions/1", "revision": "3c9d...", "profile": {... as in its file ...}}
    {"id": "5f0e...", "at": 1786180000.25, "revision": "3c9d...", "asked": {... as `Asked` ...}, "decided": {...}}

What `ExplainRoute` was asked stands there too. Python writes floats so that they are read back to the last bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from router.decision import Decision, RerankerView, Routing
from router.profile import Profile
from router.traits import Traits
from sidecar.line_file import LineFile
from sidecar.profiles import Profiles

FORMAT = "millirank.decisions/1"


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of `router.policy.choose`, but for the profile."""

    traits: Traits
    spendable_ms: float
    max_micro_usd: int | None
    routing: Routing
    rerankers: Sequence[RerankerView]
    signals_ms: float


@dataclass(frozen=True, slots=True)
class Record:
    """One decision: its id (also on the trace), when it was made in seconds since 1970, and the profile's own text."""

    id: str
    at: float
    asked: Asked
    decision: Decision
    revision: str
    profile_text: str


class DecisionLog:
    """Writes decisions to a `LineFile`."""

    def __init__(
        self, path: Path, max_bytes: int, profiles: Callable[[], Profiles], on_drop: Callable[[], None] = lambda: None
    ) -> None:
        """``profiles`` gives those in use. Raises OSError when the file can't be opened."""
        self._profiles = profiles
        self._written: set[str] = set()  # revisions that stand in the present file; the writing thread's own
        self._file = LineFile(path, max_bytes, self._encode, on_drop)

    def record(self, decision_id: str, asked: Asked, profile: Profile, decision: Decision) -> None:
        """Put a decision on record. Call it where the decision is made, before anything can swap the profiles."""
        text = self._profiles().sources[profile.corpus].text
        self._file.put(Record(decision_id, time.time(), asked, decision, profile.revision, text))

    def close(self) -> None:
        """Write what waits. Blocks."""
        self._file.close()

    def _encode(self, record: Record, new_file: bool) -> str:
        if new_file:
            self._written.clear()
        lines = []
        if record.revision not in self._written:
            self._written.add(record.revision)
            profile = json.loads(record.profile_text)
            lines.append({"format": FORMAT, "revision": record.revision, "profile": profile})
        lines.append(
            {
                "id": record.id,
                "at": record.at,
                "revision": record.revision,
                "asked": record.asked,
                "decided": plain(record.decision),
            }
        )
        return "".join(dumps(line) + "\n" for line in lines)


def plain(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it; an arm is a list in the order of `ConsideredArm`'s fields."""
    return {**decision._asdict(), "considered": [list(arm) for arm in decision.considered]}


def dumps(value: object) -> str:
    """JSON in its shortest form; equal values have equal texts."""
    return json.dumps(value, default=_plain, separators=(",", ":"))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__qualname__} has no place in a record")
