"""What commands that measure for minutes share: the console, what an interrupt and an error do, exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from rich.console import Console

from tests.bench.report import BenchError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def carry_out(
    measure: Callable[[Console], int], *, errors: tuple[type[Exception], ...] = (), log_width: int = 160
) -> int:
    """The exit code of ``measure``.

    Ctrl-C gives 130; BenchError and ``errors`` give 1, their message being all that is said. ``log_width`` is that of
    the tables where no terminal says how wide it is, in characters.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=log_width)
    # A SIGTERM takes the way of Ctrl-C: through every `finally`, so that no child is left.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return measure(console)
    except KeyboardInterrupt:
        console.print("interrupted; there is no report")
        return EXIT_INTERRUPTED
    except (BenchError, *errors) as error:
        sys.stderr.write(f"bench: {error}\n")
        return EXIT_FAILURE


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
