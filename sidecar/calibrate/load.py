"""One word for a collection -> the collection."""

from __future__ import annotations

from pathlib import Path

from sidecar.calibrate import beir, builtin
from sidecar.calibrate.collection import Collection, CollectionError

WHAT = "a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/), or built-in"


def load_collection(spec: str, *, split: str = "", cache_dir: Path | None = None, progress: bool = True) -> Collection:
    """The collection that ``spec`` names: ``built-in`` or a folder in BEIR layout.

    ``split`` chooses the judgements of a folder ('' takes the first of test, dev and train). ``cache_dir`` and
    ``progress`` are as in `stdlib.documents`. Raises CollectionError naming what is wrong and the fix.
    """
    if spec == builtin.NAME:
        return builtin.load(cache_dir, progress)
    path = Path(spec).expanduser()
    if path.is_dir():
        return beir.load(path, split)
    raise CollectionError(f"{spec!r} is no collection: there is no such folder; name {WHAT}")
