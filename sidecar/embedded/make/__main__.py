"""`python -m sidecar.embedded.make`: makes the embedded models and measures them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sidecar.embedded import model_dir, names
from sidecar.embedded.make import card, measure
from sidecar.embedded.make.features import CollectionError
from sidecar.embedded.make.files import SourceError
from sidecar.embedded.make.texts import MissingTextsError
from sidecar.embedded.make.workshop import Workshop

INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    default_out = model_dir(names()[0]).parent
    parser = argparse.ArgumentParser(prog="python -m sidecar.embedded.make", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--out", type=Path, default=default_out, help="folder with one folder per model (default: the package)"
    )
    common.add_argument(
        "--work",
        type=Path,
        default=Path("build/embedded-models"),
        help="intermediate results; delete it to start afresh",
    )
    common.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    common.add_argument("--seed", type=int, default=0, help="seed of texts, queries and training (default: 0)")
    making = argparse.ArgumentParser(add_help=False)
    making.add_argument(
        "--teacher-minutes", type=float, default=15.0, help="time to encode texts for the teacher (default: 15)"
    )
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--minutes", type=float, default=60.0, help="time to train (default: 60)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("minilm", parents=[common, making], help="make the token encoder")
    commands.add_parser(
        "cross-encoder", parents=[common, making, training], help="train and make the tiny cross-encoder (after minilm)"
    )
    commands.add_parser("all", parents=[common, making, training], help="make both")
    evaluate = commands.add_parser(
        "evaluate", parents=[common], help="measure both and write the figures into the cards"
    )
    evaluate.add_argument(
        "--collections", type=Path, required=True, help="folder whose sub-folders are collections in BEIR layout"
    )
    evaluate.add_argument("--max-queries", type=int, default=200, help="of a collection, sampled (default: 200)")
    evaluate.add_argument("--max-documents", type=int, default=2500, help="of a collection, sampled (default: 2500)")
    evaluate.add_argument("--float32", default="", help="comma-separated collections to measure in float32 too")
    return parser


def _run(arguments: argparse.Namespace, bars: Progress) -> None:
    arguments.work.mkdir(parents=True, exist_ok=True)
    shop = Workshop(arguments.work, arguments.out, arguments.threads, arguments.seed, bars)
    quality: dict[str, str] = {}
    commands: dict[str, Callable[[], None]] = {
        "minilm": lambda: shop.minilm(arguments.teacher_minutes),
        "cross-encoder": lambda: shop.cross_encoder(arguments.minutes, arguments.teacher_minutes),
    }
    if arguments.command == "evaluate":
        limits = measure.Limits(arguments.max_queries, arguments.max_documents)
        exact = frozenset(name for name in arguments.float32.split(",") if name)
        quality = measure.measure(shop, arguments.collections, limits, exact)
    for name in ("minilm", "cross-encoder"):
        if arguments.command in (name, "all"):
            commands[name]()
    facts = shop.facts()
    if "encoder_loss" in facts:
        card.write_minilm(arguments.out / "minilm-l6" / "CARD.md", facts, quality.get("minilm-l6"))
    if "training" in facts:
        card.write_cross_encoder(
            arguments.out / "tiny-cross-encoder" / "CARD.md", facts, quality.get("tiny-cross-encoder")
        )


def main() -> int:
    """Exit status: 0, 1 for something missing (the message names the fix), 130 after Ctrl-C."""
    # The tokenizers' own threads would compete with the model's.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = _parser().parse_args()
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as bars:
            _run(arguments, bars)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is kept, the same command goes on from there")
        return INTERRUPTED
    except (MissingTextsError, SourceError, CollectionError) as error:
        console.print(f"error: {error}", markup=False)
        return 1
    except ModuleNotFoundError as error:
        console.print(
            f"error: {error.name} is not installed: run `pip install 'millirank-server[embedded]'`", markup=False
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
