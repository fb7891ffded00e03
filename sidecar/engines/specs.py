"""What a worker process can be asked to run: one plain dataclass per engine. Light, because the parent imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sidecar.engines.manifest import Kind, Manifest, Truncation


@dataclass(frozen=True, slots=True)
class OnnxSpec:
    """A model folder on ONNX Runtime.

    The manifest is the parent's, from which it knows the model's revision: a child started later must not find
    another. ``token_budget`` bounds a batch in padded tokens (1: every text alone); ``provider`` is where it runs.
    """

    manifest: Manifest
    truncation: Truncation
    token_budget: int
    provider: str = "cpu"


@dataclass(frozen=True, slots=True)
class TorchSpec:
    """A Hugging Face model through sentence-transformers: a hub name or a local folder.

    ``revision`` is the commit of a hub name ('' for a folder, or for what is in the local cache); ``backend`` torch,
    onnx or openvino; ``device`` cpu, cuda, ...; ``dtype`` float32, float16 or bfloat16; ``batch_tokens`` bounds one run
    of the model in padded tokens (0: as suits the device).
    """

    model: str
    kind: Kind
    truncation: Truncation
    revision: str = ""
    backend: str = "torch"
    device: str = "cpu"
    dtype: str = "float32"
    batch_tokens: int = 0


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """Late interaction over indexes that were built before: (collection, folder) each."""

    collections: tuple[tuple[str, Path], ...]


Spec: TypeAlias = OnnxSpec | TorchSpec | IndexSpec
