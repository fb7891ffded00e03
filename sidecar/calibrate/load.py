"""One word for a collection -> the collection."""

from __future__ import annotations

from pathlib import Path

from sidecar.calibrate import beir, builtin, ir_datasets_source, known_items
from sidecar.calibrate.collection import Collection, CollectionError

WHAT = (
    "a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/), a file of documents without judgements (JSON lines "
    f"with id and text), {ir_datasets_source.PREFIX}ID, or {builtin.NAME}"
)


def load_collection(spec: str, *, split: str = "", cache_dir: Path | None = None, progress: bool = True) -> Collection:
    """The collection that ``spec`` names.

    ``built-in`` is the standard library's documentation, ``ir_datasets:ID`` one of that library's, a folder is in BEIR
    layout, and of a file of documents known-item queries are made. ``split`` chooses the judgements of a folder (''
    takes the first of test, dev and train). ``cache_dir`` and ``progress`` are as in `stdlib.documents`. Raises
    CollectionError naming what is wrong and the fix.
    """
    if spec == builtin.NAME:
        return builtin.load(cache_dir, progress)
    if spec.startswith(ir_datasets_source.PREFIX):
        return ir_datasets_source.load(spec.removeprefix(ir_datasets_source.PREFIX))
    path = Path(spec).expanduser()
    if path.is_dir():
        return beir.load(path, split)
    if path.is_file():
        return known_items.load(path)
    raise CollectionError(f"{spec!r} is no collection: there is no such file or folder; name {WHAT}")
