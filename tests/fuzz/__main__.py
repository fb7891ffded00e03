"""``python -m tests.fuzz``: looks for bytes that a reader does not take well, for minutes, target after target.

What it finds is kept in ``build/fuzz/TARGET``: ``corpus`` (inputs that reach new lines; the next run starts from them)
and ``finding-*`` (an input that breaks the promise). Put a finding's essence into ``tests/fuzz/findings.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.command import EXIT_FAILURE, carry_out, positive
from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "build" / "fuzz"
_LONGEST = 4096  # bytes: enough for every seed's structure, short enough for thousands of runs a second
_MEMORY_MB = 2048
_SLOW_S = 10  # an input that takes longer is a finding
_DONE = re.compile(r"Done (\d+) runs|stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s", re.MULTILINE)
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one target: ``executions`` inputs, ``covered`` lines' edges, ``findings`` are files."""

    target: str
    executions: int
    covered: int
    seconds: float
    findings: tuple[Path, ...]
    failed: bool


class _Fuzzing:
    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []

    def fuzz(self, name: str, seconds: float) -> Run:
        """One target in a child of its own, until the time is over or something is found."""
        folder = _FOLDER / name
        corpus = folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(TARGETS[name].seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        before = set(folder.glob("finding-*"))
        began = time.monotonic()
        command = [
            sys.executable, "-m", "tests.fuzz.atheris_child", name, str(corpus), f"-max_total_time={seconds:.0f}",
            f"-artifact_prefix={folder}/finding-", f"-max_len={max(_LONGEST, *map(len, TARGETS[name].seeds))}",
            f"-rss_limit_mb={_MEMORY_MB}", f"-timeout={_SLOW_S}", "-print_final_stats=1",
        ]  # fmt: skip
        with (
            (folder / "log.txt").open("w+", encoding="utf-8", errors="replace") as log,
            subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT, text=True) as child,
        ):
            self.children.append(child)
            code = child.wait()
            log.seek(0)
            said = log.read()
        counts = [int(number) for match in _DONE.finditer(said) for number in match.groups() if number]
        covered = [int(number) for number in _COVERED.findall(said)]
        return Run(
            name,
            max(counts, default=0),
            max(covered, default=0),
            time.monotonic() - began,
            tuple(sorted(set(folder.glob("finding-*")) - before)),
            code != 0,
        )

    def end(self) -> None:
        """No child outlives this process."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1: something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one or more of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=1, help="targets at the same time (default: %(default)s)")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.targets if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; run: pip install -e '.[fuzz]'")
    return carry_out(functools.partial(_look, asked))


def _look(asked: argparse.Namespace, console: Console) -> int:
    names = asked.targets or list(TARGETS)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    fuzzing = _Fuzzing()
    runs = []
    with Progress(*columns, console=console, transient=True) as bar, ThreadPoolExecutor(asked.jobs) as side_by_side:
        task = bar.add_task(f"{len(names)} targets, {asked.minutes:g} minutes each", total=len(names))
        try:
            for run in side_by_side.map(lambda name: fuzzing.fuzz(name, 60 * asked.minutes), names):
                runs.append(run)
                bar.advance(task)
        except KeyboardInterrupt:
            # The threads wait for their children.
            side_by_side.shutdown(wait=False, cancel_futures=True)
            fuzzing.end()
            raise
    console.print(_table(runs))
    return EXIT_FAILURE if any(run.failed for run in runs) else 0


def _table(runs: Sequence[Run]) -> Table:
    table = Table("target", "inputs", "edges", "seconds")
    table.add_column("found", overflow="fold")  # a path that is cut is none
    for run in runs:
        found = ", ".join(str(path.relative_to(_ROOT)) for path in run.findings)
        found = found or (f"failed, see build/fuzz/{run.target}/log.txt" if run.failed else "nothing")
        table.add_row(run.target, f"{run.executions:,}", str(run.covered), f"{run.seconds:.0f}", found)
    return table


if __name__ == "__main__":
    sys.exit(main())
