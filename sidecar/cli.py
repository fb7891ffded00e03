"""The ``millirank`` command line. Every command is its own module and is imported only when it is run."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence

COMMANDS: Mapping[str, str] = {
    "serve": "run the sidecar",
    "rerank": "reorder candidates from a file, through a running sidecar or a private one",
    "explain": "show what would be decided for a request, and why",
    "replay": "decide recorded decisions again, to the last bit or with another profile",
    "admin": "look into a running sidecar: rerankers, profiles; reload profiles, set the mode",
    "calibrate": "measure what reranking is worth on your documents and this machine, and write the profile",
    "models": "list, pull, export and verify the models on this machine",
    "index": "build an index of token vectors, add to it, delete from it",
    "collection": "write the standard library's documentation as JSON lines, to be indexed by other search stacks",
    "health": "ask a running sidecar whether it serves",
    "demo": "search the standard library's documentation at several budgets and show what reranking does",
}

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Ctrl-C ends with 130 and no traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="millirank",
        description="Reranking under a latency budget: a gRPC sidecar that says what it did and why.",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("millirank-server"))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # Only the command that was asked for is imported, so that `--help` and `health` stay quick.
    chosen = next((word for word in words if word in COMMANDS), None)
    try:
        for name, summary in COMMANDS.items():
            subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
            if name == chosen:
                importlib.import_module(f"sidecar.commands.{name}").add_arguments(subparser)
        parsed = parser.parse_args(words)
        module = importlib.import_module(f"sidecar.commands.{parsed.command}")
        return int(module.run(parsed))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`).
        sys.stderr.close()
        return EXIT_FAILURE
