"""Recorded decisions, decided again: to the last bit with the profile that they were made with, or with another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from router.decision import Decision
from router.policy import choose
from router.profile import Profile, ProfileError, parse
from sidecar import json_text
from sidecar.decision_log import FORMAT, Asked, dumps, plain


class ReplayError(Exception):
    """A record can't be read. The message names the file, the line and the fix."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One decision from the file: ``decided`` is what it was, as JSON has it."""

    id: str
    profile: Profile
    asked: Asked
    decided: Mapping[str, Any]


def read(file: IO[str], name: str) -> Iterator[Recorded]:
    """The decisions of a decision log, in its order; ``name`` is for messages.

    A last line without its newline is left out: it is being written, or its process was killed. Raises ReplayError.
    """
    profiles: dict[str, Profile] = {}
    adapter = TypeAdapter(Asked)
    for number, line in enumerate(file, 1):
        if not line.endswith("\n"):
            return
        where = f"{name}, line {number}"
        try:
            entry = json_text.loads(line)
        except ValueError as error:
            raise ReplayError(f"{where} is not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ReplayError(f"{where} is no JSON object; is this a file that the setting decision_log.file names?")
        try:
            if "profile" in entry:
                if entry.get("format") != FORMAT:
                    raise ReplayError(f"{where}: expected format {FORMAT!r}, got {entry.get('format')!r}")
                profiles[entry["revision"]] = parse(entry["profile"], entry["revision"])
                continue
            yield Recorded(
                entry["id"], profiles[entry["revision"]], adapter.validate_python(entry["asked"]), entry["decided"]
            )
        except KeyError as error:
            raise ReplayError(
                f"{where} needs {error}, which is not there; replay whole files: a profile stands before its decisions"
            ) from None
        except (ProfileError, ValidationError) as error:
            raise ReplayError(f"{where} can't be read by this version: {error}") from None


def again(recorded: Recorded, profile: Profile | None = None) -> Decision:
    """Decide with the same arguments, and with ``profile`` in place of the recorded one where there is another."""
    asked = recorded.asked
    return choose(
        traits=asked.traits,
        spendable_ms=asked.spendable_ms,
        max_micro_usd=asked.max_micro_usd,
        routing=asked.routing,
        profile=profile or recorded.profile,
        rerankers=asked.rerankers,
        signals_ms=asked.signals_ms,
    )


def differences(recorded: Recorded, decision: Decision) -> tuple[str, ...]:
    """Names of the decision's fields that are not the recorded ones to the last bit; empty: it is the same."""
    new = plain(decision)
    names = [*new, *(name for name in recorded.decided if name not in new)]
    return tuple(name for name in names if dumps(new.get(name)) != dumps(recorded.decided.get(name)))
