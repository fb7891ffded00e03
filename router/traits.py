"""What the router sees of a request: numbers about the query and its candidates, never their text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_QUESTION_MARKS = ("?", "？", "؟")
# "can", "will" and "may" are left out: they open too many keyword queries (CAN bus, ...).
_QUESTION_WORD = re.compile(
    r"\s*(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|could|should|would)\b",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(
    r"\d"  # numbers, versions, error codes
    r"|\w_\w|[a-z][A-Z]"  # snake_case, camelCase
    r"|\w{2}\.\w{2}|\w::\w"  # os.path, std::vector; two letters a side so that "e.g." is not one
    r"|(?:^|\s)[~.]{0,2}[/\\]\w|\w/\w+/"  # /etc/hosts, ./x, a/b/c; but not "and/or"
    r"|(?:^|\s)--?[a-zA-Z]"  # --verbose
)


@dataclass(frozen=True, slots=True)
class Traits:
    """The request in numbers.

    ``query_words`` counts white-space separated words (scripts written without spaces count as one word);
    ``question`` and ``identifiers`` describe the query's form; ``mean_characters`` is per candidate;
    ``signals`` are the names that at least half of the candidates carry, sorted; ``margin`` is the largest
    lead, over these signals, of candidate 0 over the best other candidate, in standard deviations of that
    signal (negative: behind).
    """

    query_words: int
    question: bool
    identifiers: bool
    documents: int
    mean_characters: float
    signals: tuple[str, ...]
    margin: float


FIGURES: Final[Mapping[str, Callable[[Traits], float]]] = MappingProxyType(
    {
        "query_words": lambda traits: math.log1p(traits.query_words),
        "question": lambda traits: float(traits.question),
        "identifiers": lambda traits: float(traits.identifiers),
        "mean_characters": lambda traits: math.log1p(traits.mean_characters),
        "margin": lambda traits: traits.margin,
    }
)
"""The traits that a gain may depend on, as numbers; counts and lengths as logarithms.

Not ``documents``, which calibration hardly varies, nor ``signals``, which have curves of their own.
"""


def extract(query: str, lengths: Sequence[int], signals: Sequence[Mapping[str, float]]) -> Traits:
    """Describe a request: ``lengths[i]`` (characters) and ``signals[i]`` belong to the candidate of rank
    ``i``.

    Values that are not finite count as missing. Raises ValueError if the two lists differ in length.
    """
    if len(lengths) != len(signals):
        raise ValueError(f"{len(lengths)} lengths and {len(signals)} signals: pass one of each per candidate")
    documents = len(lengths)
    columns: dict[str, list[float]] = {}
    for carried in signals:
        for name, value in carried.items():
            if math.isfinite(value):
                columns.setdefault(name, []).append(value)
    names = tuple(sorted(name for name, column in columns.items() if 2 * len(column) >= documents))
    margins = [_lead(columns[name]) for name in names if math.isfinite(signals[0].get(name, math.nan))]
    return Traits(
        query_words=len(query.split()),
        question=_is_question(query),
        identifiers=_IDENTIFIER.search(query) is not None,
        documents=documents,
        mean_characters=sum(lengths) / documents if documents else 0.0,
        signals=names,
        margin=max(margins, default=0.0),
    )


def _is_question(query: str) -> bool:
    return query.rstrip().endswith(_QUESTION_MARKS) or _QUESTION_WORD.match(query) is not None


def _lead(column: Sequence[float]) -> float:
    """Lead of the first value over the best other one, in standard deviations; 0 if all are equal."""
    if len(column) < 2 or min(column) == max(column):
        return 0.0
    # Divided by the largest magnitude first, so that squares of very large values stay finite.
    scale = max(map(abs, column))
    scaled = [value / scale for value in column]
    mean = math.fsum(scaled) / len(scaled)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in scaled) / len(scaled))
    return (scaled[0] - max(scaled[1:])) / deviation if deviation > 0.0 else 0.0
