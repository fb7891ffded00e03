"""The file of token vectors: what was put in is found again, within its size, and damage is noticed."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecar.engines.kept_vectors import KeptVectors
from sidecar.engines.vector_file import PENDING_DOCUMENTS, VectorFile, VectorFileError, pack, stored_bytes, unpack
from sidecar.engines.vectors import DocumentVectors, quantise

MIB = 1 << 20
TOKENS = 20
Open = Callable[..., VectorFile]


def entry(seed: int, tokens: int = TOKENS) -> DocumentVectors:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((tokens, 128), np.float32)
    return quantise(vectors, generator.standard_normal(384, np.float32))


SIZE = stored_bytes(entry(0))


def entries(first: int, last: int) -> dict[bytes, DocumentVectors]:
    return {bytes([number]) * 16: entry(number) for number in range(first, last)}


def same(one: DocumentVectors, other: DocumentVectors) -> bool:
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in ((one.tokens, other.tokens), (one.scales, other.scales), (one.sentence, other.sentence))
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


@pytest.fixture
def open_file(path: Path) -> Iterator[Open]:
    """Opens the file at ``path``; whatever was opened is closed afterwards."""
    opened: list[VectorFile] = []

    def begin(revision: str = "r1", max_bytes: int = MIB) -> VectorFile:
        opened.append(VectorFile(path, revision, max_bytes))
        return opened[-1]

    yield begin
    for file in opened:
        file.close()


def test_a_document_survives_packing() -> None:
    """Same numbers, same types; also without tokens' or a sentence's vectors."""
    whole = entry(1)
    bare = DocumentVectors(whole.tokens, whole.scales, np.zeros(0, np.float16))
    for each in (whole, bare):
        assert same(unpack(pack(each)), each)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:5], lambda data: data[:-1] + b"\x7f"])
def test_a_record_that_is_not_whole_is_noticed(damage: Callable[[bytes], bytes]) -> None:
    """Cut off or with another byte in it: a ValueError, never other vectors."""
    with pytest.raises(ValueError, match="record"):
        unpack(damage(pack(entry(1))))


def test_documents_are_found_again(open_file: Open) -> None:
    """Before they are written, afterwards, and after the file was closed and opened again."""
    file = open_file()
    assert file.put(entries(0, 9)) == []
    before = file.read(entries(0, 12))
    file.close()
    again = open_file()
    assert (again.remark, len(again.digests)) == ("", 9)
    after = again.read(entries(0, 12))
    assert list(before) == list(after) == list(entries(0, 9))
    for digest, expected in entries(0, 9).items():
        assert same(before[digest], expected)
        assert same(after[digest], expected)


def test_the_oldest_leave(open_file: Open) -> None:
    """Bounded by bytes, the first ones in leave first, and who puts is told; so it is after opening again, too."""
    file = open_file(max_bytes=4 * SIZE)
    assert file.put(entries(0, 4)) == []
    assert file.put(entries(4, 6)) == list(entries(0, 2))
    assert file.put({b"large": entry(9, tokens=200)}) == [], "what never fits drives nothing out"
    assert list(file.digests) == list(entries(2, 6))
    file.close()
    smaller = open_file(max_bytes=3 * SIZE)
    assert list(smaller.digests) == list(entries(3, 6))
    assert list(smaller.read(entries(0, 10))) == list(entries(3, 6))


def test_the_file_stays_as_small_as_it_was_told(open_file: Open, path: Path) -> None:
    """Invariant 10: ten times what fits, in documents of any length, leaves a file within 10 % of its bound."""
    bound = 2 * MIB
    file = open_file(max_bytes=bound)
    random = np.random.default_rng(1)
    for number in range(0, 2_000, 20):
        file.put({(number + each).to_bytes(16): entry(each, int(random.integers(5, 100))) for each in range(20)})
        until_written(file)
    file.close()
    assert 0.8 * bound < path.stat().st_size < 1.1 * bound
    again = open_file(max_bytes=bound)
    assert len(again.digests) > 100, "its size must not be taken for that of a larger bound"
    again.close()
    assert "larger than vector_file_bytes" in open_file(max_bytes=bound // 4).remark


def until_written(file: VectorFile) -> None:
    """Waits for the writer thread."""
    end = 1_000
    while file._pending and end:
        end -= 1
        file._writer.join(0.01)
    assert not file._pending


def test_a_disk_that_is_behind_is_not_given_more(open_file: Open, path: Path) -> None:
    """While nothing can be written at most `PENDING_DOCUMENTS` wait in memory; the rest is not in the file."""
    file = open_file(max_bytes=100 * MIB)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    one = entry(1)
    file.put({number.to_bytes(16): one for number in range(PENDING_DOCUMENTS + 50)})
    assert len(file.digests) == PENDING_DOCUMENTS
    assert len(file.read([(7).to_bytes(16)])) == 1
    blocker.execute("ROLLBACK")
    blocker.close()


def test_another_revision_empties_it(open_file: Open) -> None:
    """Vectors of other weights or another truncation are worth nothing; the log is told."""
    file = open_file("r1")
    file.put(entries(0, 3))
    file.close()
    other = open_file("r2")
    assert (other.digests, other.read(entries(0, 3))) == ((), {})
    assert "another model revision" in other.remark
    other.close()
    assert open_file("r1").digests == (), "they must not come back either"


def test_only_the_owner_may_read_it(open_file: Open, path: Path) -> None:
    """Texts can be guessed from vectors: nothing that the file leaves on disk is readable by others."""
    file = open_file()
    file.put(entries(0, 3))
    until_written(file)
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each.name


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\x00" + b"\xff" * 5_000])
def test_what_is_no_database_is_moved_aside(content: bytes, open_file: Open, path: Path) -> None:
    """It is kept under another name, for it may be somebody's; the file begins anew."""
    path.write_bytes(content)
    file = open_file()
    assert file.put(entries(0, 1)) == []
    assert "was damaged" in file.remark
    assert path.with_name("vectors.db.damaged").read_bytes() == content
    file.close()
    assert len(open_file().digests) == 1


def test_a_database_of_something_else_is_not_touched(open_file: Open, path: Path) -> None:
    """A wrong path must not cost anybody their data."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(VectorFileError, match="something else; name another file"):
        open_file()
    assert path.read_bytes() == before


def test_it_belongs_to_one_process(open_file: Open) -> None:
    """A second one is refused and told what to do; when the first has gone it may."""
    first = open_file()
    with pytest.raises(VectorFileError, match="in use by another process; give every reranker"):
        open_file()
    first.close()
    assert open_file().remark == ""


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    """Named, with the fix."""
    with pytest.raises(VectorFileError, match=r"nowhere.*create its folder"):
        VectorFile(tmp_path / "nowhere" / "vectors.db", "r1", MIB)


def damage_contents(path: Path) -> None:
    """Overwrites vectors, but none of what opening reads."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE vectors SET data = zeroblob(length(data))")
    connection.commit()
    connection.close()


def test_damage_found_on_the_way_ends_its_use(open_file: Open, path: Path) -> None:
    """Nothing wrong is read, the file is moved aside, and it says so."""
    file = open_file()
    file.put(entries(0, 3))
    file.close()
    damage_contents(path)
    again = open_file()
    assert again.read(entries(0, 3)) == {}
    assert "used no more" in again.failure
    assert path.with_name("vectors.db.damaged").exists()
    again.close()
    assert open_file().digests == ()


def test_a_document_is_gone_when_it_is_in_neither_place(path: Path) -> None:
    """With room for one document in memory and for three on disk, the parent is told of what left both."""
    kept = KeptVectors(memory_bytes=entry(0).size_bytes)
    kept.use_file(path, "r1", 3 * SIZE)
    kept.keep(entries(0, 3))
    change = kept.changed()
    assert (list(change.added), change.evicted) == (list(entries(0, 3)), ())
    kept.keep(entries(3, 4))
    assert kept.changed().evicted == (bytes([0]) * 16,)
    found = kept.find(entries(0, 4))
    assert list(found) == [bytes([3]) * 16, bytes([1]) * 16, bytes([2]) * 16]
    assert kept.changed().evicted == (bytes([0]) * 16,)
    assert same(found[bytes([1]) * 16], entry(1))


def test_when_the_file_fails_the_parent_is_told(path: Path) -> None:
    """What was on disk only is gone, what is in memory stays, and the log learns why; work goes on in memory."""
    kept = KeptVectors(memory_bytes=0)
    kept.use_file(path, "r1", MIB)
    kept.keep(entries(0, 3))
    until_written(kept._file)  # type: ignore[arg-type]
    kept.changed()
    damage_contents(path)
    assert kept.find(list(entries(1, 2))) == {}
    change = kept.changed()
    assert (change.added, set(change.evicted)) == ((), set(entries(0, 3)))
    assert "used no more" in change.remark
    kept.keep(entries(5, 6))
    assert kept.changed().remark == ""
