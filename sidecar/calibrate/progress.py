"""The bar of a long step: how much is done and how long the rest takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(label: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, gone when the step is done; gives what to call with the number of new steps."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not shown,
    ) as progress:
        task = progress.add_task(label, total=total)
        yield lambda steps: progress.advance(task, steps)
