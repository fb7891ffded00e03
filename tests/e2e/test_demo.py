"""`millirank demo`: real sidecars, real models and the real client, on a collection of a few documents."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from sidecar.calibrate.private_sidecar import PrivateSidecarError
from sidecar.calibrate.stdlib import Question, StdlibDocument
from sidecar.commands import demo
from sidecar.commands.demo_measure import in_budget, quantile
from sidecar.commands.demo_report import Move, examples, moves

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc to find processes")

SUMMARIES = {
    "threading.Timer": "Call a function after a specified number of seconds.",
    "threading.Lock": "A primitive lock is not owned by a particular thread when locked.",
    "os.path.join": "Join two or more pathname components, inserting a separator as needed.",
    "os.path.getsize": "Return the size of a file, reported by os.stat.",
    "shutil.rmtree": "Recursively delete a directory tree.",
    "collections.Counter": "Dict subclass for counting hashable items.",
    "re.escape": "Escape special characters in a string. " + "Long explanations follow. " * 20 + "THE-END",
    "random.sample": "Choose k unique random elements from a population sequence.",
    "copy.deepcopy": "Deep copy operation on arbitrary Python objects.",
    "json.dumps": "Serialize an object to a JSON formatted string.",
    "csv.reader": "Read lines of a file of comma separated values.",
    "zipfile.ZipFile": "Class with methods to open, read, write, close, list zip files.",
}
DOCUMENTS = tuple(StdlibDocument(name, f"{name}()\n{text}", ()) for name, text in SUMMARIES.items())
QUESTIONS = (
    Question("q1", "run a function later in another thread", ("threading.Timer",)),
    Question("q2", "how often does each item occur, counting", ("collections.Counter",)),
    Question("q3", "delete a directory with everything in it", ("shutil.rmtree",)),
    Question("q4", "match the special characters of a string literally", ("re.escape",)),
    Question("q5", "size of a file", ("os.path.getsize", "os.stat")),
    Question("q6", "zebra", ("copy.deepcopy",)),  # no document has the word: BM25 has no candidate
)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Where the demo shall put its sockets; the paths of pytest's own folders are too long for one."""
    folder = Path(tempfile.mkdtemp(prefix="mr"))
    yield folder
    shutil.rmtree(folder)


def processes_of(folder: Path) -> list[int]:
    """Processes that were started with a socket in ``folder``: sidecars and, as they inherit it, their workers."""
    mark = f"MILLIRANK_LISTEN__UNIX={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # ended in the meantime
            continue
    return found


@linux
@pytest.mark.timeout(240)
def test_the_demo_measures_prints_and_leaves_nothing_behind(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of both tables; figures with the promised keys, shares from 0 to 1; no process or file left."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    said = io.StringIO()
    output = tmp_path / "build" / "demo.json"
    demo.demonstrate(
        DOCUMENTS,
        QUESTIONS,
        budgets=(100.0, 500.0),
        output=output,
        cache_dir=tmp_path,
        console=Console(file=said, width=140),
    )
    assert processes_of(short_folder) == []
    assert list(short_folder.glob("millirank-*")) == []

    data = json.loads(output.read_text(encoding="utf-8"))
    assert set(data["figures"]) == {
        "documents",
        "questions",
        "ndcg10_none",
        "ndcg10_signals",
        "ndcg10_100ms",
        "ndcg10_500ms",
        "in_budget_share",
        "p50_ms_100ms",
    }
    assert (data["figures"]["documents"], data["figures"]["questions"]) == (12, 6)
    for name, value in data["figures"].items():
        assert name in ("documents", "questions", "p50_ms_100ms") or 0 <= value <= 1
    assert [(row["candidates"], row["documents"], row["budget_ms"], row["questions"]) for row in data["rows"]] == [
        (candidates, documents, budget_ms, questions)
        for candidates in ("bm25", "hybrid")
        for documents, questions in (("cold", 2), ("warm", 6))
        for budget_ms in (100.0, 500.0)
    ]
    for row in data["rows"]:
        assert sum(count for _, _, count in row["arms"]) == row["questions"]
        assert 0 <= row["in_budget_share"] <= 1
        assert row["coverage"] is None or 0 <= row["coverage"] <= 1
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        for order in ("quality", "none", "signals"):
            assert 0 <= row[order]["ndcg10"] <= 1
            assert 0 <= row[order]["mrr10"] <= 1
        assert row["warm_share"] == {"cold": 0.0, "warm": 1.0}[row["documents"]]
    assert set(data["tests"]) == {"none", "signals"}

    text = said.getvalue()
    for part in ("BM25 candidates", "Hybrid candidates", "Paired bootstrap", "router's reasons", "--trace"):
        assert part in text
    assert "THE-END" not in text
    lines = (tmp_path / "build" / "demo-candidates.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"id", "text", "signals"} for line in lines)


def test_a_sidecar_that_does_not_start_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket path that no system accepts: the demo passes on what `serve` said, and leaves nothing behind."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(PrivateSidecarError, match=r"exit code 2(.|\n)*listen\.unix"):
        demo.demonstrate(
            DOCUMENTS,
            QUESTIONS[:1],
            budgets=(100.0,),
            output=tmp_path / "demo.json",
            cache_dir=tmp_path,
            console=Console(file=io.StringIO()),
        )
    assert list(long.glob("millirank-*")) == []
    assert not (tmp_path / "demo.json").exists()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the collection is built once."""
    return tmp_path_factory.mktemp("cache")


@linux
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_no_process_behind(
    short_folder: Path, cache_dir: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C (and SIGTERM) once the sidecars run: exit code 130 (143), no traceback, no process, no socket."""
    environment = {**os.environ, "TMPDIR": str(short_folder), "MILLIRANK_CACHE_DIR": str(cache_dir)}
    command = [sys.executable, "-m", "sidecar", "demo", "--questions", "1", "--output", str(tmp_path / "demo.json")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120  # the collection is built first: seconds, more on a loaded machine
        while len(processes_of(short_folder)) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors.decode()
    assert b"Traceback" not in errors
    end = time.monotonic() + 2  # a worker that was only just being started notices once it runs
    while processes_of(short_folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(short_folder) == []
    assert list(short_folder.glob("millirank-*")) == []


@pytest.mark.parametrize("budgets", ["", "fast", "5,-1", "0", "nan", "5,1e9"])
def test_budgets_are_positive_milliseconds(budgets: str) -> None:
    """Anything else is refused with an example of what is meant."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    demo.add_arguments(parser)
    with pytest.raises(argparse.ArgumentError, match="--budgets"):
        parser.parse_args(["--budgets", budgets])


def test_budgets_are_sorted_and_each_is_measured_once() -> None:
    """The rows of a table ascend whatever the order of the option."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    demo.add_arguments(parser)
    assert parser.parse_args(["--budgets", "100,5,100"]).budgets == (5.0, 100.0)


def test_in_budget_allows_five_milliseconds_or_two_percent() -> None:
    """The larger of both, the limit itself included (DESIGN section 6, invariant 1)."""
    assert in_budget([9.9, 10.0, 10.1], 5.0) == 2
    assert in_budget([509.0, 510.0, 511.0], 500.0) == 2


def test_quantiles_interpolate_between_neighbours() -> None:
    """Of 10, 20, 30, 40: the median lies at position 1.5, p95 at 2.85."""
    assert quantile([40.0, 10.0, 30.0, 20.0], 0.5) == pytest.approx(25.0)
    assert quantile([40.0, 10.0, 30.0, 20.0], 0.95) == pytest.approx(38.5)
    assert quantile([7.0], 0.95) == 7.0


def test_examples_follow_the_rule() -> None:
    """The two largest rises of the reciprocal rank and the largest fall; questions without a right answer do not
    count."""
    before = {"a": ["x", "y", "r"], "b": ["x", "r", "y"], "c": ["r", "x", "y"], "d": ["x", "y", "r"], "e": ["x", "y"]}
    after = {"a": ["r", "x", "y"], "b": ["r", "x", "y"], "c": ["x", "r", "y"], "d": ["x", "r", "y"], "e": ["y", "x"]}
    all_moves = moves(before, after, {question: {"r": 1} for question in before})
    assert all_moves == [Move("a", "r", 3, 1), Move("b", "r", 2, 1), Move("c", "r", 1, 2), Move("d", "r", 3, 2)]
    assert [move.question for move in examples(all_moves)] == ["a", "b", "c"]
