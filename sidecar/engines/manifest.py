"""A model folder and its manifest, ``model.json``: what the files are, and that they are those files."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sidecar import json_text

MANIFEST_FILE = "model.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_POSITIONS = 512  # of BERT, and of a manifest that does not say
ENGINE_VERSION = "onnx/1"  # raise it when the engine's own arithmetic or truncation changes


class ModelError(Exception):
    """A model folder cannot be used. The message names the file, what is wrong and what to do."""


class Kind(StrEnum):
    """What a model computes."""

    TOKEN_ENCODER = "token_encoder"  # noqa: S105 - a kind of model, not a password
    CROSS_ENCODER = "cross_encoder"


@dataclass(frozen=True, slots=True)
class Truncation:
    """Where texts are cut, in tokens, special tokens included.

    ``max_tokens`` bounds a document for a token encoder and the whole pair for a cross-encoder; ``query_max_tokens``
    bounds the query in both.
    """

    max_tokens: int
    query_max_tokens: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of ``model.json`` in ``folder``. ``files`` are (file name, SHA-256 in hex).

    ``token_dim`` and ``sentence_dim`` are 0 for a cross-encoder. ``maxsim_ratio`` is what brings MaxSim to the scale of
    the cosine (see `sidecar.engines.vectors`). ``batch_tokens`` bounds a batch in padded tokens; 1 runs
    every text alone. ``positions`` is the longest input, in tokens, that the model has learnt. ``precision`` and
    ``source`` are for people: "int8" or "fp32", and what the model was made from; "" is not known.
    """

    folder: Path
    name: str
    kind: Kind
    files: tuple[tuple[str, str], ...]
    truncation: Truncation
    token_dim: int
    sentence_dim: int
    maxsim_ratio: float
    batch_tokens: int = 1
    positions: int = DEFAULT_POSITIONS
    precision: str = ""
    source: str = ""

    def truncated(self, max_tokens: int | None) -> Truncation:
        """The manifest's truncation, with the document limit replaced where one is configured.

        Raises ModelError when the limit leaves no room for a document beside the longest query.
        """
        if max_tokens is None:
            return self.truncation
        least = 8 if self.kind is Kind.TOKEN_ENCODER else self.truncation.query_max_tokens + 8
        if not least <= max_tokens <= self.positions:
            raise ModelError(f"max_tokens of {self.name} is {max_tokens}; use {least} to {self.positions}")
        return Truncation(max_tokens, self.truncation.query_max_tokens)

    def revision(self, truncation: Truncation, batch_tokens: int) -> str:
        """12 hex digits that change whenever a score could: files, truncation, batching, engine or its libraries."""
        parts = [ENGINE_VERSION, self.kind.value, repr(self.maxsim_ratio), repr(truncation), str(batch_tokens)]
        parts += [f"{package}={importlib.metadata.version(package)}" for package in ("onnxruntime", "tokenizers")]
        parts += [f"{name}={digest}" for name, digest in self.files]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Reads ``model.json``; the files themselves are checked by `verified`. Raises ModelError."""
    path = folder / MANIFEST_FILE
    try:
        data = json_text.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} is missing: a model folder holds {MODEL_FILE}, {TOKENIZER_FILE}, {path.name}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object")
    try:
        manifest = Manifest(
            folder=folder,
            name=str(data["name"]),
            kind=Kind(data["kind"]),
            files=tuple(sorted((str(name), str(digest)) for name, digest in data["files"].items())),
            truncation=Truncation(int(data["max_tokens"]), int(data["query_max_tokens"])),
            token_dim=int(data["token_dim"]),
            sentence_dim=int(data["sentence_dim"]),
            maxsim_ratio=float(data["maxsim_ratio"]),
            batch_tokens=_positive(data, "batch_tokens", 1),
            positions=_positive(data, "positions", DEFAULT_POSITIONS),
            precision=str(data.get("precision", "")),
            source=str(data.get("source", "")),
        )
    except KeyError as error:
        raise ModelError(f"{path} lacks the key {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} has a bad value: {error}") from error
    strange = [name for name, _ in manifest.files if Path(name).name != name]
    if strange:
        raise ModelError(f"{path} names {strange[0]!r}: the files of a model stand in its own folder")
    missing = {MODEL_FILE, TOKENIZER_FILE} - {name for name, _ in manifest.files}
    if missing:
        raise ModelError(f"{path} names no SHA-256 for {', '.join(sorted(missing))}: add it under 'files'")
    return manifest


def _positive(data: Mapping[str, Any], key: str, default: int) -> int:
    value = int(data.get(key, default))
    if value < 1:
        raise ValueError(f"{key} is {value}, but at least 1 is needed")
    return value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(manifest: Manifest, name: str) -> Path:
    """The path of one file of the model folder, after its SHA-256 was compared with the manifest's.

    Raises ModelError, which names the file and the fix.
    """
    path = manifest.folder / name
    try:
        actual = sha256(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    expected = dict(manifest.files)[name]
    if actual != expected:
        raise ModelError(
            f"{path} is not the file that {MANIFEST_FILE} names: SHA-256 {actual[:12]}... instead of "
            f"{expected[:12]}... ({path.stat().st_size:,} bytes); install the model again"
        )
    return path
