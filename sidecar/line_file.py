"""A bounded file of JSON lines that a thread of its own writes: handing a record over never waits for a disk."""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.logs import place

RecordT = TypeVar("RecordT")

_log = logging.getLogger("millirank.records")

# Records that wait for the disk; more are dropped, and counted.
WAITING = 1024
_CLOSE_S = 5.0
_BLOCK = 65536


class LineFile(Generic[RecordT]):
    """Appends to ``path`` until that would exceed ``max_bytes``; then the file becomes ``path``.1, over the one before,
    so that at most twice as much is kept. For one process alone.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        encode: Callable[[RecordT, bool], str],
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        """``encode`` gives a record's lines, each with its newline; told True, the file is new and has nothing that
        lines may refer to. It is called in the thread. ``on_drop`` is told of every record that is lost, in any thread.
        Raises OSError when the file can't be opened.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._encode = encode
        self._on_drop = on_drop
        # Also where another process has written before: what that one's lines refer to is not known here.
        self._new = True
        self._size = 0
        self._file = self._open()
        self._records: queue.Queue[RecordT | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name=f"write {path.name}", daemon=True)
        self._thread.start()

    def put(self, record: RecordT) -> None:
        """Hand a record over, which nobody may change any more. Never blocks: with too many waiting it is dropped."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._on_drop()

    def close(self) -> None:
        """Write what waits and close the file. Blocks, for seconds at most where the disk hangs."""
        try:
            self._records.put(None, timeout=_CLOSE_S)
        except queue.Full:
            return  # the disk hangs; the thread ends with the process
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        failing = False
        while (record := self._records.get()) is not None:
            try:
                self._write(record)
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever one record does, the next one is written
                self._on_drop()
                if not failing:  # once, not for every record while a disk is full
                    why = error.strerror if isinstance(error, OSError) else place(error)
                    _log.error("records can't be written", extra={"file": str(self._path), "error": why})
                failing = True
        os.close(self._file)

    def _write(self, record: RecordT) -> None:
        encoded = self._encode(record, self._new).encode()
        if not self._new and self._size + len(encoded) > self._max_bytes:
            full = self._file
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
            self._new = True
            os.close(full)
            encoded = self._encode(record, self._new).encode()
        written = os.write(self._file, encoded)
        if written < len(encoded):
            os.ftruncate(self._file, self._size)  # half a line would spoil the next one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._new = False

    def _open(self) -> int:
        # For its owner alone: there is no text in it, but how much is searched is nobody's business either.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = _whole_lines(file)
        os.ftruncate(file, self._size)
        return file


def _whole_lines(file: int) -> int:
    """Bytes up to the end of the last whole line: a process that was killed may have left half of one."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
