"""``millirank index``: build an index of token vectors, add documents to it, delete documents from it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sidecar.indexing import build, colbert_library
from sidecar.indexing.checkpoint import resolve
from sidecar.indexing.documents import InputError, read_documents, read_ids
from sidecar.indexing.manifest import IndexFolderError, read_manifest

DEFAULT_MODEL = "colbert-ir/colbertv2.0"
EXIT_FAILURE = 1
EXIT_USAGE = 2
_EPILOG = """\
examples:
  millirank index --collection docs --from docs.jsonl                  build indexes/docs
  millirank index --collection docs --from new.jsonl --add             add documents, or replace them
  millirank index --collection docs --delete ids.txt                   delete documents
  millirank index --compile                                            only compile, while an image is built

A reranker serves it, and requests refer to it with indexed_ref {collection, id}:
  [rerankers.colbert]
  strategy = "late_interaction"
  engine = "ragatouille"
  collections = { docs = "indexes/docs" }

The old index stays untouched until the new one is complete. A running sidecar keeps the index that it has loaded;
restart it to serve the new one. The checkpoint has to stay where it is: queries are encoded with it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--collection", default="", metavar="NAME", help="what requests call it in indexed_ref")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="documents as JSON lines {'id': ..., 'text': ...}",
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where the index is, or will be (default: indexes/NAME)"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="CHECKPOINT",
        help="a ColBERT checkpoint in Stanford's format, a folder or a hub name (default: %(default)s)",
    )
    parser.add_argument("--revision", default="", metavar="COMMIT", help="of a hub name (default: the newest one)")
    parser.add_argument(
        "--max-tokens",
        type=_tokens,
        default=0,
        metavar="N",
        help="tokens of a document that are read (default: the checkpoint's own limit)",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--add", action="store_true", help="add the documents to an index that is there")
    action.add_argument("--delete", type=Path, metavar="FILE", help="delete the documents with these ids, one a line")
    action.add_argument("--compile", action="store_true", help="only compile the search extensions")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when it is done, 1 when it can't be, 2 when the arguments or the input can't be used."""
    colbert_library.silence_libraries()
    try:
        action = _action(arguments)
        with _Bar() as report:
            words = action(report)
    except InputError as error:
        sys.stderr.write(f"millirank index: {error}\n")
        return EXIT_USAGE
    except IndexFolderError as error:
        sys.stderr.write(f"millirank index: {error}\n")
        return EXIT_FAILURE
    sys.stdout.write(f"{words}\n")
    return 0


def _action(arguments: argparse.Namespace) -> Callable[[build.Report], str]:
    """What is to be done, with its input read and checked; gives what to say at the end. Raises InputError."""
    if arguments.compile:
        return lambda report: "compiled" if build.prepare_extensions(report) else "already compiled"
    target = _target(arguments)
    if arguments.delete is not None:
        if arguments.source is not None:
            raise InputError("--delete takes no --from: do one after the other")
        ids = read_ids(arguments.delete)
        return lambda report: _words(build.delete(target, ids, report), target)
    if arguments.source is None:
        raise InputError("name the documents with --from, or use --delete or --compile")
    documents = read_documents(arguments.source)
    if arguments.add:
        return lambda report: _words(build.add(target, documents, report), target)
    if not arguments.collection:
        raise InputError("name the collection with --collection")

    def create(report: build.Report) -> str:
        colbert_library.require()
        report.stage("looking for the checkpoint")
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")
        checkpoint = resolve(arguments.model, arguments.revision, download=not offline)
        change = build.create(target, arguments.collection, checkpoint, documents, arguments.max_tokens, report)
        return _words(change, target)

    return create


def _target(arguments: argparse.Namespace) -> Path:
    if arguments.to is None and not arguments.collection:
        raise InputError("name the collection with --collection, or its folder with --to")
    target: Path = arguments.to if arguments.to is not None else Path("indexes") / arguments.collection
    changes = arguments.add or arguments.delete is not None
    if changes and arguments.collection and read_manifest(target).collection != arguments.collection:
        raise InputError(f"{target} holds the collection {read_manifest(target).collection!r}, not the one named")
    return target.expanduser()


def _words(change: build.Change, target: Path) -> str:
    counts = {
        "added": change.added,
        "replaced": change.replaced,
        "deleted": change.deleted,
        "not in it": change.unknown,
    }
    done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{target}: collection {change.manifest.collection!r} has {change.manifest.documents} documents ({done})"


def _tokens(words: str) -> int:
    try:
        tokens = int(words)
    except ValueError:
        tokens = 0
    if not 8 <= tokens <= 512:
        raise argparse.ArgumentTypeError(f"{words!r}; use 8 to 512")
    return tokens


class _Bar:
    """Progress on stderr, one line for each stage; nothing but these lines where stderr is no terminal."""

    def __init__(self) -> None:
        # By object: while the libraries are kept quiet, the name sys.stderr means nothing.
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, description: str, total: int = 0) -> None:
        """See `build.Report`."""
        if not self._console.is_terminal:
            self._console.print(description, highlight=False)
        self._progress.reset(self._task, total=total or None, description=description, visible=True)

    def advance(self, steps: int) -> None:
        """See `build.Report`."""
        self._progress.advance(self._task, steps)
