"""Token vectors on disk, so that a sidecar which starts again is warm at once: one SQLite file, one process.

Reading is on a request's path and takes about 0.1 ms a document, once: then it is in memory. Writing is not: a thread
of its own writes, so that neither a sync nor a disk that stalls delays an answer (handing 10 documents over takes
0.4 ms; encoding them takes hundreds). The file is only ever a copy of what could be computed again: whatever goes
wrong with it ends its use, never the process.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import queue
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidecar.engines.vectors import DocumentVectors

FORMAT = 1  # of the tables and of `pack`; a file of another format is emptied
APPLICATION_ID = 0x4D524B56  # "MRKV": says that a database is ours and may be emptied
# What a document takes in the file beside its vectors: its place in two indexes, and the rest of its last half page.
ROW_OVERHEAD = 200
HALF_PAGE = 2_048
PENDING_DOCUMENTS = 256  # beyond that the disk is too slow: documents stay in memory only
LOCK_PATIENCE_S = 2.0  # the process before this one may still be ending
WRITER_PATIENCE_S = 30.0  # somebody may be copying the file
CLOSE_S = 0.5

_RECORD = struct.Struct("<IHHH")  # checksum of what follows the header, tokens, dimensions, sentence dimensions
_INSERT = "INSERT OR REPLACE INTO vectors (digest, bytes, data) VALUES (?, ?, ?)"
_SCHEMA = f"""
    BEGIN;
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {FORMAT};
    CREATE TABLE model (revision TEXT NOT NULL);
    CREATE TABLE vectors (
        number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, data BLOB NOT NULL
    );
    CREATE INDEX ages ON vectors (number, digest, bytes); -- all that opening has to read
"""  # the transaction is ended by who names the revision


class VectorFileError(Exception):
    """The file can't be used. The message says which file, why, and what to do."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one transaction writes."""

    rows: list[tuple[bytes, int, bytes]]
    gone: list[tuple[bytes]]


class VectorFile:
    """Vectors by document digest, of one model revision, at most ``max_bytes`` of them; the oldest leave first.

    For one thread, beside the one that it starts itself. The index (digest and size) is in memory, about 200 bytes
    per document. The file may be larger than ``max_bytes`` by its journal, which is about 4 MB.
    """

    def __init__(self, path: Path, revision: str, max_bytes: int) -> None:
        """Opens or creates the file, readable by its owner only; documents' texts can be guessed from vectors.

        Emptied when it was written with another model revision or is larger than ``max_bytes`` allows; moved aside
        to ``NAME.damaged`` when it can't be read: `remark` says so. Raises VectorFileError when the folder does not
        exist, the file is no vector file, or another process uses it.
        """
        self.remark = ""
        self._path = path
        self._max_bytes = max_bytes
        self._failure = ""
        self._failing = threading.Lock()
        self._lock = _locked(path)
        try:
            self._reader, self._index = self._open(revision)
            # Here, not in its thread: once the file is moved aside nothing may open its old name.
            self._connection = _connect(path, timeout_s=WRITER_PATIENCE_S, check_same_thread=False)
        except (sqlite3.Error, OSError, VectorFileError) as error:
            os.close(self._lock)
            if isinstance(error, VectorFileError):
                raise
            raise VectorFileError(f"vector_file {path} can't be opened: {error}") from None
        self._bytes = sum(self._index.values())
        self._pending: dict[bytes, DocumentVectors] = {}  # given to the writer and not in the file yet
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="vector file", daemon=True)
        self._writer.start()
        atexit.register(self.close)
        self._let_go(self._oldest(), [])

    @property
    def failure(self) -> str:
        """Why the file is used no more, for the operator; '' while all is well."""
        return self._failure

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of all documents in the file, the oldest first."""
        return tuple(self._index)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._index

    def read(self, digests: Iterable[bytes]) -> dict[bytes, DocumentVectors]:
        """The vectors of those that are in the file."""
        found = {}
        for digest in digests:
            if digest not in self._index or self._failure:
                continue
            entry = self._pending.get(digest)
            if entry is None:
                try:
                    row = self._reader.execute("SELECT data FROM vectors WHERE digest = ?", (digest,)).fetchone()
                    entry = unpack(row[0]) if row else None
                except (sqlite3.Error, ValueError) as error:
                    self._fail(error)
                    continue
            if entry is not None:
                found[digest] = entry
            else:
                self._bytes -= self._index.pop(digest)  # somebody else has deleted it
        return found

    def put(self, entries: Mapping[bytes, DocumentVectors]) -> list[bytes]:
        """Writes documents behind the caller's back; returns the digests that leave for them.

        A document that is larger than the file, or comes while the disk is far behind, is not written.
        """
        fresh = []
        for digest, entry in entries.items():
            size = stored_bytes(entry)
            if digest in self._index or size > self._max_bytes or len(self._pending) >= PENDING_DOCUMENTS:
                continue
            self._index[digest] = size
            self._bytes += size
            self._pending[digest] = entry
            fresh.append(digest)
        gone = self._oldest()
        kept = [digest for digest in fresh if digest in self._index]
        self._let_go(gone, [(digest, self._index[digest], pack(entries[digest])) for digest in kept])
        return gone

    def close(self) -> None:
        """Writes what is pending, for at most `CLOSE_S` seconds, and lets the file go. Idempotent."""
        if self._lock < 0:
            return
        atexit.unregister(self.close)
        self._batches.put(None)
        self._writer.join(CLOSE_S)
        self._reader.close()
        os.close(self._lock)
        self._lock = -1

    def _open(self, revision: str) -> tuple[sqlite3.Connection, dict[bytes, int]]:
        """The connection that reads, and the index. Begins anew where what is there is of no use."""
        try:
            known = _revision_of(self._path)
            if known == revision and self._path.stat().st_size <= 1.1 * self._max_bytes + (1 << 20):
                return _read_index(self._path)
            if known:
                why = "is larger than vector_file_bytes" if known == revision else "was of another model revision"
                self.remark = f"vector_file {self._path} {why} and has been emptied"
        except sqlite3.OperationalError:
            raise  # not damage: no space, no permission
        except sqlite3.DatabaseError as error:
            _set_aside(self._path)
            self.remark = f"vector_file {self._path} was damaged ({error}); moved to {_damaged(self._path)}, begun anew"
        _remove(self._path)
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's journal gets the same mode
        reader = _connect(self._path)
        reader.executescript(_SCHEMA)
        reader.execute("INSERT INTO model VALUES (?)", (revision,))
        reader.execute("COMMIT")
        return reader, {}

    def _oldest(self) -> list[bytes]:
        """Takes the oldest off the index until the rest fits."""
        gone = []
        while self._bytes > self._max_bytes:
            digest = next(iter(self._index))
            self._bytes -= self._index.pop(digest)
            self._pending.pop(digest, None)
            gone.append(digest)
        return gone

    def _let_go(self, gone: list[bytes], rows: list[tuple[bytes, int, bytes]]) -> None:
        if gone or rows:
            self._batches.put(_Batch(rows, [(digest,) for digest in gone]))

    def _write(self) -> None:
        """The writer thread: one transaction per batch, in the order given."""
        connection = self._connection
        try:
            while (batch := self._batches.get()) is not None and not self._failure:
                with connection:
                    connection.execute("BEGIN")
                    # In this order, so that the file grows by no more than it has to.
                    connection.executemany("DELETE FROM vectors WHERE digest = ?", batch.gone)
                    connection.executemany(_INSERT, batch.rows)
                # Only now: until the transaction has ended a reader does not see it.
                for digest, _, _ in batch.rows:
                    self._pending.pop(digest, None)
        except sqlite3.Error as error:
            self._fail(error)
        finally:
            connection.close()

    def _fail(self, error: Exception) -> None:
        """Ends the file's use; called by either thread. The caller of `read` and `put` sees it by `failure`."""
        with self._failing:
            if self._failure:
                return
            words = f"vector_file {self._path} is used no more until the next start: {error}"
            if not isinstance(error, sqlite3.OperationalError):
                # The next start must not find the same damage again.
                try:
                    _set_aside(self._path)
                    words += f"; moved to {_damaged(self._path)}"
                except OSError as hindrance:
                    words += f"; delete it by hand ({hindrance.strerror})"
            self._failure = words


def stored_bytes(entry: DocumentVectors) -> int:
    """What a document takes in the file."""
    size = entry.tokens.nbytes + entry.scales.nbytes + entry.sentence.nbytes + ROW_OVERHEAD
    return -(-size // HALF_PAGE) * HALF_PAGE


def pack(entry: DocumentVectors) -> bytes:
    """A document as it is stored: little-endian, with a checksum."""
    body = b"".join(
        (
            entry.tokens.tobytes(),
            entry.scales.astype("<f4", copy=False).tobytes(),
            entry.sentence.astype("<f2", copy=False).tobytes(),
        )
    )
    return _RECORD.pack(zlib.crc32(body), *entry.tokens.shape, len(entry.sentence)) + body


def unpack(data: bytes) -> DocumentVectors:
    """The document. Raises ValueError when it is not what `pack` made."""
    if len(data) < _RECORD.size:
        raise ValueError("a record is cut off")
    checksum, count, dimensions, sentence = _RECORD.unpack_from(data)
    scales_at = _RECORD.size + count * dimensions
    sentence_at = scales_at + 4 * count
    body = memoryview(data)[_RECORD.size :]
    if len(data) != sentence_at + 2 * sentence or zlib.crc32(body) != checksum:
        raise ValueError("a record does not match its checksum")
    return DocumentVectors(
        np.frombuffer(data, np.int8, count * dimensions, _RECORD.size).reshape(count, dimensions),
        np.frombuffer(data, "<f4", count, scales_at),
        np.frombuffer(data, "<f2", sentence, sentence_at),
    )


def _locked(path: Path) -> int:
    """A descriptor that holds the file for this process alone.

    Two sidecars with one file would each bound their own half of it and delete what the other one believes to have.
    The lock is on a file beside it: closing any descriptor of a database takes SQLite's own locks away.
    """
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise VectorFileError(f"vector_file {path} can't be opened: {error.strerror}; create its folder") from None
    end = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                raise VectorFileError(
                    f"vector_file {path} is in use by another process; give every reranker of every sidecar its own"
                ) from None
            time.sleep(0.05)
        else:
            return descriptor


def _revision_of(path: Path) -> str:
    """The model revision that a file was written with; '' where there is none. Raises VectorFileError for a database
    of something else, sqlite3.DatabaseError for what is no database."""
    if not path.exists() or path.stat().st_size == 0:
        return ""
    connection = sqlite3.connect(path)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            return ""  # the process that began it ended at once
        if application != APPLICATION_ID:
            raise VectorFileError(f"vector_file {path} is a database of something else; name another file")
        if version != FORMAT:
            return f"format {version}"
        (revision,) = connection.execute("SELECT revision FROM model").fetchone()
        return str(revision)
    finally:
        connection.close()


def _read_index(path: Path) -> tuple[sqlite3.Connection, dict[bytes, int]]:
    """A connection, and (digest, size) of every document, the oldest first."""
    connection = _connect(path)
    try:
        return connection, dict(connection.execute("SELECT digest, bytes FROM vectors ORDER BY number"))
    except sqlite3.Error:
        connection.close()
        raise


def _connect(path: Path, *, timeout_s: float = 1.0, check_same_thread: bool = True) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=check_same_thread)
    try:
        # With a write-ahead log reading never waits for writing. NORMAL syncs only when the log is carried over, in the
        # writer's thread, and yet a power cut can't damage the file; all that it can cost is the newest documents.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def _set_aside(path: Path) -> None:
    path.replace(_damaged(path))
    _remove(path)


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
