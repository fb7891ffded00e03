"""``millirank index`` and a sidecar that serves what it has built, as processes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from millirank import Client, Document, Outcome, Ranking, Reason, RerankerNotFoundError, RerankerOffError, Verdict

from sidecar import cli
from sidecar.indexing.documents import TextDocument
from tests.e2e.sidecar_process import REPOSITORY, SidecarProcess, clean_environment
from tests.rerankers.checkpoints import make_colbert
from tests.rerankers.indexes import (
    BUILD_S,
    COLLECTION,
    documents,
    millirank_index,
    needs_ragatouille,
    write_documents,
)

pytest_plugins = ("tests.rerankers.indexes",)
pytestmark = pytest.mark.timeout(BUILD_S + 300)

# Loading torch and an index takes seconds, many of them where the machine is busy.
LOADING_S = 120.0
QUERY = "how to read a csv file"


@pytest.fixture
def changing(tmp_path: Path, plaid_index: Path) -> Path:
    """An index of a test's own."""
    copy = tmp_path / "index"
    copy.mkdir()
    for path in plaid_index.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """A client of a sidecar with a reranker that serves that index, and has loaded it or can't, and one that reads
    texts."""
    variables = {
        "MILLIRANK_RERANKERS__MINILM_L6__ENABLED": "false",
        "MILLIRANK_RERANKERS__INDEXED__STRATEGY": "late_interaction",
        "MILLIRANK_RERANKERS__INDEXED__ENGINE": "ragatouille",
        "MILLIRANK_RERANKERS__INDEXED__COLLECTIONS": json.dumps({COLLECTION: str(folder)}),
        "MILLIRANK_RERANKERS__INDEXED__EXPECTED_GAIN": "0.1",
        "MILLIRANK_RERANKERS__INDEXED__CHUNK_HARD_LIMIT_S": "60",
        "HF_HUB_OFFLINE": "1",
    }
    with SidecarProcess(variables) as sidecar, Client(sidecar.addresses[0]) as client:
        deadline = time.monotonic() + LOADING_S
        candidates = [refer(each.id) for each in documents()[:2]]
        while Verdict.NOT_READY in {
            arm.verdict for arm in client.explain("q", candidates, budget_ms=60_000, timeout_ms=10_000).considered
        }:
            assert time.monotonic() < deadline, sidecar.output
            time.sleep(0.2)
        yield client


def refer(identifier: str) -> Document:
    """A candidate without a text."""
    return Document(id=identifier, indexed_ref=(COLLECTION, identifier))


def rerank(client: Client, *identifiers: str, query: str = QUERY) -> Ranking[Document]:
    """Forced onto the index, with all the time there is."""
    return client.rerank(query, [refer(each) for each in identifiers], strategy="late_interaction", budget_ms=60_000)


@needs_ragatouille
def test_documents_are_scored_without_their_texts(plaid_index: Path) -> None:
    """Candidates that are only references come back ranked; one that the index lacks keeps its place unscored; none
    that it has, or another collection, is said as what it is."""
    with serving(plaid_index) as client:
        ids = [each.id for each in documents()][:40]
        ranking = rerank(client, *ids)
        assert (ranking.outcome, len(ranking)) == (Outcome.RANKED, 40)
        scores = [result.raw_score for result in ranking]
        assert scores == sorted(scores, key=lambda score: -(score or 0.0))
        assert all(result.scored for result in ranking)

        partly = rerank(client, "nobody", *ids[:5])
        assert {result.document.id for result in partly if not result.scored} == {"nobody"}

        nothing = rerank(client, "nobody", "nothing")
        assert (nothing.outcome, nothing.reasons) == (Outcome.FIRST_STAGE, (Reason.INDEX_UNAVAILABLE,))

        with pytest.raises(RerankerNotFoundError, match="no index is configured for the collection 'other'"):
            client.rerank(QUERY, [Document(indexed_ref=("other", "1"))], strategy="late_interaction")


@needs_ragatouille
def test_damaged_index_is_a_failed_precondition_when_forced(changing: Path) -> None:
    """Forced: FAILED_PRECONDITION with the file. Not forced: the first-stage order, and INDEX_UNAVAILABLE says why."""
    residuals = changing / "0.residuals.pt"
    residuals.write_bytes(residuals.read_bytes()[: residuals.stat().st_size // 2])
    with serving(changing) as client:
        identifier = documents()[0].id
        with pytest.raises(RerankerOffError, match=r"0\.residuals\.pt is damaged"):
            rerank(client, identifier)
        free = client.rerank(QUERY, [refer(identifier), refer("x")], budget_ms=10_000)
        assert (free.outcome, free.reasons) == (Outcome.FIRST_STAGE, (Reason.INDEX_UNAVAILABLE,))


@needs_ragatouille
def test_adding_replacing_and_deleting(changing: Path, tmp_path: Path) -> None:
    """New documents are found, a replaced one is scored by its new text, a deleted one is no longer scored, and the
    others score as before."""
    first, second, third, *_ = (each.id for each in documents())
    changes = [
        TextDocument("new-csv", "csv.reader: how to read a csv file, line by line."),
        TextDocument(second, "How to read a csv file: open it and pass it to csv.reader."),
    ]
    source = write_documents(tmp_path / "changes.jsonl", changes)
    added = millirank_index("--to", changing, "--from", source, "--add")
    assert added.returncode == 0, added.stderr
    assert added.stdout.endswith(f"has {len(documents()) + 1} documents (1 added, 1 replaced)\n")
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{third}\nnobody\n")
    deleted = millirank_index("--collection", COLLECTION, "--to", changing, "--delete", ids)
    assert deleted.returncode == 0, deleted.stderr
    assert deleted.stdout.endswith(f"has {len(documents())} documents (1 deleted, 1 not in it)\n")
    assert third not in (changing / "pid_docid_map.json").read_text()

    with serving(changing) as client:
        ranking = rerank(client, first, second, third, "new-csv")
    scores = {result.document.id: result.raw_score for result in ranking}
    assert {result.document.id for result in ranking if not result.scored} == {third}
    assert {ranking[0].document.id, ranking[1].document.id} == {second, "new-csv"}
    assert scores[first] is not None


@needs_ragatouille
def test_interrupted_build_leaves_the_old_index(changing: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: exit code 130, no traceback, the old index byte for byte, and nothing beside it."""
    before = contents(changing)
    source = write_documents(tmp_path / "more.jsonl", [TextDocument(f"n{each.id}", each.text) for each in documents()])
    neighbours = {path.name for path in changing.parent.iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "index", "--to", str(changing), "--from", str(source), "--add"],
        env=clean_environment(HF_HUB_OFFLINE="1"),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("encoding"):
                break
        process.send_signal(signal.SIGINT)
        seen.append(process.stderr.read())
        assert process.wait(60) == 130, seen
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in "".join(seen)
    assert contents(changing) == before
    assert {path.name for path in changing.parent.iterdir()} == neighbours


@needs_ragatouille
def test_disk_that_is_full_leaves_the_old_index(changing: Path, tmp_path: Path) -> None:
    """One line with the reason and exit code 1, the old index byte for byte, and nothing beside it. A limit on the size
    of files stands in for the full disk."""
    before = contents(changing)
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{documents()[0].id}\n")
    neighbours = {path.name for path in changing.parent.iterdir()}
    ended = subprocess.run(
        ["prlimit", "--fsize=1000", sys.executable, "-m", "sidecar", "index", "--to", changing, "--delete", ids],
        env=clean_environment(HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LOADING_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert f"{changing} stays as it was, what was to replace it could not be written: File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(changing) == before
    assert {path.name for path in changing.parent.iterdir()} == neighbours


@needs_ragatouille
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--collection", "c"), 2, "name the documents with --from"),
        (("--from", "d.jsonl"), 2, "name the collection with --collection, or its folder with --to"),
        (("--collection", "c", "--from", "nowhere.jsonl"), 2, "nowhere.jsonl: No such file or directory"),
        (("--collection", "c", "--from", "bad.jsonl"), 2, "bad.jsonl, line 2 is not JSON"),
        (("--to", "index", "--delete", "ids.txt", "--from", "d.jsonl"), 2, "--delete takes no --from"),
        (("--to", "t", "--from", "d.jsonl", "--add"), 1, "t/index.json is missing"),
        (("--to", "t", "--from", "d.jsonl"), 2, "name the collection with --collection"),
        (("--collection", "c", "--to", "t", "--delete", "ids.txt"), 1, "t/index.json is missing"),
        (("--collection", "c", "--from", "d.jsonl", "--model", "nowhere"), 1, "checkpoint 'nowhere' is no folder"),
        (("--collection", "c", "--from", "d.jsonl", "--model", "t"), 1, "t has no artifact.metadata"),
    ],
)
def test_what_can_not_be_done_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    """Wrong arguments and input end with 2, what can't be done with 1: the last line on stderr names it and the fix."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # the command sets them: this puts back what they were
    Path("t").mkdir()
    Path("ids.txt").write_text("1\n")
    Path("d.jsonl").write_text('{"id": "1", "text": "a"}\n')
    Path("bad.jsonl").write_text('{"id": "1", "text": "a"}\n{\n')
    assert cli.main(["index", *arguments]) == code
    written = capsys.readouterr()
    assert written.out == ""
    line = " ".join(written.err.split())
    assert "millirank index: " in line
    assert words in line


def test_help_says_how_to_serve_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option, an example of each use, and the settings of a reranker that serves the index."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["index", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for words in (
        "--collection",
        "--from",
        "--model",
        "--to",
        "--add",
        "--delete",
        "--compile",
        'engine = "ragatouille"',
    ):
        assert words in text


@needs_ragatouille
def test_what_can_not_be_built_leaves_nothing(tmp_path: Path) -> None:
    """A collection in which no centroids can be found, and a target that is no index: said so, nothing is touched."""
    checkpoint = make_colbert(tmp_path / "colbert")
    source = write_documents(tmp_path / "d.jsonl", [TextDocument("1", "a")])
    arguments = ("--collection", "c", "--from", source, "--model", checkpoint, "--to")
    few = millirank_index(*arguments, tmp_path / "index")
    assert few.returncode == 1, few.stderr
    assert "fewer than a few hundred tokens" in " ".join(few.stderr.split())
    taken = millirank_index(*arguments, checkpoint)
    assert taken.returncode == 1, taken.stderr
    assert "is there and is no index: choose another folder" in " ".join(taken.stderr.split())
    assert "Traceback" not in few.stderr + taken.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colbert", "d.jsonl"]
    assert (checkpoint / "model.safetensors").exists()
