"""What a process and its children hold: memory, descriptors, threads. And whether that grows."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import memory_mb, tree

# Python's own allocator and glibc's take a while until they have the memory that they turn over.
_SETTLED = 0.4  # of the samples come before that
_MORE_MB, _MORE_SHARE, _MORE_FDS, _MORE_THREADS = 5.0, 0.05, 4, 3


@dataclass(frozen=True, slots=True)
class Vitals:
    """All processes of one sidecar together; memory is RSS in MB of 10^6 bytes."""

    rss_mb: float
    descriptors: int
    threads: int


def look(pid: int) -> Vitals:
    """At the process and its children, now. Raises OSError when one of them has just ended."""
    pids = list(tree(pid))
    return Vitals(
        rss_mb=memory_mb(pid)["rss"],
        descriptors=sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids),
        threads=sum(len(list(Path(f"/proc/{one}/task").iterdir())) for one in pids),
    )


def growth(samples: Sequence[Vitals]) -> Vitals:
    """Median of the last third less the median of the samples that come just after settling."""
    first = samples[int(_SETTLED * len(samples)) :][: max(1, len(samples) // 5)]
    last = samples[-max(1, len(samples) // 3) :]

    def grown(name: str) -> float:
        return statistics.median(getattr(one, name) for one in last) - statistics.median(
            getattr(one, name) for one in first
        )

    return Vitals(grown("rss_mb"), round(grown("descriptors")), round(grown("threads")))


def complaints(samples: Sequence[Vitals]) -> list[str]:
    """What is not flat, in words."""
    grown, level = growth(samples), statistics.median(one.rss_mb for one in samples)
    said = []
    if grown.rss_mb > max(_MORE_MB, _MORE_SHARE * level):
        said.append(f"memory has grown by {grown.rss_mb:.1f} MB of {level:.0f}")
    if grown.descriptors > _MORE_FDS:
        said.append(f"there are {grown.descriptors} descriptors more")
    if grown.threads > _MORE_THREADS:
        said.append(f"there are {grown.threads} threads more")
    return said
