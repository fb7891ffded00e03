"""Where models live on this machine, and what a model's name in the settings means.

Exported models are folders under ``models`` in the cache directory. Pulled checkpoints stay in the Hugging Face cache,
where sentence-transformers finds them too; ``pulled`` holds a record of each, with the commit and the digests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sidecar import embedded, json_text
from sidecar.calibrate.stdlib import default_cache_dir
from sidecar.engines.manifest import MANIFEST_FILE, ModelError, sha256

EMBEDDED_PREFIX = "embedded:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint from the hub: ``commit`` in hex, and the SHA-256 of every file, by its path in ``folder``."""

    name: str
    commit: str
    folder: str
    files: Mapping[str, str]


class ModelStore:
    """The models under one cache directory. ``root`` None takes `default_cache_dir`; nothing is created by reading."""

    def __init__(self, root: Path | None = None) -> None:
        base = root or default_cache_dir()
        self._models = base / "models"
        self._pulled = base / "pulled"

    def folder(self, name: str) -> Path:
        """Where the exported model ``name`` is or would be. Raises ModelError for a name that is none."""
        return self._models / _file_name(name)

    def resolve(self, model: str) -> Path:
        """The model folder that ``model`` means: 'embedded:NAME', a folder, or the name of an exported model.

        Raises ModelError, which says what to run when the model is not there.
        """
        if model.startswith(EMBEDDED_PREFIX):
            try:
                return embedded.model_dir(model.removeprefix(EMBEDDED_PREFIX))
            except ValueError as error:
                raise ModelError(str(error)) from error
        path = Path(model).expanduser()
        if (path / MANIFEST_FILE).is_file():
            return path
        if path.is_dir():
            raise ModelError(
                f"{path} has no {MANIFEST_FILE}: for a Hugging Face checkpoint, run `millirank models export {model}`"
            )
        if NAME.fullmatch(model) and (self.folder(model) / MANIFEST_FILE).is_file():
            return self.folder(model)
        if NAME.fullmatch(model) is None:
            raise ModelError(f"{model} is not a folder: correct the path, or see `millirank models list` for names")
        if self._record(model).is_file():
            raise ModelError(f"{model} was pulled, but not exported: run `millirank models export {model}`")
        raise ModelError(
            f"{model} is neither a folder nor an exported model: run `millirank models pull {model}` where there is a "
            f"network and `millirank models export {model}`, or choose one of `millirank models list`"
        )

    def exported(self) -> list[Path]:
        """The folders of all exported models, sorted by name; those with a dot are exports under way."""
        if not self._models.is_dir():
            return []
        return sorted(path for path in self._models.iterdir() if path.is_dir() and not path.name.startswith("."))

    def pulled(self) -> list[Pulled]:
        """All pulled checkpoints, sorted by name. Raises ModelError for a damaged record."""
        return [_read_record(path) for path in sorted(self._pulled.glob("*.json"))]

    def remember(self, checkpoint: Pulled) -> None:
        """Writes the record of a checkpoint that was pulled. Raises OSError."""
        self._pulled.mkdir(parents=True, exist_ok=True)
        path = self._record(checkpoint.name)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(checkpoint), indent=2) + "\n", encoding="utf-8")
        partial.replace(path)

    def checkpoint(self, source: str) -> tuple[Path, str]:
        """The folder of a checkpoint to export, and where it is from, for people.

        ``source`` is a folder or the name of a pulled checkpoint. Raises ModelError.
        """
        path = Path(source).expanduser()
        if path.is_dir():
            return path, path.resolve().name
        if NAME.fullmatch(source) is None:
            raise ModelError(f"{source} is not a folder: correct the path")
        record = self._record(source)
        if not record.is_file():
            raise ModelError(f"{source} is neither a folder nor pulled: run `millirank models pull {source}` first")
        found = _read_record(record)
        if not Path(found.folder).is_dir():
            raise ModelError(f"{found.folder} is gone: run `millirank models pull {source}` again")
        return Path(found.folder), f"{found.name} at commit {found.commit}"

    def _record(self, name: str) -> Path:
        return self._pulled / f"{_file_name(name)}.json"


def damaged_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """The names among ``files`` (name -> SHA-256) that are missing or not what the digest says, sorted."""
    bad = []
    for name, digest in sorted(files.items()):
        try:
            if sha256(folder / name) != digest:
                bad.append(name)
        except OSError:
            bad.append(name)
    return bad


def _file_name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ModelError(f"{name!r} is no name of a model: use letters, digits, '.', '_', '-' and at most one '/'")
    return name.replace("/", "--")


def _read_record(path: Path) -> Pulled:
    try:
        data = json_text.loads(path.read_bytes())
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        return Pulled(str(data["name"]), str(data["commit"]), str(data["folder"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({error!r}): remove it and pull the model again") from error
