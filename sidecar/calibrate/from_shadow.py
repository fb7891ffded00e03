"""What production has taught: shadow evaluations as judged lists, with the reference's opinion for labels.

A teacher's opinion is no relevance judgement: what is fitted on it comes as close to the reference as the profile can
bring it, and is as wrong as the reference is. Its scores are graded as those of `millirank calibrate --teacher` are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidecar import json_text
from sidecar.calibrate.opinion import grades
from sidecar.calibrate.records import Floats, JudgedList
from sidecar.shadow_log import FORMAT


class ShadowError(Exception):
    """Shadow records can't be used. The message names the file, the line and the fix."""


@dataclass(frozen=True, slots=True)
class ShadowLists:
    """Lists judged by ``reference`` (name and revision); ``left_out`` evaluations were of another corpus or of another
    reference, or the reference found no candidate good, or all alike."""

    lists: tuple[JudgedList, ...]
    reference: tuple[str, str]
    left_out: int


def judged_lists(paths: Sequence[Path], corpus: str = "") -> ShadowLists:
    """Judged lists of ``corpus`` (as requests name it) from the files of `sidecar.shadow_log`, in their order.

    Only the newest evaluation's reference counts: two teachers have two opinions. A list holds the k candidates that
    the reference has judged, with the positions as ids; ``raw`` has the reference's scores, and where a reranker
    answered, that one's. Texts were never kept, so that ``query`` is a stand-in with the same traits.
    Raises ShadowError.
    """
    evaluations = list(_evaluations(paths))
    own = [each for each in evaluations if each.corpus == corpus]
    if not own:
        known = ", ".join(sorted({repr(each.corpus) for each in evaluations})) or "none"
        raise ShadowError(f"no shadow evaluation of corpus {corpus!r} in {', '.join(map(str, paths))}; there: {known}")
    reference = max(own, key=lambda each: each.at).reference
    listed = [each.judged for each in own if each.reference == reference and each.judged is not None]
    given = grades([one.raw[reference[0]] for one in listed])
    lists = tuple(
        replace(one, grades=dict(zip(one.ids, opinion, strict=True)))
        for one, opinion in zip(listed, given, strict=True)
        if any(opinion)
    )
    return ShadowLists(lists, reference, len(evaluations) - len(lists))


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One line of a file; ``judged``, still without grades, is None where the reference had no opinion."""

    corpus: str
    at: float
    reference: tuple[str, str]
    judged: JudgedList | None


def _evaluations(paths: Sequence[Path]) -> Iterator[_Evaluation]:
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ShadowError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break  # it is being written, or its process was killed
            where = f"{path}, line {number}"
            try:
                record = json_text.loads(line)
            except ValueError as error:
                raise ShadowError(f"{where} is not JSON: {error}") from None
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise ShadowError(f"{where} is not of format {FORMAT!r}; name a file that shadow.file has named")
            try:
                yield _evaluation(record)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise ShadowError(f"{where} is damaged ({error!r}); remove it") from None


def _evaluation(record: Mapping[str, Any]) -> _Evaluation:
    reference = str(record["reference"]["name"]), str(record["reference"]["revision"])
    judged = None if record["ndcg"] is None else _judged(record, reference[0])
    return _Evaluation(str(record["corpus"]), float(record["at"]), reference, judged)


def _judged(record: Mapping[str, Any], reference: str) -> JudgedList:
    scores: Mapping[str, Sequence[float | None]] = record["scores"]
    ids = tuple(str(position) for position in range(len(record["lengths"])))
    if len(scores[reference]) != len(ids):
        raise ValueError(f"{len(scores[reference])} scores by {reference}, {len(ids)} candidates")
    return JudgedList(
        query_id=str(record["id"]),
        query=stand_in(**record["query"]),
        ids=ids,
        lengths=tuple(map(int, record["lengths"])),
        signals={name: _floats(values) for name, values in record["signals"].items()},
        raw={name: _floats(values) for name, values in scores.items()},
        grades={},
    )


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def stand_in(words: int, question: bool, identifiers: bool) -> str:
    """A query with the same traits as one that was not kept."""
    query = " ".join(["x1" if identifiers else "x", *["x"] * (words - 1)])
    return f"{query}?" if question else query
