"""Recorded decisions come out the same again, to the last bit; and differently with another profile."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from router.arms import Availability, State, Strategy
from router.policy import Reason, Routing
from sidecar import profiles
from sidecar.cli import main
from sidecar.decision_log import DecisionLog
from sidecar.messages import Candidate, Request
from sidecar.rerankers.base import Limits
from tests.helpers import MARKER, ScriptedReranker, arm_data, profile_data, rig

_STATES = (State.READY, State.READY, State.READY, State.WARMING, State.CIRCUIT_OPEN, State.OFF)


def legal(**gains: float) -> str:
    """A profile of two rerankers and SIGNALS; of these, ``gains`` may be set."""
    arms = {
        "wide": arm_data("late_interaction", gain=gains.get("wide", 0.03), ms_per_token=0.0137),
        "deep": arm_data("cross_encoder", gain=gains.get("deep", 0.07), ms_per_token=0.0411),
        "signals": arm_data("signals", gain=gains.get("signals", 0.011)),
    }
    return json.dumps(profile_data("legal", **arms), indent=1)


def requests(count: int) -> list[Request]:
    """All that callers may send: sizes, signals, budgets, prices, forced and excluded arms."""
    draw = random.Random(20)
    routings = [
        Routing(),
        Routing(),
        Routing(rerank_k=7),
        Routing(allowed=frozenset({Strategy.SIGNALS, Strategy.LATE_INTERACTION})),
        Routing(strategy=Strategy.SIGNALS),
        Routing(strategy=Strategy.CROSS_ENCODER),
        Routing(reranker="grader", rerank_k=5),
    ]
    return [
        Request(
            request_id=f"r{number}",
            corpus=draw.choice(["legal", "unknown"]),
            query=f"{MARKER} what is {draw.random()}?",
            candidates=tuple(
                Candidate(
                    f"{MARKER}{rank}", MARKER * draw.randint(1, 40), {"bm25": draw.gauss(9, 4)} if rank % 3 else {}
                )
                for rank in range(draw.randint(0, 60))
            ),
            budget_ms=draw.choice([None, 0.0, draw.expovariate(1 / 20), draw.expovariate(1 / 500)]),
            max_micro_usd=draw.choice([None, 0, 3_000]),
            routing=draw.choice(routings),
        )
        for number in range(count)
    ]


async def recorded(folder: Path, count: int, max_bytes: int = 1 << 30) -> Path:
    """A decision log of ``count`` real decisions, in which estimators learn and arms come and go."""
    (folder / "legal.json").write_text(legal())
    loaded = profiles.load([str(folder / "legal.json")])
    path = folder / "decisions.jsonl"
    log = DecisionLog(path, max_bytes, lambda: loaded)
    rerankers = [
        ScriptedReranker("wide", Strategy.LATE_INTERACTION, tokens_per_document=3),
        ScriptedReranker("deep", tokens_per_document=31),
        ScriptedReranker("grader", Strategy.LLM, limits=Limits(max_chunk_documents=20, whole_list=True)),
    ]
    parts = rig(*rerankers, profiles=loaded.all(), assumed_gains={"grader": 0.1}, decision_log=log)
    draw = random.Random(21)
    made = 0
    for request in requests(10 * count):
        for reranker in rerankers:
            reranker.state = Availability(draw.choice(_STATES), "as told")
        try:
            await parts.pipeline.rerank(request, draw.choice([None, 80.0]), parts.clock())
        except Exception as error:  # noqa: BLE001 - a forced arm that is off: refused, and no decision
            assert type(error).__name__ == "RerankerOffError"  # noqa: PT017
            continue
        made += 1
        if made == count:
            break
    log.close()
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_thousand_decisions_replay_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every reason and verdict that callers and arms can bring about in them."""
    path = await recorded(tmp_path, 1000)
    entries = lines(path)
    decided = [entry["decided"] for entry in entries if "decided" in entry]
    assert {entry["profile"]["corpus"] for entry in entries if "profile" in entry} == {"default", "legal"}
    assert {entry["reason"] for entry in decided} == {
        reason.value for reason in Reason if reason is not Reason.MODE_OFF
    }
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == "1000 of 1000 decisions replayed bit for bit\n"


async def test_no_text_is_on_record(tmp_path: Path) -> None:
    """Neither a query nor a document, nor a candidate's id."""
    path = await recorded(tmp_path, 50)
    assert sum("decided" in entry for entry in lines(path)) == 50
    assert MARKER not in path.read_text()


async def test_one_changed_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last digit of one prediction, in one decision of fifty: exit code 1, its id and the field."""
    path = await recorded(tmp_path, 50)
    entries = lines(path)
    changed = next(entry for entry in entries if "decided" in entry and entry["decided"]["predicted_p95_ms"] > 0)
    changed["decided"]["predicted_p95_ms"] *= 1 + 2**-52
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert main(["replay", str(path)]) == 1
    assert capsys.readouterr().out == (f"{changed['id']}: predicted_p95_ms\n49 of 50 decisions replayed bit for bit\n")


async def test_rotated_files_are_each_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile stands in every file before the decisions made with it, so that each can be replayed alone."""
    path = await recorded(tmp_path, 300, max_bytes=200_000)
    rotated = tmp_path / "decisions.jsonl.1"
    counts = [sum("decided" in entry for entry in lines(each)) for each in (rotated, path)]
    assert all(counts)
    for each, count in zip((rotated, path), counts, strict=True):
        assert main(["replay", str(each)]) == 0
        assert capsys.readouterr().out == f"{count} of {count} decisions replayed bit for bit\n"
    assert main(["replay", str(rotated), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"decisions": sum(counts), "mismatches": []}


async def test_another_profile_shows_what_would_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile in which only SIGNALS helps takes every model out of the corpus's AUTO decisions; forced ones stay."""
    path = await recorded(tmp_path, 400)
    other = tmp_path / "other.json"
    other.write_text(legal(wide=-0.1, deep=-0.1, signals=0.2))
    assert main(["replay", str(path), "--profile", str(other), "--corpus", "legal", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    before, after = outcome["before"], outcome["after"]
    revision = profiles.read(tmp_path / "legal.json").revision
    own = [entry for entry in lines(path) if "decided" in entry and entry["revision"] == revision]
    assert outcome["decisions"] == before["all"]["decisions"] == after["all"]["decisions"] == len(own)
    free = [
        entry["decided"]
        for entry in own
        if entry["decided"]["reason"] == "best_expected_gain" and entry["decided"]["reranker"] in ("wide", "deep")
    ]
    assert free
    assert outcome["changed"] >= len(free)
    assert {move["from"].partition("@")[0] for move in outcome["moves"]} >= {each["reranker"] for each in free}
    assert not {move["to"].partition("@")[0] for move in outcome["moves"]} & {"wide", "deep"}
    assert sum(move["decisions"] for move in outcome["moves"]) == outcome["changed"]
    assert main(["replay", str(path), "--profile", str(other)]) == 0
    assert "decisions would take another arm with profile 'legal'" in " ".join(capsys.readouterr().out.split())


async def test_half_a_last_line_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is being written; the decisions before it are replayed."""
    path = await recorded(tmp_path, 5)
    path.write_text(path.read_text()[:-20])
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == "4 of 4 decisions replayed bit for bit\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", "line 1 is not JSON"),
        ("[]\n", "line 1 is no JSON object"),
        ('{"format": "millirank.decisions/9", "profile": {}, "revision": "x"}\n', "expected format"),
        ('{"format": "millirank.decisions/1", "profile": {}, "revision": "x"}\n', "$.format: is missing"),
        ('{"id": "1", "revision": "x", "asked": {}, "decided": {}}\n', "needs 'x', which is not there"),
        ("", "there is no such decision"),
    ],
)
def test_files_that_are_no_decision_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    """Exit code 2 with the line and what is wrong with it."""
    path = tmp_path / "decisions.jsonl"
    path.write_text(content)
    assert main(["replay", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and its name, for the log and for the other profile."""
    assert main(["replay", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    (tmp_path / "empty").write_text("")
    assert main(["replay", str(tmp_path / "empty"), "--profile", str(tmp_path / "no.json")]) == 2
    assert "no.json does not exist" in capsys.readouterr().err
