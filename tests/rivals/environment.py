"""An environment of its own for a program that is measured: made once by pip from pinned files, kept in a cache folder.

Environments lie in ``build/rivals`` or under ``$MILLIRANK_CACHE_DIR``. Set PIP_FIND_LINKS where a CPU build of torch
lies; otherwise pip takes what the index has.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

_STAMP = "requirements.sha256"
_TIMEOUT_S = 1_200.0
_POLL_S = 0.5
# What a fresh environment brings along itself, by the beginning of its file names.
_TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")


class SetUpError(RuntimeError):
    """An environment could not be made. The message says which one and quotes pip's last words."""


def cache() -> Path:
    """Where environments, and the models that are measured in them, are kept."""
    chosen = os.environ.get("MILLIRANK_CACHE_DIR")
    return (Path(chosen) if chosen else ROOT / "build") / "rivals"


@dataclass(frozen=True, slots=True)
class Environment:
    """``requirements`` are pip's requirement files; they are read with the project's folder as the current one.

    ``manifests`` are further files that the requirements follow from; ``sources`` are folders that are installed by
    reference (``pip install -e``).
    """

    name: str
    requirements: tuple[Path, ...]
    manifests: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return cache() / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def is_set_up(self) -> bool:
        """Whether it is complete and has what the requirements ask for now."""
        stamp = self.folder / _STAMP
        return self.python.exists() and stamp.is_file() and stamp.read_text() == self._digest()

    def set_up(self, tick: Callable[[], None]) -> None:
        """Make it, or bring it up to date, unless it is as it should be. ``tick`` is called while pip works.

        Raises SetUpError.
        """
        if self.is_set_up():
            return
        if not (self.folder / _STAMP).exists():  # never finished, or never begun
            self._run([sys.executable, "-m", "venv", "--clear", str(self.folder)], tick)
        # Compiling all of it takes longer than what is imported ever saves.
        options = ["--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-compile"]
        files = [word for file in self.requirements for word in ("-r", str(file))]
        self._run([str(self.python), "-m", "pip", *options, *files], tick)
        (self.folder / _STAMP).write_text(self._digest())

    def size_mb(self) -> float:
        """Files of its site-packages without pip and setuptools, and of its `sources`, in MB of 10^6 bytes.

        Compiled bytecode is left out: whether it is there depends on what was imported so far.
        """
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(self.folder), "platbase": str(self.folder)}))
        installed = [one for one in packages.iterdir() if not one.name.startswith(_TOOLS)]
        return sum(size for one in (*installed, *self.sources) for size in _sizes(one)) / 1e6

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for file in (*self.requirements, *self.manifests):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def _run(self, command: Sequence[str], tick: Callable[[], None]) -> None:
        end = time.monotonic() + _TIMEOUT_S
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops pip
        )
        try:
            while True:
                try:
                    _, errors = process.communicate(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > end:
                        raise SetUpError(f"{self.name}: pip took more than {_TIMEOUT_S:g} s") from None
                    tick()
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            last = [line for line in errors.strip().splitlines() if not line.startswith("[notice]")][-1:]
            raise SetUpError(f"{self.name}: {last[0] if last else 'pip failed and said nothing'}")


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of every file; links are not followed: what they point to is not part of the install."""
    if path.is_symlink() or path.is_file():
        yield path.lstat().st_size
    elif path.name != "__pycache__":
        for one in path.iterdir():
            yield from _sizes(one)
