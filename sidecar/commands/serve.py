"""``millirank serve``: run the sidecar until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

from router.profile import ProfileError
from sidecar import cpu_slice, logs
from sidecar.listeners import ListenError
from sidecar.security import SecurityError
from sidecar.settings import Settings, SettingsError, load, to_toml
from sidecar.telemetry import TelemetryError

EXIT_CONFIGURATION = 2
_SWITCH_INTERVAL_S = 0.0001
_READ_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("MILLIRANK_CONFIG"),
        metavar="FILE",
        help="settings as TOML (default: $MILLIRANK_CONFIG, or none); MILLIRANK_* variables win over it",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the effective settings as TOML, and do nothing else",
    )
    parser.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop, as with SIGTERM, when standard input ends too: for a program that starts a sidecar of its own with "
        "a pipe there, and may be killed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve. Exit code 0 after a clean drain, 2 when the configuration can't be used."""
    try:
        settings = load(Path(arguments.config) if arguments.config else None, os.environ)
        if arguments.print_config:
            sys.stdout.write(to_toml(settings))
            return 0
        logs.set_up(settings.log_level)
        # The exporter's thread encodes spans; with the usual 5 ms it would hold up the event loop for longer than a
        # small budget lasts. A request takes the interpreter back several times, hence so little.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        cpu_slice.ask_for(cpu_slice.LOOP_MS)
        asyncio.run(_serve(settings, arguments.stop_with_stdin))
    except (SettingsError, ProfileError, TelemetryError, ListenError, SecurityError) as error:
        sys.stderr.write(f"millirank serve: {error}\n")
        return EXIT_CONFIGURATION
    return 0


async def _serve(settings: Settings, stop_with_stdin: bool) -> None:
    # Here, not at the top: --print-config and a wrong setting need none of it.
    from sidecar.assemble import build

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.report_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:
        _watch_stdin(loop, stop)
    sidecar = build(settings, os.environ)
    await sidecar.start()
    # What is there now stays: a full garbage collection need not look at it. (It took the event loop 70 ms.)
    gc.freeze()
    await stop.wait()
    # A second signal ends the process at once, as impatient people expect: by the system, without a traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    await sidecar.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Sets ``stop`` when standard input ends: the system closes a pipe with the process that holds its other end."""
    stdin = sys.stdin.fileno()

    def read() -> None:
        if not os.read(stdin, _READ_BYTES):
            loop.remove_reader(stdin)
            stop.set()

    try:
        loop.add_reader(stdin, read)
    except PermissionError:  # a file or /dev/null, which are never waited for
        raise SettingsError("--stop-with-stdin needs a pipe as standard input, or a terminal") from None
