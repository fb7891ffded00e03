"""What the arms that come with the package gained on public collections: what a new corpus's gains are shrunk towards.

The figures are data (`pooled_gains.json`), made by ``python -m sidecar.calibrate.make`` on a folder of collections.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidecar.calibrate.shrink import Estimate, prior

BUILT_IN = Path(__file__).with_name("pooled_gains.json")


@dataclass(frozen=True, slots=True)
class PooledGain:
    """One arm's gain over first-stage order on one collection, on queries that its weights were not chosen on.

    ``carried`` are the signals of the candidates, which tell one kind of first stage from another; ``used`` those that
    were fused. Both are sorted and joined by "+".
    """

    carried: str
    arm: str
    used: str
    k: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class PooledCollection:
    """``documents_digest`` tells collections over the same documents, which must not be each other's prior."""

    name: str
    documents_digest: str
    queries: int
    gains: tuple[PooledGain, ...]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Gains on several collections."""

    collections: tuple[PooledCollection, ...] = ()

    def without(self, documents_digest: str) -> Pooled:
        """All but what was measured on these documents."""
        return Pooled(tuple(one for one in self.collections if one.documents_digest != documents_digest))

    def prior(self, carried: str, arm: str, used: str, k: int) -> Estimate | None:
        """What to expect of a new collection, at the deepest k measured up to ``k``; None where too few were."""
        found = []
        for collection in self.collections:
            own = [g for g in collection.gains if (g.carried, g.arm, g.used) == (carried, arm, used) and g.k <= k]
            if own:
                deepest = max(own, key=lambda gain: gain.k)
                found.append(Estimate(deepest.mean, deepest.variance))
        return prior(found)


def read(path: Path = BUILT_IN) -> Pooled:
    """The figures in a file that `write` made."""
    data: Sequence[Mapping[str, Any]] = json.loads(path.read_text("utf-8"))["collections"]
    return Pooled(
        tuple(
            PooledCollection(
                one["name"], one["documents_digest"], one["queries"], tuple(PooledGain(*gain) for gain in one["gains"])
            )
            for one in data
        )
    )


def write(path: Path, collections: Iterable[PooledCollection], about: Mapping[str, str]) -> None:
    """One line for each gain, in the order of `PooledGain`'s fields, so that a change is readable as a difference."""
    parts = []
    for one in collections:
        gains = ",\n".join(f"        {json.dumps(list(asdict(gain).values()))}" for gain in one.gains)
        head = {"name": one.name, "documents_digest": one.documents_digest, "queries": one.queries}
        fields = ",\n".join(f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
        parts.append(f'    {{\n{fields},\n      "gains": [\n{gains}\n      ]\n    }}')
    body = ",\n".join(parts)
    path.write_text(
        f'{{\n  "about": {json.dumps(dict(about))},\n  "collections": [\n{body}\n  ]\n}}\n', encoding="utf-8"
    )
