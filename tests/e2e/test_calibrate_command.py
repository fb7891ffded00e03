"""``millirank calibrate`` on a small collection: real sidecars, real models, and a profile that a sidecar takes."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from millirank import Client, Document

from sidecar.calibrate import stdlib
from sidecar.calibrate.report.readout import read_json
from sidecar.calibrate.report.tables import difference
from sidecar.commands import calibrate as command
from sidecar.profiles import read
from tests.e2e.sidecar_process import REPOSITORY, SidecarProcess, clean_environment, millirank

QUERIES = 24
DOCUMENTS = 48
CHARACTERS = 300
FILES = ["curve.png", "pareto.png", "profile.json", "report.html", "report.json", "report.md"]
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc to find processes")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores, vectors and the standard library's documentation, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Questions about the standard library whose answers are among 48 of its documents, in BEIR layout."""
    documents = stdlib.documents(cache_dir, progress=False)
    questions = stdlib.questions()[:QUERIES]
    qrels = stdlib.qrels(documents, questions)
    wanted = {document for grades in qrels.values() for document in grades}
    others = [document.id for document in documents[:: len(documents) // DOCUMENTS] if document.id not in wanted]
    kept = wanted | set(others[: DOCUMENTS - len(wanted)])
    folder = tmp_path_factory.mktemp("collections") / "small"
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl",
        [
            json.dumps({"_id": document.id, "title": "", "text": document.text[:CHARACTERS]})
            for document in documents
            if document.id in kept
        ],
    )
    write_lines(
        folder / "queries.jsonl", [json.dumps({"_id": question.id, "text": question.text}) for question in questions]
    )
    rows = [f"{query}\t{document}\t{grade}" for query, grades in qrels.items() for document, grade in grades.items()]
    write_lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *rows])
    return folder


def write_lines(path: Path, lines: list[str]) -> None:
    """One a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def calibrate(collection: Path, out: Path, cache_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Few requests, two numbers of candidates, both signals."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "sidecar", "calibrate", str(collection), "--out", str(out)),
            *("--first-stage", "hybrid", "--ks", "10,25", "--requests", "5", "--minutes", "3", *arguments),
        ],
        env=clean_environment(MILLIRANK_CACHE_DIR=str(cache_dir)),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def calibrated(
    collection: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of one calibration, and what it printed."""
    out = tmp_path_factory.mktemp("out") / "small"
    return out, calibrate(collection, out, cache_dir)


@pytest.mark.timeout(300)
def test_one_command_gives_profile_report_and_plots(
    calibrated: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Exit code 0, six files, a summary with the table and the lines for the configuration."""
    out, process = calibrated
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert "None (first stage only)" in process.stdout
    assert f'profiles = ["{out / "profile.json"}"]' in process.stdout
    assert "Traceback" not in process.stderr


@pytest.mark.timeout(300)
def test_all_forms_of_the_report_agree(calibrated: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Arms at both numbers of candidates, in JSON, Markdown, HTML and on the console, for the profile beside them."""
    out, process = calibrated
    readout = read_json(out / "report.json")
    arms = {(point.reranker, point.rerank_k) for point in readout.points}
    names = ("signals", "minilm-l6", "tiny-cross-encoder")
    assert arms == {("none", 0)} | {(name, k) for name in names for k in (10, 25)}
    assert len(readout.query_ids) == QUERIES
    for point in readout.points[1:]:
        assert point.warm is not None, point.label
        assert point.warm.requests >= 1
    for text in ((out / "report.md").read_text("utf-8"), (out / "report.html").read_text("utf-8")):
        assert readout.verdict.headline in text
        assert all(difference(recommendation.gain) in text for recommendation in readout.recommendations)
    assert readout.verdict.headline in process.stdout
    profile = read(out / "profile.json")
    assert (
        (profile.corpus, profile.revision) == (readout.corpus, readout.profile_revision) == ("small", profile.revision)
    )


@pytest.mark.timeout(300)
def test_a_sidecar_decides_with_the_profile(
    calibrated: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """`millirank serve` takes the printed setting; a request that names the corpus is decided with it."""
    out, _ = calibrated
    profile = out / "profile.json"
    with SidecarProcess({"MILLIRANK_PROFILES": json.dumps([str(profile)])}) as sidecar:
        documents = [Document(id=str(i), text=f"text {i}", signals={"bm25": float(-i)}) for i in range(12)]
        with Client(sidecar.addresses[0]) as client:
            decision = client.explain("how do I read a file", documents, corpus="small", budget_ms=1000)
    assert (decision.profile_corpus, decision.profile_revision) == ("small", read(profile).revision)


@pytest.mark.timeout(300)
def test_the_gate_shuts_and_a_second_run_resumes(
    calibrated: tuple[Path, subprocess.CompletedProcess[str]], collection: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """A gain that nobody reaches is exit code 1 with the figure; the files are written all the same. What was scored
    is not scored again: quality is the same to the last bit, so nothing has changed against the first run."""
    out, _ = calibrated
    again = tmp_path / "again"
    process = calibrate(collection, again, cache_dir, "--fail-below", "0.9", "--compare", str(out / "report.json"))
    assert process.returncode == 1, process.stderr
    assert "less than 0.9" in process.stderr
    assert sorted(path.name for path in again.iterdir()) == FILES
    first, second = read_json(out / "report.json"), read_json(again / "report.json")
    assert [point.per_query for point in first.points] == [point.per_query for point in second.points]
    assert "nDCG@10" not in process.stdout.partition("Against ")[2].partition("To use it")[0]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Where the command puts its sockets: pytest's own folders are too long for one."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        yield Path(folder)


def processes_of(folder: Path) -> list[int]:
    """Sidecars with a socket in ``folder``, and their workers, which inherit the variable."""
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
def test_ctrl_c_ends_with_130_and_leaves_no_process(
    collection: Path, cache_dir: Path, short_folder: Path, tmp_path: Path
) -> None:
    """In the middle of the sweep: no traceback, no sidecar, no half-written file."""
    words = [sys.executable, "-m", "sidecar", "calibrate", str(collection), "--out", str(tmp_path / "out")]
    environment = clean_environment(MILLIRANK_CACHE_DIR=str(cache_dir), TMPDIR=str(short_folder))
    with subprocess.Popen(
        words, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        while not processes_of(short_folder):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    end = time.monotonic() + 2  # a worker that was only just being started notices once it runs
    while processes_of(short_folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(short_folder) == []
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COLLECTION"),
        (("no-such-folder",), "'no-such-folder' is no collection"),
        (("built-in", "--teacher", "minilm-l6"), "--queries and --teacher belong together"),
        (("built-in", "--sample", "19"), "19 queries are too few for a profile"),
        (("built-in", "--ks", "10,x"), "whole numbers from 2 to 1000"),
        (("built-in", "--minutes", "0"), "from above 0 to 1440"),
        (("built-in", "--first-stage", "run.trec"), "SIGNAL=FILE"),
        (("built-in", "--first-stage", "bm25", "--first-stage", "dense=x"), "name one of bm25, hybrid alone"),
        (("built-in", "--compare", "no-such-file.json"), "no-such-file.json can't be read"),
        (("built-in", "--config", "no-such-file.toml"), "no-such-file.toml does not exist"),
    ],
)
def test_bad_input_is_refused_at_once(arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2 with the fix, before anything is measured."""
    process = millirank("calibrate", *arguments)
    assert process.returncode == 2
    assert words in process.stderr.replace("\n", " ")


def test_a_missing_library_is_noticed_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 with the extra to install, although only the report at the end needs the library."""
    monkeypatch.setattr(command, "NEEDED", (*command.NEEDED, "no_such_library"))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["no-such-folder"])) == 1
    assert "no_such_library is not installed; install it with: pip install 'millirank-server[calibrate]'" in (
        capsys.readouterr().err
    )


def test_the_help_has_every_option_and_examples() -> None:
    """One page that is enough to use it."""
    text = millirank("calibrate", "--help").stdout
    for words in (
        "--first-stage",
        "--queries",
        "--teacher",
        "--sample",
        "--minutes",
        "--fail-below",
        "--compare",
        "examples:",
        "exit code:",
    ):
        assert words in text
