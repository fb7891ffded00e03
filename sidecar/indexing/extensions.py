"""The C++ parts of colbert-ai: compiled ahead of time, loaded ready-made.

Left alone, colbert-ai compiles them when they are first needed, which takes minutes and would be on a request. Here
`compile_missing` does it while an index or an image is built, and `load` only ever loads what is there. They lie under
``TORCH_EXTENSIONS_DIR`` (by default torch's cache folder), in a folder that is named after everything their binary
interface depends on: an extension is never loaded into another torch than it was compiled for.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sidecar.indexing.manifest import IndexFolderError

# Extension -> its source in the colbert package; what colbert-ai 0.2.22 loads where there is no GPU.
SOURCES = {
    "filter_pids_cpp": "search/filter_pids.cpp",
    "decompress_residuals_cpp": "search/decompress_residuals.cpp",
    "segmented_lookup_cpp": "search/segmented_lookup.cpp",
    "segmented_maxsim_cpp": "modeling/segmented_maxsim.cpp",
}


def folder() -> Path:
    """Where the extensions for this Python, torch and colbert-ai lie, or would."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("torch", "colbert-ai"))
    return root / "millirank" / f"{sys.implementation.cache_tag}-{versions}"


def missing() -> tuple[str, ...]:
    """Names of the extensions that are not compiled yet."""
    return tuple(name for name in SOURCES if not _library(name).is_file())


def compile_missing(advance: Callable[[int], None]) -> None:
    """Compiles what is not there yet: about half a minute for each, told to ``advance``. Raises IndexFolderError."""
    for name in missing():
        _compile(name)
        advance(1)


def load() -> None:
    """Gives colbert-ai its extensions, so that it never compiles anything. Raises IndexFolderError."""
    lacking = missing()
    if lacking:
        raise IndexFolderError(
            f"the search extensions are not compiled in {folder()}: run `millirank index --compile` there, "
            "while the image or the index is built"
        )
    from colbert.modeling.colbert import ColBERT
    from colbert.search.index_storage import IndexScorer
    from colbert.search.strided_tensor import StridedTensor

    modules: dict[str, Any] = {name: _load(name) for name in SOURCES}
    IndexScorer.filter_pids = modules["filter_pids_cpp"].filter_pids_cpp
    IndexScorer.decompress_residuals = modules["decompress_residuals_cpp"].decompress_residuals_cpp
    StridedTensor.segmented_lookup = modules["segmented_lookup_cpp"].segmented_lookup_cpp
    ColBERT.segmented_maxsim = modules["segmented_maxsim_cpp"].segmented_maxsim_cpp
    for owner in (IndexScorer, StridedTensor, ColBERT):
        owner.loaded_extensions = True  # colbert-ai's own mark: it compiles only where this is missing


def _library(name: str) -> Path:
    return folder() / name / f"{name}.so"


def _load(name: str) -> ModuleType:
    path = _library(name)
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise IndexFolderError(f"{path} is no extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise IndexFolderError(f"{path} cannot be loaded ({error}): delete it and compile it again") from error
    return module


def _compile(name: str) -> None:
    import colbert
    from torch.utils import cpp_extension

    if shutil.which(cpp_extension.get_cxx_compiler()) is None:
        raise IndexFolderError("the search extensions need a C++ compiler; on Debian and Ubuntu: apt-get install g++")
    source = Path(colbert.__file__).parent / SOURCES[name]
    target = _library(name).parent
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside, then renamed: torch leaves a lock behind when it is killed, on which the next compilation waits for ever.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as beside, _ninja_on_path():
        try:
            cpp_extension.load(name=name, sources=[str(source)], extra_cflags=["-O3"], build_directory=beside)
        except (RuntimeError, ImportError) as error:
            raise IndexFolderError(f"{source.name} cannot be compiled: {error}") from error
        target.mkdir(exist_ok=True)
        (Path(beside) / f"{name}.so").replace(_library(name))


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """torch looks for ninja on the PATH, where the one of a virtual environment that is not activated does not lie."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
