"""Where documents' vectors are kept: in memory and, if there is a file, on disk under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sidecar.engines.vector_file import VectorFile, VectorFileError
from sidecar.engines.vectors import DocumentVectors, VectorStore
from sidecar.worker_messages import StoreChange

REPORTED = 65_536  # digests of documents on disk that the parent is told of at the start: 1 MB


class KeptVectors:
    """Every document goes to both places, and leaves each by that one's bound. It is gone when it is in neither.

    What was read from disk goes to memory, because it is likely to be asked for again.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._memory = VectorStore(memory_bytes)
        self._file: VectorFile | None = None
        self._added: list[bytes] = []
        self._left: list[bytes] = []  # one of the two places, or they were looked for in vain
        self._remark = ""

    def use_file(self, path: Path, revision: str, max_bytes: int) -> None:
        """Keeps vectors in a file as well. One that can't be used does not raise: the next `changed` says why."""
        try:
            self._file = VectorFile(path, revision, max_bytes)
        except VectorFileError as error:
            self._remark = f"{error}; vectors are kept in memory only"
        else:
            self._remark = self._file.remark
            self._added += self._file.digests[-REPORTED:]

    def find(self, digests: Iterable[bytes]) -> dict[bytes, DocumentVectors]:
        """The vectors of those that are kept."""
        found: dict[bytes, DocumentVectors] = {}
        elsewhere = []
        for digest in digests:
            entry = self._memory.get(digest)
            if entry is not None:
                found[digest] = entry
            elif self._file is not None:
                elsewhere.append(digest)
        if self._file is not None and elsewhere:
            read = self._file.read(elsewhere)
            for digest, entry in read.items():
                self._left += self._memory.put(digest, entry)
            self._added += read  # the parent may not have known: it was told of `REPORTED` of them
            self._left += elsewhere
            found |= read
        return found

    def keep(self, fresh: Mapping[bytes, DocumentVectors]) -> None:
        """Keeps documents that were just encoded."""
        for digest, entry in fresh.items():
            self._left += self._memory.put(digest, entry)
        if self._file is not None:
            self._left += self._file.put(fresh)
        self._added += fresh

    def changed(self) -> StoreChange:
        """What the parent has to know since it was told last."""
        if self._file is not None and self._file.failure:
            self._left += self._file.digests
            self._remark = self._file.failure
            self._file.close()
            self._file = None
        change = StoreChange(
            tuple(dict.fromkeys(self._added)),
            tuple(digest for digest in dict.fromkeys(self._left) if digest not in self),
            self._remark,
        )
        self._added.clear()
        self._left.clear()
        self._remark = ""
        return change

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._memory or (self._file is not None and digest in self._file)
