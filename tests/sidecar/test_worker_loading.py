"""A worker process that starts: models that are damaged or too large, children that are none, what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.arms import State
from sidecar.engines.manifest import ModelError
from sidecar.rerankers.base import NotReadyError
from sidecar.worker_messages import HEADER, Loaded, unpack
from sidecar.worker_process import Patience
from tests.rerankers.local_models import MINILM, copy_model
from tests.sidecar.workers import SHORT, Start, busy, load

pytest_plugins = ("tests.sidecar.workers",)


def flipped(model: bytes) -> bytes:
    """The model with one bit changed."""
    middle = len(model) // 2
    return model[:middle] + bytes([model[middle] ^ 1]) + model[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), ["model.onnx", "No such file"]),
        (
            lambda folder: (folder / "model.onnx").write_bytes((MINILM / "model.onnx").read_bytes()[:1_000_000]),
            ["model.onnx", "SHA-256", "1,000,000 bytes"],
        ),
        (
            lambda folder: (folder / "model.onnx").write_bytes(flipped((MINILM / "model.onnx").read_bytes())),
            ["model.onnx", "SHA-256", "install the model again"],
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), ["tokenizer.json", "SHA-256"]),
    ],
    ids=["missing", "half a file", "one bit", "tokenizer"],
)
async def test_a_damaged_model_is_off(
    start: Start, tmp_path: Path, damage: Callable[[Path], object], said: list[str]
) -> None:
    """Files that are not the manifest's: OFF with file and reason, no restarts, and this process lives on."""
    loaded = load(copy_model(MINILM, tmp_path / "model"))
    damage(tmp_path / "model")
    worker = await start(loaded)
    assert worker.availability().state is State.OFF
    assert all(words in worker.availability().detail for words in said), worker.availability().detail
    assert worker.pid is None
    with pytest.raises(NotReadyError, match="test-model"):
        await worker.call(SHORT, 30.0, 10.0)


async def test_a_corrupt_model_with_a_right_digest_is_off(start: Start, tmp_path: Path) -> None:
    """A file that ONNX Runtime cannot load is OFF with the reason, although the manifest vouches for it."""
    folder = copy_model(MINILM, tmp_path / "model", change=lambda model: model[: len(model) // 2])
    worker = await start(load(folder))
    assert worker.availability().state is State.OFF
    assert "model.onnx cannot be loaded" in worker.availability().detail


async def test_a_model_error_is_off_from_the_beginning(start: Start) -> None:
    """What is known to be unusable starts no process."""
    worker = await start(ModelError("the disk is on fire"))
    assert worker.availability().state is State.OFF
    assert worker.availability().detail == "the disk is on fire"
    assert worker.pid is None


def fake_python(folder: Path, script: str) -> str:
    """An executable that stands in for the interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


async def test_a_child_that_cannot_be_understood_is_off(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that can't be read, as from files of another version, is OFF with the reason and no restart."""
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, r"printf '\0\0\0\0\0\0\0\3abc'; exec sleep 60"))
    worker = await start(load())
    assert worker.availability().state is State.OFF
    assert "can't be understood" in worker.availability().detail
    assert worker.pid is None


async def test_a_child_that_exits_says_with_which_code(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exit while loading counts as a death, and the exit code is in the reason."""
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, "exit 7"))
    worker = await start(load(), Patience(first_pause_s=0.01, deaths_per_minute=3))
    assert worker.availability().detail == "the model process exited with code 7; that was death 3 within a minute"


async def test_a_child_that_cannot_be_started(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No interpreter, no process: OFF with the system's reason."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    worker = await start(load(), Patience(first_pause_s=0.01, deaths_per_minute=2))
    assert worker.availability().state is State.OFF
    assert "could not be started: No such file" in worker.availability().detail


async def test_loading_has_a_limit(start: Start) -> None:
    """A child that does not become ready in time is killed, and counts as a death."""
    worker = await start(load(), Patience(load_s=0.05, first_pause_s=0.01, deaths_per_minute=2))
    assert worker.availability().state is State.OFF
    assert "loading took longer than 0.05 s" in worker.availability().detail


async def test_a_child_may_not_allocate_more_than_its_share(start: Start) -> None:
    """With 30 MB or less the model is OFF with the reason; with enough it works, and the kernel holds the child to it.

    Where it ends with too few is the libraries' affair, and each says it otherwise.
    """
    for too_few in (
        30_000_000,
        25_000_000,
        20_000_000,
    ):
        starved = await start(replace(load(), memory_bytes=too_few))
        assert starved.availability().state is State.OFF
        assert f"does not fit into memory_bytes ({too_few:,})" in starved.availability().detail
    worker = await start(replace(load(), memory_bytes=1_000_000_000))
    (limit,) = [
        line.split()[3:5]
        for line in Path(f"/proc/{worker.pid}/limits").read_text(encoding="utf-8").splitlines()
        if line.startswith("Max data size")
    ]
    assert limit == ["1000000000", "1000000000"]
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_memory_of_the_child(start: Start) -> None:
    """The child with the larger embedded model stays within 128 MB: no arena, no second copy of the model (23 MB).

    It takes 102 to 120 by what the allocator has happened to give back, less where others use the same libraries.
    """
    worker = await start(load())
    await worker.call(busy(), 30.0, 10.0)
    rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text(encoding="utf-8")
    (kilobytes,) = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    assert kilobytes < 128 * 1024


def test_a_stray_print_cannot_corrupt_a_frame() -> None:
    """Whatever is written to stdout in the child goes to stderr; the pipe carries frames only."""
    program = (
        "import os; from sidecar.worker import Channel; from sidecar.worker_messages import Loaded;"
        "channel = Channel(); print('stray', flush=True); os.write(1, b'stray'); channel.send(Loaded())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    (length,) = HEADER.unpack(done.stdout[: HEADER.size])
    assert len(done.stdout) == HEADER.size + length
    assert unpack(done.stdout[HEADER.size :]) == Loaded()
    assert done.stderr.count(b"stray") == 2


def modules_after(statement: str) -> set[str]:
    """Top-level names of what a fresh interpreter has imported after a statement."""
    program = f"import json, sys; {statement}; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_the_child_imports_no_server() -> None:
    """The child stays small: nothing of gRPC, pydantic, openai or telemetry."""
    heavy = {"grpc", "google", "pydantic", "openai", "opentelemetry", "multiprocessing", "cachetools", "rich"}
    assert not modules_after("import sidecar.worker") & heavy


def test_the_parent_imports_no_engine() -> None:
    """The parent never loads what only the child needs."""
    statement = "import sidecar.rerankers.cross_encoder, sidecar.rerankers.late_interaction"
    assert not modules_after(statement) & {"numpy", "onnxruntime", "tokenizers"}
