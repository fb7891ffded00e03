"""How much disk the base install takes: the client and the server, without extras, in a fresh environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tests.bench.processes import ROOT
from tests.bench.progress import Steps
from tests.bench.report import BenchError, Row, Section, Spread

_TIMEOUT_S = 240.0
_TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""What a fresh environment brings along itself, by the beginning of its file names."""
_LARGEST = 4


def measure(folder: Path, steps: Steps) -> Section:
    """Install ``./clients/python`` and ``.`` into a new environment and weigh its site-packages.

    Raises BenchError with pip's last words when that fails.
    """
    steps.begin("install", 2)
    steps.now("making an environment")
    environment = folder / "venv"
    _run([sys.executable, "-m", "venv", str(environment)])
    steps.done()
    steps.now("pip install ./clients/python .")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "./clients/python", "."])
    steps.done()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    sizes = {one.name: _size_mb(one) for one in packages.iterdir() if not one.name.startswith(_TOOLS)}
    if not any(name.startswith("sidecar") for name in sizes):
        raise BenchError(f"the install left no sidecar in {packages.name}; is pyproject.toml's wheel target right?")
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_LARGEST]
    return Section(
        title="Base install",
        rows=(
            Row("site-packages without pip and setuptools", {"mb": Spread.of([total])}),
            *(Row(f"  of which {name}", {"mb": Spread.of([size])}) for name, size in largest),
            Row("the whole environment", {"mb": Spread.of([_size_mb(environment)])}),
        ),
        figures={"install_mb": total},
        notes=("sizes of files in MB of 10^6 bytes, compiled bytecode included",),
    )


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, cwd=ROOT, check=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.TimeoutExpired:
        raise BenchError(
            f"installing took more than {_TIMEOUT_S:g} s; try again, or leave it out: --no-install"
        ) from None
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise BenchError(f"installing failed: {words[-1] if words else 'pip said nothing'}") from None


def _size_mb(path: Path) -> float:
    """Links are not followed: what they point to is not part of the install."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size / 1e6
    return sum(_size_mb(one) for one in path.iterdir())
