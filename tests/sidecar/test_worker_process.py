"""Worker processes and their parent: who goes first, and what happens when either end dies, hangs or is broken."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio

from router.admission import Claim, Level
from router.arms import Availability, State
from sidecar.engines.manifest import ModelError, read_manifest
from sidecar.engines.specs import OnnxSpec
from sidecar.rerankers.base import BackendError, NotReadyError
from sidecar.scheduler import Scheduling
from sidecar.worker_messages import HEADER, Encode, Load, Loaded, ScoreLate, ScorePairs, Task, unpack
from sidecar.worker_pool import WorkerPool
from sidecar.worker_process import Answer, Patience
from tests.rerankers.local_models import MINILM, copy_model, until

SHORT = ScoreLate("a query", ((b"short", "a short text"),))
# A loaded machine makes a call of some hundred milliseconds take seconds: only the tests of the limit run into it.
PATIENT = Patience(call_s=60.0)
IMPATIENT = Patience(call_s=1.5, first_pause_s=0.05)


class Worker:
    """A pool of one child, as a caller uses it that waits for a turn of its own."""

    def __init__(self, loaded: Load | ModelError, patience: Patience, count: int = 1) -> None:
        self.pool = WorkerPool(
            "test-model",
            loaded,
            patience,
            Scheduling(),
            on_ready=lambda ready: None,
            on_result=lambda result: None,
            count=count,
        )

    @property
    def pid(self) -> int | None:
        return self.pool.pid

    def availability(self) -> Availability:
        return self.pool.availability()

    def queue_ms(self) -> float:
        """How long one with the latest deadline would wait."""
        return self.pool.scheduler.queue_ms(math.inf)

    async def call(self, task: Task[T], timeout_s: float | None, estimate_ms: float) -> Answer[T]:
        """``timeout_s`` None: ahead of time, when nobody else waits."""
        self.pool.check_ready()
        now = asyncio.get_running_loop().time()
        level, end = (Level.IDLE, math.inf) if timeout_s is None else (Level.MANDATORY, now + timeout_s)
        claim = Claim(level, end, estimate_ms / 1e3, arrived=now)
        with (
            self.pool.scheduler.squeeze_in(claim) as place,
            await place.next_turn(level, estimate_ms / 1e3) as turn,
        ):
            turn.expected_s = estimate_ms / 1e3
            return await self.pool.call(task, turn)

    async def close(self) -> None:
        await self.pool.close()


T = TypeVar("T")
Start = Callable[..., Awaitable[Worker]]


def load(folder: Path = MINILM) -> Load:
    """The embedded token encoder, one thread."""
    manifest = read_manifest(folder)
    spec = OnnxSpec(manifest, manifest.truncation, token_budget=1)
    return Load(spec, threads=1, niceness=0, vector_bytes=1 << 20)


def busy(number: int = 0, texts: int = 8) -> ScoreLate:
    """A task that keeps the child busy for some hundred milliseconds; every number is another one."""
    many = tuple((f"{number}-{i}".encode(), f"{number} {i} " + "busy " * 150) for i in range(texts))
    return ScoreLate("a query", many)


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Starts worker processes and waits until they have loaded or failed; closes them afterwards."""
    started: list[Worker] = []

    async def begin(loaded: Load | ModelError, patience: Patience = PATIENT, count: int = 1) -> Worker:
        worker = Worker(loaded, patience, count)
        started.append(worker)
        worker.pool.start()
        await until(lambda: worker.availability().state is not State.WARMING)
        return worker

    yield begin
    for worker in started:
        await worker.close()


async def ready_again(worker: Worker, than: int | None) -> None:
    """Waits for a new child."""
    await until(lambda: worker.availability().state is State.READY and worker.pid != than)


def alive(pid: int) -> bool:
    """Whether a process exists, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_earliest_deadline_first(start: Start) -> None:
    """Waiting calls are served by deadline, not by arrival, and one without a deadline comes last."""
    worker = await start(load())
    order: list[str] = []

    async def call(name: str, timeout_s: float | None, texts: int = 1) -> None:
        await worker.call(busy(hash(name), texts), timeout_s, 10.0)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(call("first", 30.0, texts=4))
        await asyncio.sleep(0)
        for name, timeout_s in (("never", None), ("late", 29.0), ("soon", 27.0), ("middle", 28.0)):
            group.create_task(call(name, timeout_s))
    assert order == ["first", "soon", "middle", "late", "never"]


async def test_a_call_that_times_out(start: Start) -> None:
    """TimeoutError comes in time while the child goes on; its late answer is dropped, the next call gets its own."""
    worker = await start(load())
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await worker.call(busy(), 0.05, 10.0)
    assert time.monotonic() - started < 0.2
    asked = time.monotonic()
    answer = await worker.call(SHORT, 30.0, 10.0)
    assert len(answer.result.scores) == 1
    assert (time.monotonic() - asked) * 1e3 > answer.compute_ms + 10.0, "it had to wait for the call that was left"


async def test_a_cancelled_waiter_leaves_the_queue(start: Start) -> None:
    """A waiting call whose caller is cancelled is gone at once, from the queue and from the estimate of it."""
    worker = await start(load())
    running = asyncio.create_task(worker.call(busy(), 30.0, 0.0))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(worker.call(busy(1), 90.0, 60_000.0))
    await asyncio.sleep(0)
    assert worker.queue_ms() >= 60_000.0
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert worker.queue_ms() < 10_000.0
    await running


async def test_queue_estimate(start: Start) -> None:
    """Nothing to do is 0; then the rest of the call under way plus the estimates of those waiting."""
    worker = await start(load())
    assert worker.queue_ms() == 0.0
    calls = [asyncio.create_task(worker.call(busy(i, 2), 30.0, 5_000.0)) for i in range(3)]
    await asyncio.sleep(0.01)
    assert 14_500.0 < worker.queue_ms() <= 15_000.0
    await asyncio.gather(*calls)
    assert worker.queue_ms() == 0.0


async def test_a_hung_child_looks_busier_by_the_second(start: Start) -> None:
    """A call that is late by x is expected to need x more, so that nobody plans with a child that hangs."""
    worker = await start(load())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await worker.call(SHORT, 0.1, 1.0)
    early = worker.queue_ms()
    await asyncio.sleep(0.3)
    assert worker.queue_ms() > early + 250.0


async def test_the_event_loop_goes_on(start: Start) -> None:
    """While a frame of 2 MB travels and the child computes, the loop is free for others."""
    worker = await start(load())
    texts = tuple((bytes([number]), f"{number} " + "text " * 20_000) for number in range(20))
    started = time.monotonic()
    call = asyncio.create_task(worker.call(Encode(texts), 60.0, 10.0))
    longest = 0.0
    while not call.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - before)
    await call
    assert longest < (time.monotonic() - started) / 4


async def test_a_killed_child_is_replaced(start: Start) -> None:
    """SIGKILL in the middle of a call: BackendError that names the signal, a new child, and answers again."""
    worker = await start(load(), IMPATIENT)
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(), 30.0, 10.0))
    waiting = asyncio.create_task(worker.call(busy(1), 30.0, 10.0))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="SIGKILL"):
        await call
    with pytest.raises(BackendError):
        await waiting
    assert worker.availability().state is State.WARMING
    with pytest.raises(NotReadyError):
        await worker.call(SHORT, 30.0, 10.0)
    await ready_again(worker, than=pid)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_a_frozen_child_is_killed_and_replaced(start: Start) -> None:
    """SIGSTOP: the caller gets its TimeoutError in time; after the hard limit the child is killed and replaced."""
    worker = await start(load(), IMPATIENT)
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await worker.call(SHORT, 0.2, 10.0)
    assert time.monotonic() - started < 0.4
    with pytest.raises(BackendError, match=r"took longer than 1\.5 s"):
        await worker.call(SHORT, 30.0, 10.0)
    assert time.monotonic() - started < 3.0
    await ready_again(worker, than=pid)
    assert not alive(pid)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_too_many_deaths_switch_it_off(start: Start) -> None:
    """A child that dies again and again within a minute is OFF with the reason, not restarted for ever."""
    worker = await start(load(), Patience(first_pause_s=0.01, deaths_per_minute=2))
    first = worker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await ready_again(worker, than=first)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: worker.availability().state is State.OFF)
    assert "SIGKILL" in worker.availability().detail
    assert worker.pid is None


async def test_loading_has_a_limit(start: Start) -> None:
    """A child that does not become ready in time is killed, and counts as a death."""
    worker = await start(load(), Patience(load_s=0.05, first_pause_s=0.01, deaths_per_minute=2))
    assert worker.availability().state is State.OFF
    assert "loading took longer than 0.05 s" in worker.availability().detail


async def test_a_failed_task_leaves_the_child_alive(start: Start) -> None:
    """A task that raises is a BackendError that names type and place but no text; the same child answers the next."""
    worker = await start(load())
    pid = worker.pid
    with pytest.raises(BackendError) as caught:
        await worker.call(ScorePairs("zyzzyva", ("zyzzyva",)), 30.0, 10.0)
    assert "TypeError" in str(caught.value)
    assert "zyzzyva" not in str(caught.value)
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores
    assert worker.pid == pid


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


async def test_memory_of_the_child(start: Start) -> None:
    """The child with the larger embedded model stays within 120 MB: no arena, no second copy of the model."""
    worker = await start(load())
    await worker.call(busy(), 30.0, 10.0)
    rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text(encoding="utf-8")
    (kilobytes,) = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    assert kilobytes < 120 * 1024


async def test_close_leaves_nothing_behind(start: Start) -> None:
    """After close: no process, no zombie, no descriptor, and the call under way is told."""
    descriptors = len(os.listdir("/proc/self/fd"))
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(texts=2), 30.0, 10.0))
    await asyncio.sleep(0.01)
    await worker.close()
    with pytest.raises(NotReadyError, match="closed"):
        await call
    assert not alive(pid)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, within_s=2.0)


async def test_close_kills_a_frozen_child(start: Start) -> None:
    """A child that does not hear is killed after a second."""
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    await worker.close()
    assert time.monotonic() - started < 4.0
    assert not alive(pid)


async def test_close_during_a_pause(start: Start) -> None:
    """Closing does not wait for the pause before a restart."""
    worker = await start(load(), Patience(first_pause_s=30.0))
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: "restarting in 30 s" in worker.availability().detail)
    started = time.monotonic()
    await worker.close()
    assert time.monotonic() - started < 1.0


async def test_the_child_ignores_signals_meant_for_the_parent(start: Start) -> None:
    """Ctrl-C and a service manager's SIGTERM to the whole group do not cost the calls under way."""
    worker = await start(load())
    pid = worker.pid
    assert pid is not None
    call = asyncio.create_task(worker.call(busy(), 30.0, 10.0))
    await asyncio.sleep(0.02)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert len((await call).result.scores) == 8
    assert worker.pid == pid


async def test_two_children_compute_side_by_side(start: Start) -> None:
    """With two children two calls run at the same time; when one child dies, the other serves alone."""
    worker = await start(load(), PATIENT, count=2)
    await until(lambda: all(process.idle for process in worker.pool.processes))
    first, second = (process.pid for process in worker.pool.processes)
    assert first is not None
    assert first != second
    await asyncio.gather(worker.call(busy(1), 30.0, 10.0), worker.call(busy(2), 30.0, 10.0))
    assert all(process.computed_ms > 0 for process in worker.pool.processes)
    os.kill(first, signal.SIGKILL)
    await until(lambda: not worker.pool.processes[0].idle)
    assert worker.availability().state is State.READY
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


async def test_a_child_may_not_allocate_more_than_its_share(start: Start) -> None:
    """With 30 MB the model is OFF with the reason; with enough it works, and the kernel holds the child to it."""
    starved = await start(replace(load(), memory_bytes=30_000_000))
    assert starved.availability().state is State.OFF
    assert "does not fit into memory_bytes (30,000,000)" in starved.availability().detail
    worker = await start(replace(load(), memory_bytes=1_000_000_000))
    (limit,) = [
        line.split()[3:5]
        for line in Path(f"/proc/{worker.pid}/limits").read_text(encoding="utf-8").splitlines()
        if line.startswith("Max data size")
    ]
    assert limit == ["1000000000", "1000000000"]
    assert (await worker.call(SHORT, 30.0, 10.0)).result.scores


PARENT = """
import asyncio, sys
from pathlib import Path
from router.arms import State, Strategy
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.loadable import RunOptions, onnx_model

async def main():
    model = onnx_model(Path(sys.argv[1]), Strategy.LATE_INTERACTION, RunOptions())
    reranker = LateInteraction("m", model)
    await reranker.start()
    while reranker.availability().state is not State.READY:
        await asyncio.sleep(0.01)
    print(reranker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_child_follows_its_parent() -> None:
    """A parent that is killed leaves no orphan behind."""
    with subprocess.Popen([sys.executable, "-c", PARENT, str(MINILM)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(child)
        parent.kill()
    await until(lambda: not alive(child), within_s=5.0)


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
