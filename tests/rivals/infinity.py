"""infinity-emb from the package index, serving a local cross-encoder on loopback.

Its requirements contradict this project's, so it lives in an environment of its own, in ``build/rivals`` or under
``$MILLIRANK_CACHE_DIR``. Set PIP_FIND_LINKS where a CPU build of torch lies; otherwise pip takes what the index has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_REQUIREMENTS = _HERE / "infinity.txt"
_STAMP = "requirements.sha256"
# Importing torch takes about 10 s of CPU; a machine that is shared may need many times that. Only a hang reaches this.
PATIENCE_S = 180.0
MODEL = "rival"


def folder() -> Path:
    """Where the environment is, or will be."""
    cache = os.environ.get("MILLIRANK_CACHE_DIR")
    return (Path(cache) if cache else _HERE.parents[1] / "build") / "rivals" / "infinity"


def is_set_up() -> bool:
    """Whether the environment is complete and has what the requirements ask for now."""
    stamp = folder() / _STAMP
    return stamp.is_file() and stamp.read_text() == _digest()


def set_up() -> None:
    """Make the environment unless it is there; pip says what it does. Raises CalledProcessError."""
    if is_set_up():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder()], check=True)
    # Compiling all of it takes longer than what is imported ever saves.
    options = ["--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    subprocess.run([_python(), "-m", "pip", *options, "-r", _REQUIREMENTS], check=True)
    (folder() / _STAMP).write_text(_digest())


def tiny_cross_encoder(checkpoint: Path, query: str, texts: Sequence[str]) -> list[float]:
    """Write a random little BERT into ``checkpoint``; gives what it scores each text, computed without infinity."""
    script = _HERE / "tiny_cross_encoder.py"
    done = subprocess.run(
        [_python(), script, checkpoint],
        input=json.dumps([query, *texts]),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [float(score) for score in json.loads(done.stdout)]


@contextlib.contextmanager
def served(checkpoint: Path, log: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server of ``checkpoint`` as model `MODEL`: gives its base URL once it is healthy, kills it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}"
    command = [folder() / "bin" / "infinity_emb", "v2", "--model-id", checkpoint, "--served-model-name", MODEL]
    # BetterTransformer is gone from the versions of torch that this one runs on.
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--no-bettertransformer", *arguments]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        **(variables or {}),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_until_healthy(base_url, process, log)
            yield base_url
        finally:
            process.kill()
            process.wait()


def _wait_until_healthy(base_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if direct.open(f"{base_url}/health", timeout=5).status == 200:
                return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"infinity did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def _python() -> Path:
    return folder() / "bin" / "python"


def _digest() -> str:
    return hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
