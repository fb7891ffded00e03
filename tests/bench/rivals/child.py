"""The child's side of a measurement: one JSON object a line on stdin, one answer a line on stdout.

A request names an operation and its arguments; the answer is what the operation returns, with ``ms`` where it timed
itself. The time of the pipe is in no figure.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Operation = Callable[..., dict[str, Any]]
ResultT = TypeVar("ResultT")

_PEAK = "5"  # to /proc/self/clear_refs: the peak of the resident set starts anew (proc(5))


def serve(load: Callable[..., Mapping[str, Operation]]) -> None:
    """Answer requests until stdin closes.

    The first one is what ``load`` takes; it returns the operations by name. Whatever an operation raises is answered
    as ``error``, and the child lives on; a failing ``load`` ends it.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    operations: Mapping[str, Operation] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if operations is None:
                operations = load(**request)
                answer: dict[str, Any] = {"operations": sorted(operations)}
            else:
                answer = operations[request.pop("operation")](**request)
        except Exception as error:  # noqa: BLE001 - the parent reports it, by type and message
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if operations is None:
            return


def timed(function: Callable[[], ResultT]) -> tuple[ResultT, float]:
    """The result, and how many milliseconds it took."""
    started = time.perf_counter()
    result = function()
    return result, (time.perf_counter() - started) * 1e3


def fastest(sizes: Sequence[int], run: Callable[[int], object], rounds: int = 2) -> int:
    """Which of ``sizes`` runs fastest, each by the best of ``rounds`` in turn, after one run that does not count."""
    run(sizes[0])
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(rounds):
        for size in sizes:
            _, ms = timed(lambda size=size: run(size))  # type: ignore[misc]
            best[size] = min(best[size], ms)
    return min(best, key=lambda size: best[size])


def forget_peak() -> None:
    """Start the peak of the resident set anew, so that trying out batch sizes does not count."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write(_PEAK)


def peak_mb() -> dict[str, Any]:
    """Peak of the resident set, in MB of 10^6 bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return {"mb": int(line.split()[1]) * 1024 / 1e6}
    raise OSError("/proc/self/status names no peak")
