"""A bounded file of records: nothing torn, nothing lost in silence, nobody made to wait."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from sidecar import line_file
from sidecar.line_file import LineFile


def numbered(record: int, new_file: bool) -> str:
    """Eight bytes a record, and a header of eight before the first one of a file."""
    return ("header.\n" if new_file else "") + f"{record:07d}\n"


def write(path: Path, *records: int, max_bytes: int = 1_000_000) -> None:
    file = LineFile(path, max_bytes, numbered)
    for record in records:
        file.put(record)
    file.close()


def test_records_in_their_order_readable_by_the_owner_only(tmp_path: Path) -> None:
    """`close` waits until all is written."""
    path = tmp_path / "records.jsonl"
    write(path, *range(100))
    assert path.read_text() == "header.\n" + "".join(f"{number:07d}\n" for number in range(100))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_full_file_is_renamed_over_the_one_before(tmp_path: Path) -> None:
    """At 40 bytes, four records beside the header: the last file has the rest, .1 the four before, the others are
    gone."""
    path = tmp_path / "records.jsonl"
    write(path, *range(10), max_bytes=40)
    assert path.read_text().split() == ["header.", "0000008", "0000009"]
    assert (tmp_path / "records.jsonl.1").read_text().split() == ["header.", *(f"000000{n}" for n in (4, 5, 6, 7))]
    assert len(list(tmp_path.iterdir())) == 2


def test_next_process_goes_on_behind_whole_lines(tmp_path: Path) -> None:
    """Half a line of a process that was killed is cut off, and a header says anew what lines refer to."""
    path = tmp_path / "records.jsonl"
    write(path, 1)
    with path.open("a") as file:
        file.write("00000")
    write(path, 2)
    assert path.read_text().split() == ["header.", "0000001", "header.", "0000002"]
    path.write_text("x" * 200_000)  # no whole line at all, and more than one block of it
    write(path, 3)
    assert path.read_text().split() == ["header.", "0000003"]


def test_more_than_may_wait_is_dropped_and_told(tmp_path: Path) -> None:
    """With the writer held up, `put` returns at once for ever: what is too much is counted, the rest is written."""
    held = threading.Event()
    dropped: list[None] = []

    def encode(record: int, new_file: bool) -> str:
        held.wait(60)
        return f"{record}\n"

    path = tmp_path / "records.jsonl"
    file = LineFile(path, 1_000_000, encode, lambda: dropped.append(None))
    count = line_file.WAITING + 500
    started = time.monotonic()
    for record in range(count):
        file.put(record)
    assert time.monotonic() - started < 10.0
    held.set()
    file.close()
    written = [int(line) for line in path.read_text().split()]
    # The one that the writer had in hand does not count as waiting.
    assert len(written) in (line_file.WAITING, line_file.WAITING + 1)
    assert len(written) + len(dropped) == count
    # In order, and nothing is dropped before as many wait as may; one more fits when the writer takes the first.
    assert written == sorted(written)
    assert written[: line_file.WAITING] == list(range(line_file.WAITING))


def test_full_disk_loses_records_but_tears_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails is logged once and counted for each record; the file holds whole lines only, and goes on
    when there is room again. (A limit on the size of this process's files stands for the full disk.)"""
    import resource
    import signal

    dropped: list[None] = []
    path = tmp_path / "records.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        file = LineFile(path, 1_000_000, numbered, lambda: dropped.append(None))
        for record in range(5):
            file.put(record)
        end = time.monotonic() + 30.0
        while len(dropped) < 4 and time.monotonic() < end:
            time.sleep(0.005)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.put(7)
        file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text().split() == ["header.", "0000000", "0000007"]
    assert len(dropped) == 4
    assert [record.getMessage() for record in caplog.records] == ["records can't be written"]


def test_record_that_cannot_be_encoded_costs_itself_only(tmp_path: Path) -> None:
    """A bug in one record is counted; the writer lives on."""
    dropped: list[None] = []
    path = tmp_path / "records.jsonl"
    file = LineFile(path, 1_000_000, lambda record, new: f"{1 // record}\n", lambda: dropped.append(None))
    for record in (1, 0, 1):
        file.put(record)
    file.close()
    assert (path.read_text(), len(dropped)) == ("1\n1\n", 1)


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """Told at once, not by the thread."""
    with pytest.raises(OSError, match=os.strerror(2)):
        LineFile(tmp_path / "absent" / "records.jsonl", 1_000_000, numbered)
