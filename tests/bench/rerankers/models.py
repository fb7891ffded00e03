"""The one set of weights that everybody runs, in each contender's own format; made once, kept in the cache folder."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rerankers.child import Child
from tests.rivals.environment import HERE, ROOT, cache

_TIMEOUT_S = 1_800.0
_PROGRAMS = ROOT / "tests" / "bench" / "rivals"
_ENGINES = ROOT / "sidecar" / "engines"
_FLASHRANK_NAME = "ms-marco-MiniLM-L-12-v2"
_FLASHRANK_FILE = "flashrank-MiniLM-L-12-v2_Q.onnx"
_PRECISIONS = ("fp32", "int8")
_ONNX_FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}


@dataclass(frozen=True, slots=True)
class Models:
    """Where the formats are, or will be. A folder is named by what it is made from, so that none is ever stale."""

    root: Path

    @classmethod
    def of_this_checkout(cls) -> Models:
        """In the cache folder."""
        return cls(cache() / "models")

    @property
    def checkpoint(self) -> Path:
        """Hugging Face format, safetensors."""
        return self.root / f"checkpoint-{_digest(_PROGRAMS / 'prepare_checkpoint.py')}"

    @property
    def colbert(self) -> Path:
        """The same body under a ColBERT head, in Stanford's format."""
        return self._derived("colbert")

    @property
    def own(self) -> Mapping[str, Path]:
        """This project's model folders by precision."""
        made_by = sorted((_ENGINES / "export").glob("*.py"))
        key = _digest(_PROGRAMS / "prepare_own.py", _ENGINES / "onnx.py", *made_by)
        return {precision: self._derived(f"own-{precision}-{key}") for precision in _PRECISIONS}

    @property
    def onnx(self) -> Mapping[str, Path]:
        """The rivals' ONNX files by precision, each in a checkpoint folder of its own."""
        return {precision: self._onnx_folder / precision / name for precision, name in _ONNX_FILES.items()}

    def flashrank(self, precision: str) -> Path:
        """FlashRank's model folder, in a cache folder of its own."""
        return self._onnx_folder / f"flashrank-{precision}" / _FLASHRANK_NAME

    @property
    def _onnx_folder(self) -> Path:
        key = _digest(_PROGRAMS / "prepare_onnx.py", HERE / "sentence-transformers-onnx.txt")
        return self._derived(f"onnx-{key}")

    def _derived(self, name: str) -> Path:
        return self.root / f"{name}-{self.checkpoint.name.removeprefix('checkpoint-')}"

    def make_checkpoint(self, folder: Path, tick: Callable[[], None]) -> None:
        """Unless it is there. Raises ChildError."""
        self._by_program("cross_encoder", self.checkpoint, folder, tick)

    def make_colbert(self, folder: Path, tick: Callable[[], None]) -> None:
        """Unless it is there. Raises ChildError."""
        self._by_program("colbert", self.colbert, folder, tick)

    def _by_program(self, operation: str, target: Path, folder: Path, tick: Callable[[], None]) -> None:
        if target.exists():
            return
        unfinished = _fresh(target)
        request = {"operation": operation, "folder": str(unfinished)}
        _run(sys.executable, "prepare_checkpoint", {}, (request,), folder, tick)
        unfinished.rename(target)

    def make_own(self, threads: int, folder: Path, tick: Callable[[], None]) -> None:
        """Exports both precisions unless they are there. Raises ChildError."""
        for precision, target in self.own.items():
            if target.exists():
                continue
            request = {"operation": "export", "precision": precision, "folder": str(target), "threads": threads}
            _run(sys.executable, "prepare_own", {"checkpoint": str(self.checkpoint)}, (request,), folder, tick)

    def make_onnx(self, python: Path, folder: Path, tick: Callable[[], None]) -> None:
        """Unless they are there: with the interpreter ``python``, which has optimum. Raises ChildError."""
        target = self._onnx_folder
        if target.exists():
            return
        unfinished = _fresh(target)
        arguments = {"checkpoint": str(self.checkpoint), "folder": str(unfinished)}
        _run(python, "prepare_onnx", arguments, ({"operation": "export"},), folder, tick)
        for precision, name in _ONNX_FILES.items():
            model = unfinished / f"flashrank-{precision}" / _FLASHRANK_NAME
            shutil.copytree(unfinished / precision, model, ignore=shutil.ignore_patterns("*.onnx", "*.safetensors"))
            shutil.copyfile(unfinished / precision / name, model / _FLASHRANK_FILE)
        unfinished.rename(target)


def _run(
    python: Path | str,
    module: str,
    arguments: Mapping[str, Any],
    requests: tuple[Mapping[str, Any], ...],
    folder: Path,
    tick: Callable[[], None],
) -> None:
    with Child(module, Path(python), module, folder / f"{module}.log", tick) as child:
        child.ask(arguments, _TIMEOUT_S)
        for request in requests:
            child.ask(request, _TIMEOUT_S)


def _fresh(target: Path) -> Path:
    """An empty folder beside ``target``: a run that is stopped leaves nothing that looks finished."""
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
