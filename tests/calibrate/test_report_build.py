"""The whole read-out from made-up lists and samples: its figures, and that all forms of it show the same ones."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from judged_cases import SERVICE, SOURCE, judged_lists, latency_samples, profile

from sidecar.calibrate.report import markdown, page, plots
from sidecar.calibrate.report.build import build
from sidecar.calibrate.report.readout import ReadOut, ReadOutError, read_json, write_json
from sidecar.calibrate.report.tables import arms, difference, grid, headline
from sidecar.calibrate.trait_fit import TraitFit

KS = (10, 25, 50)
GAINS = {
    "signals": [(10, 0.05), (50, 0.1)],
    "late": [(10, 0.1), (25, 0.2), (50, 0.25)],
    "cross": [(10, 0.05), (25, 0.06), (50, 0.06)],
}


def make(*, skill: float = 1.5, lower: float | None = None, collection: str = "made-up") -> ReadOut:
    """``skill`` of the late interaction; the cross-encoder takes 405 ms for 50."""
    lists = judged_lists(40, skill={"bm25": 1.0, "dense": 1.2, "late": skill, "cross": 1.0})
    fitted = profile(GAINS, lower=lower, signals="bm25+dense", ms_per_token=0.03)
    return build(
        lists,
        latency_samples({"late": 0.3, "cross": 8.0}),
        fitted,
        lambda half: fitted,
        ks=KS,
        source=replace(SOURCE, collection=collection),
        service=SERVICE,
    )


@pytest.fixture(scope="module")
def readout() -> ReadOut:
    """Late interaction helps and is fast."""
    return make()


def test_every_arm_is_there_at_every_k(readout: ReadOut) -> None:
    """No rerank and SIGNALS always, then every reranker."""
    labels = [point.label for point in readout.points]
    assert labels == ["none", *(f"{name}@{k}" for name in ("signals", "late", "cross") for k in KS)]
    assert readout.none.gain.mean == 0.0
    assert [point.strategy for point in readout.points[1::3]] == ["signals", "late_interaction", "cross_encoder"]


def test_gains_are_paired_differences_of_the_means(readout: ReadOut) -> None:
    """The interval holds the mean; helped and hurt count queries."""
    for point in readout.points:
        assert point.gain.mean == pytest.approx(point.ndcg10 - readout.none.ndcg10)
        assert point.gain.low <= point.gain.mean <= point.gain.high
        differences = [after - before for after, before in zip(point.per_query, readout.none.per_query, strict=True)]
        assert point.gain.helped == sum(d > 1e-9 for d in differences)
        assert point.gain.hurt == sum(d < -1e-9 for d in differences)


def test_recommendations_keep_within_their_budgets(readout: ReadOut) -> None:
    """50, 100, 300 and 1,000 ms, for documents seen before and new ones; the predicted p95 fits."""
    assert [(r.documents, r.budget_ms) for r in readout.recommendations] == [
        (documents, budget) for documents in ("warm", "cold") for budget in (50.0, 100.0, 300.0, 1000.0)
    ]
    for recommendation in readout.recommendations:
        assert recommendation.predicted_p95_ms <= recommendation.budget_ms - SERVICE.reserve_ms
        assert sum(choice.share for choice in recommendation.choices) == pytest.approx(1.0)
    assert readout.recommended(100.0, "warm").choices[0].label == "late@50"
    assert readout.recommended(50.0, "cold").choices[0].label == "late@25"


def test_the_router_is_worth_what_its_choices_are_worth(readout: ReadOut) -> None:
    """Where it takes one arm for all queries, its nDCG@10 is that arm's."""
    found = readout.recommended(1000.0, "warm")
    (choice,) = found.choices
    point = readout.point(choice.reranker, choice.rerank_k)
    assert point is not None
    assert found.ndcg10 == pytest.approx(point.ndcg10)


def test_the_default_budget_is_among_the_recommendations() -> None:
    """The gate looks there, whatever the configuration says."""
    lists = judged_lists(10, skill={"bm25": 1.0, "late": 1.0})
    fitted = profile({"late": [(10, 0.1)]})
    found = build(
        lists,
        latency_samples({"late": 0.3}),
        fitted,
        lambda half: fitted,
        ks=KS,
        source=SOURCE,
        service=replace(SERVICE, default_ms=80.0),
    )
    assert found.recommended(80.0, "warm").budget_ms == 80.0
    with pytest.raises(KeyError, match="no recommendation for 81 ms"):
        found.recommended(81.0, "warm")


def test_an_arm_that_may_hurt_is_off_and_says_why() -> None:
    """A lower bound below -0.01 keeps the router from every k; then it keeps first-stage order."""
    found = make(lower=-0.05)
    assert {curve.reranker: curve.on for curve in found.curves} == {"signals": False, "late": False, "cross": False}
    assert "it may hurt" in found.curves[0].why
    assert found.recommended(1000.0, "warm").choices[0].label == "none"
    assert found.recommended(1000.0, "warm").gain.mean == 0.0


def test_the_table_has_the_columns_of_the_design(readout: ReadOut) -> None:
    """Reranker, nDCG@10, p50 add, p95 add, cost; no rerank and SIGNALS rows always there."""
    table = headline(readout)
    assert {"Reranker", "nDCG@10", "p50 add", "p95 add", "cost per 1k"} <= set(table.header)
    assert table.rows[0][0] == "None (first stage only)"
    assert table.rows[1][0].startswith("Signals fused, no model")
    assert all(len(row) == len(table.header) == len(table.numeric) for row in table.rows)


def test_fewer_requests_than_asked_for_are_said(readout: ReadOut) -> None:
    """Of 30 that were to be timed 20 were: every row says so, and a note names the rows. With 20 there is no note."""
    short = replace(readout, requests=30)
    timed = grid(readout).header.index("requests")
    assert {row[timed] for row in grid(short).rows} == {"–", "20 of 30"}
    assert {row[timed] for row in grid(readout).rows} == {"–", "20"}
    (note,) = [words for words in headline(short).notes if words.startswith("Fewer than 30 requests were timed of ")]
    assert "late@50 (20), late@50 with new documents (20)" in note
    assert grid(replace(readout, requests=20)).notes == ()


def test_the_arms_table_says_what_traits_predict() -> None:
    """In the words of the fit, for the signals that the requests come with."""
    found = TraitFit("bm25+dense", {}, -0.01, "margin", 0.013, (0.0, 0.0))
    other = replace(found, signals="bm25")
    lists = judged_lists(40, skill={"bm25": 1.0, "dense": 1.2, "late": 1.5})
    fitted = profile({"late": [(10, 0.1)]}, signals="bm25+dense")
    samples = latency_samples({"late": 0.3})
    readout = build(
        lists, samples, fitted, lambda half: fitted, ks=(10,), source=SOURCE, service=SERVICE, traits=[other, found]
    )
    assert arms(readout).notes == (
        "No trait predicts gains with signals bm25+dense (best alone: margin, +1.3 % of the variance out of sample; "
        "not kept).",
    )


def test_json_reads_back_as_it_was(readout: ReadOut, tmp_path: Path) -> None:
    """Nothing is lost or rounded."""
    write_json(tmp_path / "report.json", readout)
    assert read_json(tmp_path / "report.json") == readout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read: No such file"),
        (b"{", "Invalid JSON"),
        (b'{"format": "other"}', "format: Input should be 'millirank.calibration/1'"),
    ],
)
def test_a_file_that_is_no_read_out_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    """With its name and what was expected."""
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReadOutError, match=re.escape(words)) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_markdown_and_html_show_the_same_figures(readout: ReadOut, tmp_path: Path) -> None:
    """Every arm's nDCG@10 and interval, every recommendation, the verdict and its reasons."""
    curve, pareto = plots.draw(readout, tmp_path)
    texts = (markdown.render(readout), page.render(readout, curve, pareto))
    cells = [cell for row in headline(readout).rows for cell in row if cell]
    cells += [difference(recommendation.gain) for recommendation in readout.recommendations]
    for text in texts:
        assert all(cell in text for cell in cells)
        assert readout.verdict.headline in text
        assert all(reason in text for reason in readout.verdict.reasons)


def test_the_page_needs_nothing_else(readout: ReadOut, tmp_path: Path) -> None:
    """Both plots are inside; no script, no link, no address."""
    text = page.render(readout, *plots.draw(readout, tmp_path))
    assert text.count("data:image/png;base64,") == 2
    assert not re.search(r"<script|<link|https?://|@import|url\(", text)
    assert 'name="viewport"' in text


def test_names_cannot_break_the_page_or_the_tables(tmp_path: Path) -> None:
    """A collection is called what its folder is called."""
    found = make(collection="<b>x</b> | y")
    assert "<b>x</b>" not in page.render(found, *plots.draw(found, tmp_path))
    assert "x</b> \\| y" in markdown.render(found)


def test_the_plots_are_images(readout: ReadOut, tmp_path: Path) -> None:
    """PNG files of a readable size."""
    from PIL import Image

    for path in plots.draw(readout, tmp_path):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width >= 800
