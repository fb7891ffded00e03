"""``millirank replay``: decide recorded decisions again, and say what is different."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.decision import Decision
from router.profile import Profile, ProfileError
from sidecar import profiles, replay
from sidecar.decision_log import plain
from sidecar.replay import Recorded, ReplayError

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="what the sidecar has as decision_log.file, and the FILE.1 before it if there is one",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="OTHER",
        help="decide with this profile instead of the recorded one, and show how decisions would change. Predicted "
        "times stay the recorded ones: a profile does not make a machine faster",
    )
    parser.add_argument("--corpus", default="", help="only decisions that this corpus's profile made (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 when a decision came out differently with the profile that it was made with; 2 when a file can't
    be used."""
    try:
        other = profiles.read(arguments.profile) if arguments.profile else None
        recorded = _read(arguments.files, arguments.corpus)
        outcome = _compare(recorded, other) if other else _verify(recorded)
    except (ReplayError, ProfileError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"millirank replay: {error}\n")
        return 2
    if not outcome.decisions:
        sys.stderr.write("millirank replay: there is no such decision in these files\n")
        return 2
    if arguments.json:
        sys.stdout.write(json.dumps(outcome.as_json()) + "\n")
    else:
        outcome.show(Console())
    return outcome.exit_code


def _read(paths: Sequence[str], corpus: str) -> Iterator[Recorded]:
    for path in paths:
        with rich.progress.open(
            path, "r", encoding="utf-8", description=Path(path).name, transient=True, console=Console(stderr=True)
        ) as file:
            for recorded in replay.read(file, path):
                if not corpus or recorded.profile.corpus == corpus:
                    yield recorded


@dataclass(slots=True)
class Verified:
    """What became of decisions that should have come out the same."""

    decisions: int = 0
    mismatches: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.mismatches else 0

    def as_json(self) -> dict[str, Any]:
        mismatches = [{"id": name, "fields": fields} for name, fields in self.mismatches]
        return {"decisions": self.decisions, "mismatches": mismatches}

    def show(self, console: Console) -> None:
        for name, fields in self.mismatches[:_SHOWN]:
            console.print(f"{name}: {', '.join(fields)}", markup=False)
        if len(self.mismatches) > _SHOWN:
            console.print(f"... and {len(self.mismatches) - _SHOWN} more")
        same = self.decisions - len(self.mismatches)
        console.print(f"{same} of {self.decisions} decisions replayed bit for bit")


def _verify(recorded: Iterator[Recorded]) -> Verified:
    outcome = Verified()
    for each in recorded:
        outcome.decisions += 1
        fields = replay.differences(each, replay.again(each))
        if fields:
            outcome.mismatches.append((each.id, fields))
    return outcome


@dataclass(slots=True)
class Sums:
    """Of the decisions that took one arm: how many, their predicted medians (ms), their expected gains (nDCG@10)."""

    count: int = 0
    p50_ms: float = 0.0
    gain: float = 0.0

    def add(self, decided: Mapping[str, Any]) -> None:
        self.count += 1
        self.p50_ms += decided["predicted_p50_ms"]
        self.gain += decided["expected_gain"]

    def as_json(self) -> dict[str, float]:
        return {
            "decisions": self.count,
            "mean_predicted_p50_ms": self.p50_ms / self.count if self.count else 0.0,
            "mean_expected_gain": self.gain / self.count if self.count else 0.0,
        }


@dataclass(slots=True)
class Compared:
    """Decisions as they were and as they would be, by arm."""

    other: str
    decisions: int = 0
    before: dict[str, Sums] = field(default_factory=dict)
    after: dict[str, Sums] = field(default_factory=dict)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    exit_code = 0

    def add(self, decided: Mapping[str, Any], decision: Decision) -> None:
        """One decision."""
        self.decisions += 1
        new = plain(decision)
        old_arm, new_arm = _arm(decided), _arm(new)
        for sums, arm, values in ((self.before, old_arm, decided), (self.after, new_arm, new)):
            for key in (arm, _ALL):
                sums.setdefault(key, Sums()).add(values)
        if old_arm != new_arm:
            self.moves[old_arm, new_arm] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "profile": self.other,
            "decisions": self.decisions,
            "changed": self.moves.total(),
            "before": {arm: sums.as_json() for arm, sums in self.before.items()},
            "after": {arm: sums.as_json() for arm, sums in self.after.items()},
            "moves": [{"from": old, "to": new, "decisions": count} for (old, new), count in self.moves.most_common()],
        }

    def show(self, console: Console) -> None:
        table = Table("arm", "decisions", "with the other", "p50 ms", "with the other", "gain", "with the other")
        arms = sorted((self.before.keys() | self.after.keys()) - {_ALL})
        for arm in (*arms, _ALL):
            old, new = (sums.get(arm, Sums()).as_json() for sums in (self.before, self.after))
            table.add_row(
                escape(arm),
                *(f"{each['decisions']}" for each in (old, new)),
                *(f"{each['mean_predicted_p50_ms']:.1f}" for each in (old, new)),
                *(f"{each['mean_expected_gain']:+.4f}" for each in (old, new)),
                style="bold" if arm == _ALL else None,
            )
        console.print(table)
        for (old_arm, new_arm), count in self.moves.most_common(_SHOWN):
            console.print(f"{count}: {old_arm} would be {new_arm}", markup=False)
        console.print(
            f"{self.moves.total()} of {self.decisions} decisions would take another arm with {self.other}. Means; each "
            "gain is what that profile expects, p50 what was predicted when the decision was made.",
            markup=False,
        )


_ALL = "all"


def _compare(recorded: Iterator[Recorded], other: Profile) -> Compared:
    outcome = Compared(f"profile {other.corpus!r} {other.revision}")
    for each in recorded:
        outcome.add(each.decided, replay.again(each, other))
    return outcome


def _arm(decided: Mapping[str, Any]) -> str:
    name = decided["reranker"] or str(decided["strategy"])
    return f"{name}@{decided['planned_k']}" if decided["planned_k"] else name
