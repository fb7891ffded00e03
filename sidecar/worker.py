"""The process that computes: one model, one task at a time, requests on stdin, replies on stdout.

Started by `sidecar.worker_process` as ``python -m sidecar.worker PARENT``, the parent's process id. A tokenizer may
hold the GIL for long and a model can't be interrupted; here neither can stall the event loop, and the whole process can
be killed. It imports nothing of the server, so that it starts fast and stays small.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
import time

from sidecar import cpu_slice
from sidecar.engines import models
from sidecar.engines.manifest import ModelError
from sidecar.engines.models import Model
from sidecar.worker_messages import (
    HEADER,
    Broken,
    Call,
    Close,
    Done,
    Failed,
    Load,
    Loaded,
    Ready,
    Rehearse,
    Rehearsed,
    Reply,
    pack,
    unpack,
)

_PR_SET_PDEATHSIG = 1


class Channel:
    """Frames over two file descriptors that nothing else in this process knows."""

    def __init__(self) -> None:
        """Takes stdin and stdout over: a stray print goes to stderr and can't end up inside a frame."""
        self._requests = os.fdopen(os.dup(0), "rb")
        self._replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def receive(self) -> object:
        """The next message; `Close` when the parent has closed its end, which it also does by dying."""
        header = self._requests.read(HEADER.size)
        if len(header) < HEADER.size:
            return Close()
        (length,) = HEADER.unpack(header)
        body = self._requests.read(length)
        return unpack(body) if len(body) == length else Close()

    def send(self, message: Reply) -> None:
        """Writes one frame. Raises BrokenPipeError when the parent is gone."""
        self._replies.write(pack(message))
        self._replies.flush()


def _run(model: Model, call: Call) -> Done | Broken:
    started = time.perf_counter()
    try:
        task = call.task
        result = Rehearsed(*model.rehearse(task.step)) if isinstance(task, Rehearse) else model.run(task)
    except Exception as error:  # noqa: BLE001 - whatever a task does, the process lives on
        return Broken(call.id, models.failure(error))
    return Done(call.id, result, (time.perf_counter() - started) * 1e3)


def _return_free_memory() -> None:
    """Gives what loading left behind back to the system: about 15 MB that glibc would keep for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc only
        trim(0)


def _serve(channel: Channel) -> int:
    load = channel.receive()
    if not isinstance(load, Load):
        return 0
    os.nice(load.niceness)
    if load.memory_bytes:
        # Private writable memory. Allocating more fails, and with it the call or the loading, but not the machine.
        resource.setrlimit(resource.RLIMIT_DATA, (load.memory_bytes, load.memory_bytes))
    try:
        model = models.load(load)
        channel.send(Loaded())
        samples = model.warm_up()
    except ModelError as error:
        channel.send(Failed(str(error)))
        return 1
    except Exception as error:  # noqa: BLE001 - no user's text is in play yet, so that the message may be passed on
        channel.send(Failed(_why_not_loaded(error, load)))
        return 1
    _return_free_memory()
    channel.send(Ready(tuple(samples), model.revision, models.kept(model)))
    while isinstance(call := channel.receive(), Call):
        channel.send(_run(model, call))
    return 0


def _why_not_loaded(error: Exception, load: Load) -> str:
    # Where even a library's own data do not fit, the dynamic linker says so, in words of its own; the kernel by number.
    out_of_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if out_of_memory or (load.memory_bytes and "failed to map segment" in str(error)):
        return f"the model does not fit into memory_bytes ({load.memory_bytes:,}); raise it"
    return f"{type(error).__name__}: {error}"


def _end_with(parent: int) -> None:
    """Linux: the kernel kills this process when its parent dies, also while it loads and reads no pipe.

    Raises SystemExit when the parent, a process id, is gone already.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            raise SystemExit(0)


def main() -> int:
    """Serves until the parent says so or is gone. Returns the exit code."""
    _end_with(int(sys.argv[1]))
    # Inherited is the event loop's, who is not to wait for this one.
    cpu_slice.ask_for(cpu_slice.WORKER_MS)
    # The parent decides: Ctrl-C and a service manager's SIGTERM reach the whole group, but accepted calls are answered.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        return _serve(Channel())
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
