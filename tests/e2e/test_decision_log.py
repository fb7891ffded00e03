"""The decision log of a real process, replayed by the real command."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from millirank import Client

from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess, millirank
from tests.helpers import MARKER, arm_data, profile_data


def test_decisions_before_and_after_a_reload_replay(tmp_path: Path) -> None:
    """Each with the profile that made it, although both are of one corpus; all that was decided is there after
    SIGTERM, under the ids that the callers were told, and no text is."""
    profile, log = tmp_path / "legal.json", tmp_path / "decisions.jsonl"
    variables = {
        **NO_MODELS,
        "MILLIRANK_PROFILES": json.dumps([str(profile)]),
        "MILLIRANK_DECISION_LOG__FILE": str(log),
        "MILLIRANK_LINGER_S": "0",
    }
    told = []

    def write(gain: float) -> None:
        profile.write_text(json.dumps(profile_data("legal", signals=arm_data("signals", gain=gain))))

    def ask(client: Client, count: int) -> None:
        for number in range(count):
            documents = [f"{MARKER} {number}"] * (2 + number % 5)
            ranking = client.rerank(
                MARKER, documents, corpus="legal", signals=lambda text: {"bm25": 1.5}, budget_ms=30_000
            )
            assert ranking.decision is not None
            told.append((ranking.decision.id, ranking.decision.strategy.value))

    write(0.2)
    with SidecarProcess(variables) as sidecar:
        with Client(sidecar.addresses[0]) as client:
            ask(client, 20)
            write(-0.2)
            sidecar.wait_for_log("profiles reloaded")
            ask(client, 20)
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit_code() == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(each["id"], each["decided"]["strategy"]) for each in entries if "decided" in each] == told
    assert {strategy for _, strategy in told[:20]} == {"signals"}
    assert {strategy for _, strategy in told[20:]} == {"none"}
    assert sum("profile" in each for each in entries) == 2
    assert MARKER not in log.read_text()
    done = millirank("replay", str(log))
    assert (done.returncode, done.stdout) == (0, "40 of 40 decisions replayed bit for bit\n")
    done = millirank("replay", str(log), "--profile", str(profile))
    assert "20 of 40 decisions would take another arm" in " ".join(done.stdout.split())


def test_file_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    """Exit code 2 with the setting and the reason."""
    variables = {**NO_MODELS, "MILLIRANK_DECISION_LOG__FILE": str(tmp_path / "absent" / "decisions.jsonl")}
    done = millirank("serve", variables=variables)
    assert done.returncode == 2
    assert "decision_log.file: " in done.stderr
    assert "can't be written: No such file or directory" in done.stderr
