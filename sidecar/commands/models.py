"""``millirank models``: which models are on this machine, fetching one, making one fast, checking all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sidecar import embedded
from sidecar.commands import model_pairs
from sidecar.engines.manifest import Kind, ModelError, read_manifest
from sidecar.engines.threads import default_threads
from sidecar.model_store import EMBEDDED_PREFIX, ModelStore, Pulled, damaged_files

if TYPE_CHECKING:
    from sidecar.engines.export.export import Outcome

AUTO = "auto"
PRECISIONS = (AUTO, "int8", "fp32")
MIB = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show every model on this machine, and whether its files are what they should be")
    pull = actions.add_parser("pull", help="download a checkpoint from the Hugging Face hub, safetensors only")
    pull.add_argument("name", metavar="NAME", help="hub name, such as BAAI/bge-reranker-v2-m3")
    pull.add_argument("--revision", default="", metavar="COMMIT", help="default: the newest commit, which is recorded")
    pull.add_argument(
        "--kind",
        choices=[kind.value for kind in Kind],
        default=Kind.CROSS_ENCODER.value,
        help="what it is checked for; token_encoder is ColBERT (default: %(default)s)",
    )
    export = actions.add_parser("export", help="make a cross-encoder fast on ONNX Runtime, and measure it")
    export.add_argument("source", metavar="SOURCE", help="checkpoint folder, or the name of a pulled checkpoint")
    export.add_argument("--name", default="", help="what to call it (default: SOURCE, or its last folder)")
    export.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=AUTO,
        help="auto makes int8 and fp32, measures both here and keeps the better (default: %(default)s)",
    )
    export.add_argument(
        "--max-tokens", type=int, default=0, metavar="N", help="of a pair (default: 512, or the model's limit)"
    )
    export.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help='JSON lines {"query": ..., "texts": [...]} to measure on (default: the Python documentation)',
    )
    verify = actions.add_parser("verify", help="compare every file with its digest")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: every model on this machine")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 when a model is missing, damaged or cannot be used."""
    actions: dict[str, Callable[[argparse.Namespace, ModelStore], int]] = {
        "list": _list,
        "pull": _pull,
        "export": _export,
        "verify": _verify,
    }
    try:
        return actions[arguments.action](arguments, ModelStore())
    except ModuleNotFoundError as error:
        fix = "install it with: pip install 'millirank-server[export]'"
        sys.stderr.write(f"millirank models {arguments.action}: {error.name} is not installed; {fix}\n")
    except (ModelError, OSError, RuntimeError) as error:
        sys.stderr.write(f"millirank models {arguments.action}: {error}\n")
    return 1


@dataclass(frozen=True, slots=True)
class _Row:
    """A model in the list: ``name`` is what the settings call it; ``state`` is "ok" or what is wrong with its files."""

    name: str
    kind: str
    precision: str
    size_bytes: int
    origin: str
    state: str


def _list(arguments: argparse.Namespace, store: ModelStore) -> int:
    table = Table("name", "kind", "precision", "MiB", "files", "made from")
    for row in _rows(store, frozenset()):
        cells = (row.name, row.kind, row.precision, f"{row.size_bytes / MIB:.0f}", row.state, row.origin)
        table.add_row(*map(escape, cells))  # square brackets in a path are no markup
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0


def _verify(arguments: argparse.Namespace, store: ModelStore) -> int:
    rows = list(_rows(store, frozenset(arguments.names)))
    for row in rows:
        sys.stdout.write(f"{row.name}: {row.state}\n")
    return 0 if all(row.state == "ok" for row in rows) else 1


def _rows(store: ModelStore, names: Set[str]) -> Iterator[_Row]:
    """The models of these names, or all of them, with their digests compared under a progress bar.

    A name may stand for two: the checkpoint that was pulled, and the model that was exported from it. Raises ModelError
    for a name that is none.
    """
    folders = [(EMBEDDED_PREFIX + name, embedded.model_dir(name)) for name in embedded.names()]
    folders += [(folder.name.replace("--", "/", 1), folder) for folder in store.exported()]
    pulled = store.pulled()
    unknown = names - {name for name, _ in folders} - {checkpoint.name for checkpoint in pulled}
    if unknown:
        raise ModelError(f"there is no model {min(unknown)}: see `millirank models list`")
    if names:
        folders = [(name, folder) for name, folder in folders if name in names]
        pulled = [checkpoint for checkpoint in pulled if checkpoint.name in names]
    with _bars() as bars:
        task = bars.add_task("comparing digests", total=len(folders) + len(pulled))
        for name, folder in folders:
            yield _folder_row(name, folder)
            bars.advance(task)
        for checkpoint in pulled:
            folder = Path(checkpoint.folder)
            origin = f"the hub, commit {checkpoint.commit[:12]}"
            state = _state(damaged_files(folder, checkpoint.files))
            yield _Row(checkpoint.name, "checkpoint", "", _size(folder, checkpoint.files), origin, state)
            bars.advance(task)


def _folder_row(name: str, folder: Path) -> _Row:
    try:
        manifest = read_manifest(folder)
    except ModelError as error:
        return _Row(name, "", "", 0, "", str(error))
    files = dict(manifest.files)
    state = _state(damaged_files(folder, files))
    return _Row(name, manifest.kind.value, manifest.precision, _size(folder, files), manifest.source, state)


def _state(damaged: list[str]) -> str:
    return f"damaged: {', '.join(damaged)}; install the model again" if damaged else "ok"


def _size(folder: Path, files: Mapping[str, str]) -> int:
    return sum((folder / name).stat().st_size for name in files if (folder / name).is_file())


def _pull(arguments: argparse.Namespace, store: ModelStore) -> int:
    from sidecar.engines.checkpoint import check, digests, locate

    store.folder(arguments.name)  # a bad name is told before anything is downloaded
    if Path(arguments.name).is_dir():
        raise ModelError(f"{arguments.name} is a folder here already: run `millirank models export {arguments.name}`")
    folder = locate(arguments.name, arguments.revision, "torch")
    check(folder, Kind(arguments.kind), "torch")
    # The hub's client keeps a snapshot in a folder that is called like its commit.
    store.remember(Pulled(arguments.name, folder.name, str(folder), dict(digests(folder, "torch"))))
    sys.stdout.write(f"{arguments.name} at commit {folder.name} is in {folder}\n")
    if arguments.kind == Kind.CROSS_ENCODER:
        sys.stdout.write(f"next: millirank models export {arguments.name}\n")
    return 0


def _export(arguments: argparse.Namespace, store: ModelStore) -> int:
    import onnx  # noqa: F401 - said at once when it is missing, not after minutes

    from sidecar.engines.export.export import Plan, Precision, export

    checkpoint, source = store.checkpoint(arguments.source)
    name = arguments.name or (checkpoint.resolve().name if Path(arguments.source).is_dir() else arguments.source)
    groups = model_pairs.from_file(arguments.pairs) if arguments.pairs else model_pairs.standard_library()
    precision = None if arguments.precision == AUTO else Precision(arguments.precision)
    plan = Plan(name, source, precision, arguments.max_tokens, default_threads())
    with _bars() as bars:
        task = bars.add_task("reading the checkpoint", total=None)

        def on_progress(what: str, done: int, of: int) -> None:
            bars.update(task, description=what, completed=done, total=of)

        outcome = export(checkpoint, store.folder(name), plan, groups, on_progress)
    sys.stdout.write(_report(name, outcome))
    return 0


def _report(name: str, outcome: Outcome) -> str:
    lines = []
    for precision, fidelity in outcome.fidelity.items():
        lines.append(
            f"{precision}: largest difference {fidelity.largest:.2g}, mean {fidelity.mean:.2g} (scores spread by "
            f"{fidelity.spread:.2g}), Kendall tau {fidelity.tau:.3f}, over {fidelity.pairs} pairs"
        )
    for (precision, batch), pace in outcome.pairs_per_s.items():
        how = "one text a run" if batch == 1 else f"batches of {batch:,} tokens"
        lines.append(f"{precision}, {how}: {pace:.1f} pairs/s on this machine")
    lines.append(f'kept {outcome.precision} in {outcome.folder}; in the settings: model = "{name}"')
    return "\n".join(lines) + "\n"


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield bars
