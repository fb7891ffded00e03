"""The router's bench: its arithmetic by hand, and the whole of it on small collections through real sidecars."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sidecar.calibrate.records import LatencySample
from tests.bench.report import BenchError
from tests.bench.router.__main__ import main
from tests.bench.router.figures import FIGURES, Macro, latency_share, macro
from tests.bench.router.outcomes import added_time, place
from tests.bench.router.policies import Policy, oracle, random_routing
from tests.bench.router.redraws import Trial


def policy(ndcg: list[float], ms: float) -> Policy:
    return Policy(np.array(ndcg), np.full(len(ndcg), ms))


def test_random_routing_takes_as_long_as_the_router() -> None:
    """Two arms of 10 and 30 ms, 20 in the mean; for 5 ms a random one is taken for every fourth request."""
    found = random_routing(policy([0.2, 0.4], 0.0), [policy([0.4, 0.4], 10.0), policy([0.6, 0.8], 30.0)], 5.0)
    assert found.ndcg.tolist() == pytest.approx([0.2 + 0.25 * 0.3, 0.4 + 0.25 * 0.2])
    assert found.ms.tolist() == pytest.approx([5.0, 5.0])


def test_random_routing_is_never_slower_than_its_arms() -> None:
    """A router that takes longer than all arms do in the mean is compared with the arms as they are."""
    found = random_routing(policy([0.2], 0.0), [policy([0.4], 10.0)], 50.0)
    assert (found.ndcg.tolist(), found.ms.tolist()) == ([0.4], [10.0])


def test_the_oracle_takes_the_best_arm_and_of_equal_ones_the_fastest() -> None:
    """Query by query."""
    found = oracle([policy([0.2, 0.5], 0.0), policy([0.4, 0.5], 10.0), policy([0.4, 0.1], 30.0)])
    assert found.ndcg.tolist() == [0.4, 0.5]
    assert found.ms.tolist() == [10.0, 0.0]


def test_added_time_is_over_none_and_straight_between() -> None:
    """NONE takes 2 ms; 6 at k = 10 and 10 at k = 50 are 4 and 8 added, so 5 at 20. Cold requests do not count."""
    rows = [("none", 0, True, 2.0), ("m", 10, True, 6.0), ("m", 50, True, 10.0), ("m", 10, False, 500.0)]
    time = added_time([LatencySample(arm, k, warm, ms, 0.0, 0, k, 0) for arm, k, warm, ms in rows])
    assert [time.of("m", k) for k in (5, 10, 20, 50, 90)] == [4.0, 4.0, 5.0, 8.0, 8.0]
    assert time.of("none", 0) == 0.0
    with pytest.raises(BenchError, match="NONE"):
        added_time([])


def test_a_shorter_list_stands_at_the_next_larger_k() -> None:
    """37 candidates of 37 are what a k of 50 gives."""
    assert [place(k) for k in (10, 20, 37, 50, 168, 200)] == [0, 1, 3, 3, 5, 5]


def test_latency_share_is_over_the_cheapest_fixed_arm_that_is_as_good() -> None:
    """b is .0015 behind and takes 10 ms; a is cheaper but worse; where none is as good the best one counts."""
    ndcg = {"router": 0.5, "a@10": 0.49, "b@10": 0.4985, "b@50": 0.52}
    ms = {"router": 4.0, "a@10": 5.0, "b@10": 10.0, "b@50": 20.0}
    assert latency_share(Macro(ndcg, ms), ["a@10", "b@10", "b@50"]) == pytest.approx(0.4)
    assert latency_share(Macro({**ndcg, "router": 0.6}, ms), ["a@10", "b@10"]) == pytest.approx(0.4)


def test_collections_weigh_the_same_and_queries_by_their_own_mean() -> None:
    """One query was tested twice, one once, one never: .5 and .1; the other collection has .7."""
    nan = float("nan")
    one = Trial(np.array([[0.4, nan, nan], [0.6, 0.1, nan]]), np.array([[2.0, nan, nan], [2.0, 5.0, nan]]))
    other = Trial(np.array([[0.7]]), np.array([[1.0]]))
    found = macro({("x", "bm25"): {"p": one}, ("y", "bm25"): {"p": other}, ("x", "hybrid"): {"p": other}}, "bm25")
    assert found.ndcg["p"] == pytest.approx((0.3 + 0.7) / 2)
    assert found.ms["p"] == pytest.approx((3.0 + 1.0) / 2)


WORDS = [
    "amber",
    "basalt",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "jetty",
    "knoll",
    "lagoon",
    "marsh",
    "oasis",
    "prairie",
    "quarry",
    "reef",
]


def write_collection(folder: Path, step: int) -> None:
    """60 documents of eight words each; every query is three words of one document."""
    texts = [" ".join(WORDS[(i * step + j * (i % 5 + 1)) % len(WORDS)] for j in range(8)) + f" n{i}" for i in range(60)]
    (folder / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(texts)]
    queries = [json.dumps({"_id": f"q{i}", "text": " ".join(texts[i].split()[1:4])}) for i in range(24)]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n", "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", "utf-8")
    rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(24))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n", "utf-8")


@pytest.mark.timeout(600)
def test_the_whole_bench_on_two_small_collections(tmp_path: Path) -> None:
    """Real sidecars, every figure there and a number; the oracle is at least as good as what it chooses from."""
    for step, name in ((3, "one"), (5, "two")):
        write_collection(tmp_path / "collections" / name, step)
    out = tmp_path / "router.json"
    code = main(["--collections", str(tmp_path / "collections"), "--redraws", "2", "--out", str(out)])
    assert code == 0
    report = json.loads(out.read_text("utf-8"))
    assert set(report["figures"]) == set(FIGURES)
    assert all(np.isfinite(list(report["figures"].values())))
    figures = report["figures"]
    assert figures["macro_oracle"] >= max(figures["macro_none"], figures["macro_signals"], figures["macro_best_fixed"])
    assert set(report["collections"]) == {"one", "two"}


def test_a_folder_without_collections_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run of fifteen minutes on nothing."""
    assert main(["--collections", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 1
    assert "has no sub-folder with a corpus.jsonl" in capsys.readouterr().err
