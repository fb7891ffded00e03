"""Shadow evaluation in a real process with two real models: one answers, the other one judges."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from millirank import Client

from sidecar.calibrate.from_shadow import judged_lists
from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.helpers import MARKER

DOCUMENTS = (
    f"{MARKER} Bananas are grown in Ecuador and in the Philippines.",
    f"{MARKER} The calendar module tells how many days a month has.",
    f"{MARKER} A month has 28 to 31 days; monthrange returns the number of days.",
    f"{MARKER} Steel is made of iron and carbon.",
)


def test_answers_are_judged_behind_their_callers_backs(tmp_path: Path) -> None:
    """With share 1, late interaction's answers are compared with the cross-encoder: one record for each request that
    found an idle moment, under the id that the caller was told, with both models' scores and no text."""
    path = tmp_path / "shadow.jsonl"
    variables = model_settings(tmp_path) | {
        "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "true",
        "MILLIRANK_SHADOW__SHARE": "1",
        "MILLIRANK_SHADOW__RERANKER": "tiny-cross-encoder",
        "MILLIRANK_SHADOW__FILE": str(path),
        "MILLIRANK_LINGER_S": "0",
    }
    told = {}
    with SidecarProcess(variables) as sidecar:
        address = sidecar.addresses[0]
        wait_until_ready(address)
        end = time.monotonic() + PATIENCE_S
        with Client(address) as client:
            while not (path.exists() and len(path.read_text().splitlines()) >= 3):
                assert time.monotonic() < end, sidecar.output
                ranking = client.rerank(
                    f"{MARKER} days in a month {len(told)}",
                    list(DOCUMENTS),
                    corpus="docs",
                    reranker="minilm-l6",
                    budget_ms=30_000,
                )
                assert ranking.decision is not None
                told[ranking.decision.id] = [item.index for item in ranking]
                time.sleep(0.3)
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit_code() == 0
        assert MARKER not in sidecar.output
    assert MARKER not in path.read_text()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {record["id"]: record["order"] for record in records}.items() <= told.items()
    assert all(0.0 < record["rbo"] <= 1.0 + 1e-9 for record in records)
    found = judged_lists([path], "docs")
    assert found.reference[0] == "tiny-cross-encoder"
    assert len(found.lists) == len(records)
    assert all(set(judged.raw) == {"minilm-l6", "tiny-cross-encoder"} for judged in found.lists)
