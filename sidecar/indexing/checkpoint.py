"""A ColBERT checkpoint in Stanford's format: where it lies, that it can be used, and its digest."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass
from pathlib import Path

from sidecar import json_text
from sidecar.indexing.manifest import IndexFolderError, IndexManifest, sha256

METADATA_FILE = "artifact.metadata"
# Weights, configuration and tokenizer; nothing else of a checkpoint can change a vector. Never pickles, never code.
FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    METADATA_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``name`` is what the user called it (an absolute folder, or a hub name with the commit ``revision``), ``folder``
    where its files are, ``digest`` 64 hex digits over all of them."""

    name: str
    revision: str
    folder: Path
    digest: str


def resolve(model: str, revision: str = "", *, download: bool) -> Checkpoint:
    """The checkpoint of a folder or a hub name; only with ``download`` may the hub be asked.

    Raises IndexFolderError: it is not there, not in Stanford's format, or has no safetensors.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        folder = local.resolve()
        name, revision = str(folder), ""
    else:
        folder = _from_hub(model, revision, download)
        name, revision = model, folder.name  # a snapshot's folder is named after its commit
    _check(folder, name)
    return Checkpoint(name, revision, folder, _digest(folder))


def of_index(folder: Path, manifest: IndexManifest) -> Checkpoint:
    """The checkpoint that an index was built from, without the network.

    Raises IndexFolderError when it is gone or has changed: its query vectors would not fit the index.
    """
    checkpoint = resolve(manifest.checkpoint, manifest.checkpoint_revision, download=False)
    if checkpoint.digest != manifest.checkpoint_digest:
        raise IndexFolderError(
            f"{folder} is stale: the checkpoint {manifest.checkpoint} has changed since (digest "
            f"{checkpoint.digest[:12]}... instead of {manifest.checkpoint_digest[:12]}...); build the index again"
        )
    return checkpoint


def _from_hub(model: str, revision: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            model, revision=revision or None, allow_patterns=list(FILES), local_files_only=not download
        )
    except Exception as error:  # the hub's client, its HTTP library and the file system raise what they like
        where = "on the hub or in its local cache" if download else "in the hub's local cache"
        at = f" at revision {revision}" if revision else ""
        raise IndexFolderError(
            f"checkpoint {model!r}{at} is no folder and not {where} ({type(error).__name__}); name a folder, or "
            "download it first"
        ) from error
    return Path(found)


def _check(folder: Path, name: str) -> None:
    if not (folder / METADATA_FILE).is_file():
        raise IndexFolderError(f"checkpoint {name} has no {METADATA_FILE}: it is not in Stanford's ColBERT format")
    try:
        config = json_text.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise IndexFolderError(f"checkpoint {name}: config.json cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict) or "auto_map" in config:
        # Loading it would run Python code that comes with the checkpoint.
        raise IndexFolderError(
            f"checkpoint {name}: config.json asks for code of its own (auto_map), which is never run"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise IndexFolderError(
            f"checkpoint {name} has no *.safetensors; pickled weights are never loaded: convert them"
        )
    if not any("linear.weight" in _tensor_names(path) for path in weights):
        raise IndexFolderError(
            f"checkpoint {name} has no linear.weight: it holds an encoder, but no ColBERT projection"
        )


def _tensor_names(path: Path) -> frozenset[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return frozenset(file.keys())
    except (OSError, SafetensorError) as error:
        raise IndexFolderError(f"{path} cannot be read ({error}): get the checkpoint again") from error


def _digest(folder: Path) -> str:
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in FILES)
    )
    whole = hashlib.sha256()
    for name in names:
        whole.update(f"{name}={sha256(folder / name)}\n".encode())
    return whole.hexdigest()
