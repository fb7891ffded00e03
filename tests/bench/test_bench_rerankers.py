"""The bench of the local engines: its own machinery. Figures are no part of a test, and the rivals are not needed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.processes import ROOT
from tests.bench.report import BenchError
from tests.bench.rerankers import quality
from tests.bench.rerankers.child import Child, ChildError
from tests.bench.rerankers.contenders import FP32, INT8, REFERENCE, Contender, contenders
from tests.bench.rerankers.cross_encoders import Facts, sections
from tests.bench.rerankers.models import Models
from tests.bench.rerankers.pairs import MIX, SLACK, Cutter, Pairs
from tests.bench.rerankers.rounds import Cell, Series, plan
from tests.bench.rivals.child import fastest
from tests.rivals.environment import Environment, SetUpError

_TIMEOUT_S = 60.0
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs()


def _nothing() -> None:
    """Nobody watches."""


@pytest.mark.parametrize("tokens", [128, 256])
def test_pairs_of_a_fixed_length_have_it(pairs: Pairs, tokens: int) -> None:
    """Every pair has the number of tokens that its row promises, but for a word, and the request counts them."""
    request = pairs.request(tokens, 12)
    lengths = [Cutter().tokens(request.query, text) for text in request.texts]

    assert all(tokens - SLACK <= length <= tokens for length in lengths)
    assert request.tokens == sum(lengths)
    assert len(set(request.texts)) == 12


def test_real_texts_keep_their_lengths(pairs: Pairs) -> None:
    """The mix is what a first stage finds for a question: of many lengths, none above the limit."""
    request = pairs.request(MIX, 25)
    lengths = [Cutter().tokens(request.query, text) for text in request.texts]

    assert len(lengths) == 25
    assert max(lengths) <= 256
    assert max(lengths) > 2 * min(lengths)


def test_a_cut_text_is_a_beginning_in_whole_words() -> None:
    """Cutting takes whole words from the end, as many as needed and no more."""
    text = "reading comma separated values with tokenization-heavy vocabulary"
    cut = Cutter().cut("a query", text, 10)

    assert text.startswith(cut)
    assert not text[len(cut)].isalnum()
    assert Cutter().tokens("a query", cut) <= 10
    assert Cutter().cut("a query", text, 100) == text


def test_plan_has_every_shape_that_the_report_promises() -> None:
    """10, 25 and 100 candidates at 128 and 256 tokens, and real texts; the headline's shape comes first."""
    cells = plan(5, quick=False)

    assert (cells[0].tokens, cells[0].candidates) == (256, 25)
    shapes = {(cell.tokens, cell.candidates) for cell in cells}
    assert shapes == {(tokens, n) for tokens in (128, 256) for n in (10, 25, 100)} | {(MIX, 25)}


def test_ratios_are_medians_of_the_rounds(tmp_path: Path) -> None:
    """Twice as fast in two rounds and four times in one is twice as fast; best is compared with best."""
    environment = Environment("none", ())
    everybody = [
        Contender("millirank fp32", FP32, environment, "none", {}),
        Contender("millirank int8", INT8, environment, "none", {}),
        Contender(REFERENCE, FP32, environment, "none", {}),
        Contender("infinity torch", FP32, environment, "none", {}),
        Contender("infinity optimum int8", INT8, environment, "none", {}),
    ]
    ms = {
        "millirank fp32": [100.0, 100.0, 100.0],
        "millirank int8": [50.0, 50.0, 50.0],
        REFERENCE: [100.0, 100.0, 200.0],
        "infinity torch": [400.0, 400.0, 400.0],
        "infinity optimum int8": [75.0, 75.0, 75.0],
    }
    scores = {name: [[1.0, 2.0, 3.0]] * 3 for name in ms}
    scores["infinity optimum int8"] = [[3.0, 2.0, 1.5]] * 3
    series = Series(Cell(256, 25, 3), ms=ms, scores=scores)
    series.requests.append(Pairs().request(MIX, 25))
    found = sections([series], [Facts(one, 180.0, 250.0, 0) for one in everybody])

    assert found["ratios"].figures == {"x_st_torch_256": 2.0, "x_infinity_best_256": 1.5, "x_any_best_256": 1.5}
    rows = {row.name: row.values for row in found["ratios"].rows}
    assert rows["millirank fp32 / infinity torch"]["x"].median == 4.0
    assert rows["millirank int8 / infinity optimum int8"]["x"].median == 1.5
    agreement = {row.name: row.values for row in found["contenders"].rows}
    assert agreement["infinity optimum int8"]["kendall_tau"].median == -1.0
    assert agreement["infinity optimum int8"]["max_difference"].median == 2.0
    assert found["contenders"].figures == {"rss_mb": 180.0}


def test_contenders_are_compared_at_both_precisions() -> None:
    """fp32 and int8 of this project each have rivals of the same precision, and every name is one of its own."""
    everybody = contenders(Models(Path("models")), 2)

    assert len({one.name for one in everybody}) == len(everybody)
    for precision in (FP32, INT8):
        assert sum(one.is_ours for one in everybody if one.precision == precision) == 1
        assert {one.name.split()[0] for one in everybody if one.precision == precision} == {
            "millirank",
            "sentence-transformers",
            "infinity",
            "FlashRank",
        }
    assert REFERENCE in {one.name for one in everybody}
    assert all((HERE / "rivals" / f"{one.module}.py").is_file() for one in everybody)


def test_candidates_for_ndcg_hold_the_right_documents() -> None:
    """Every query's candidates are distinct and hold all of its right answers: otherwise no order could be worse."""
    task = quality.load(None, 8)

    assert len(task.queries) == 8
    for key in task.queries:
        candidates = task.candidates(key)
        assert set(task.qrels[key]) <= set(candidates)
        assert len(set(candidates)) == len(candidates)


def test_folder_that_is_no_collection_is_named(tmp_path: Path) -> None:
    """A --collection without a corpus is an error that names the folder."""
    with pytest.raises(BenchError, match=f"{tmp_path} is not a collection in BEIR layout"):
        quality.load(tmp_path, 8)


def test_fastest_size_wins() -> None:
    """Of several batch sizes the one that takes least time is chosen."""
    assert fastest((1, 2, 3), lambda size: time.sleep(0.001 if size == 2 else 0.02)) == 2


def test_child_that_cannot_load_says_why(tmp_path: Path) -> None:
    """A program that fails to load is an error with its own message, and its process is gone."""
    with Child("ours", Path(sys.executable), "millirank_pairs", tmp_path / "log", _nothing) as child:
        with pytest.raises(ChildError, match=r"^ours: ModelError: .*model\.json is missing"):
            child.ask({"model": str(tmp_path), "threads": 1}, _TIMEOUT_S)
        with pytest.raises(ChildError, match="ours ended with exit code 0"):
            child.ask({"operation": "peak"}, _TIMEOUT_S)


def test_child_of_an_environment_without_the_library_says_so(tmp_path: Path) -> None:
    """What is not installed is named: that rival is absent from the report, for this reason."""
    with (
        Child("infinity", Path(sys.executable), "infinity_pairs", tmp_path / "log", _nothing) as child,
        pytest.raises(ChildError, match="ModuleNotFoundError: No module named"),
    ):
        child.ask({"model": str(tmp_path), "threads": 1, "engine": "torch"}, _TIMEOUT_S)


def test_environment_that_cannot_be_made_quotes_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that does not exist is an error that names the environment, and it does not count as set up."""
    monkeypatch.setenv("MILLIRANK_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements = tmp_path / "rival.txt"
    requirements.write_text("no-such-rival==1.0\n")
    environment = Environment("rival", (requirements,))

    with pytest.raises(SetUpError, match=r"^rival: ERROR: No matching distribution found for no-such-rival==1\.0"):
        environment.set_up(_nothing)
    assert not environment.is_set_up()


def test_late_interaction_program_measures_its_own_parts(tmp_path: Path) -> None:
    """Cold, warm, query alone and similarity alone answer positive times; warm texts must have been cold before."""
    with Child("late", Path(sys.executable), "late_millirank", tmp_path / "log", _nothing) as child:
        child.ask({"threads": 1}, _TIMEOUT_S)
        texts = ["open a file and read its lines", "run a thread"]
        with pytest.raises(ChildError, match="2 texts were to be warm"):
            child.ask({"operation": "warm", "queries": ["read a file"], "texts": texts}, _TIMEOUT_S)
        cold = child.ask({"operation": "cold", "query": "how to read", "texts": texts}, _TIMEOUT_S)
        assert cold["ms"] > 0
        for operation in ("warm", "similarity"):
            request = {"operation": operation, "queries": [f"{operation} a", f"{operation} b"], "texts": texts}
            taken = child.ask(request, _TIMEOUT_S)["ms"]
            assert len(taken) == 2
            assert min(taken) > 0
        assert 20 < child.ask({"operation": "peak"}, _TIMEOUT_S)["mb"] < 400


def test_interrupted_bench_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C while environments are made ends with 130, no traceback and no report; pip is gone as well."""
    out = tmp_path / "report.json"
    bench = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.rerankers", "--quick", "--out", str(out)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MILLIRANK_CACHE_DIR": str(tmp_path), "PIP_NO_INDEX": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + _TIMEOUT_S
    while not (children := _children(bench.pid)) and time.monotonic() < end:
        time.sleep(0.02)
    assert children
    bench.send_signal(signal.SIGINT)
    printed, _ = bench.communicate(timeout=_TIMEOUT_S)

    assert bench.returncode == 130, printed
    assert "Traceback" not in printed
    assert not out.exists()
    # Killed, but on a busy machine the kernel may need a moment to clear it away.
    while (left := [pid for pid in children if _lives(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []


def _lives(pid: int) -> bool:
    """Whether the process still runs; one that only waits for its parent to read its exit code (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    ]
