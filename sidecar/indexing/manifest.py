"""An index folder and its manifest, ``index.json``: what the files are, and that they are those files.

The folder holds the PLAID index as RAGatouille writes it (``RAGPretrainedModel.from_index`` reads it too) and, beside
it, this manifest. A folder without a manifest, or with another one than its files, is not served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sidecar import json_text
from sidecar.engines.manifest import ModelError

MANIFEST_FILE = "index.json"
IDS_FILE = "pid_docid_map.json"
FORMAT = "millirank.index/1"  # raise it when an index built by an older version must not be served any more


class IndexFolderError(ModelError):
    """An index folder cannot be used, or not be made. The message names the folder or file, and the fix."""


@dataclass(frozen=True, slots=True)
class IndexManifest:
    """Contents of ``index.json``.

    ``checkpoint`` is a folder or a hub name (then ``checkpoint_revision`` is its commit), ``checkpoint_digest`` that of
    its files; ``max_tokens`` is where documents were cut; ``documents`` counts them; ``files`` are (file name, SHA-256
    in hex) of everything else in the folder.
    """

    collection: str
    checkpoint: str
    checkpoint_revision: str
    checkpoint_digest: str
    max_tokens: int
    documents: int
    files: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """12 hex digits that change whenever a score could."""
        parts = [self.checkpoint_digest, str(self.max_tokens), *(f"{name}={digest}" for name, digest in self.files)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()


def read_manifest(folder: Path) -> IndexManifest:
    """Reads ``index.json``; the files themselves are checked by `verify`. Raises IndexFolderError."""
    path = folder / MANIFEST_FILE
    try:
        data = json_text.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise IndexFolderError(f"{path} is missing: build the index with `millirank index`") from error
    except (OSError, ValueError) as error:
        raise IndexFolderError(f"{path} cannot be read ({type(error).__name__}): build the index again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise IndexFolderError(f"{path} is stale: its format is {found!r}, not {FORMAT!r}; build the index again")
    try:
        return IndexManifest(**_values(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IndexFolderError(f"{path} is damaged ({error}): build the index again") from error


def write_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Writes ``index.json``."""
    data = {"format": FORMAT} | {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    data["files"] = dict(manifest.files)
    (folder / MANIFEST_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def digests(folder: Path) -> tuple[tuple[str, str], ...]:
    """(name, SHA-256) of every file in an index folder but the manifest, sorted by name."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    return tuple((name, sha256(folder / name)) for name in names)


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Compares every file with the manifest: about a second for each gigabyte. Raises IndexFolderError."""
    for name, expected in manifest.files:
        path = folder / name
        try:
            actual = sha256(path)
        except OSError as error:
            raise IndexFolderError(f"{path} cannot be read ({error.strerror}): build the index again") from error
        if actual != expected:
            raise IndexFolderError(
                f"{path} is damaged: SHA-256 {actual[:12]}... instead of {expected[:12]}...; build the index again"
            )


def read_ids(folder: Path) -> dict[str, int]:
    """Document id -> its number in the index (RAGatouille's "pid"). Raises IndexFolderError."""
    path = folder / IDS_FILE
    try:
        return {str(identifier): int(pid) for pid, identifier in json_text.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise IndexFolderError(f"{path} cannot be read ({type(error).__name__}): build the index again") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _values(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "collection": str(data["collection"]),
        "checkpoint": str(data["checkpoint"]),
        "checkpoint_revision": str(data["checkpoint_revision"]),
        "checkpoint_digest": str(data["checkpoint_digest"]),
        "max_tokens": int(data["max_tokens"]),
        "documents": int(data["documents"]),
        "files": tuple(sorted((str(name), str(digest)) for name, digest in data["files"].items())),
    }
