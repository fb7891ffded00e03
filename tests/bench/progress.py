"""One progress bar for the whole run. It draws only when it is told to: no thread of ours runs while we measure."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """A context manager. Each measurement announces its steps, then names and ticks off one after the other."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None
        self._part = ""
        self._step = ""

    def begin(self, part: str, total: int) -> None:
        """A new measurement of ``total`` steps."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._part = part
        self._task = self._bar.add_task(part, total=total)
        self._bar.refresh()

    def now(self, step: str) -> None:
        """What is being done now."""
        if self._task is not None:
            self._step = f"{self._part}: {step}"
            self._bar.update(self._task, description=self._step, refresh=True)

    def at(self, seconds: float) -> None:
        """How far the present step is, in seconds; for steps that take long."""
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._step}, {seconds:.0f} s", refresh=True)

    def done(self) -> None:
        """One step is done."""
        if self._task is not None:
            self._bar.update(self._task, advance=1, refresh=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
