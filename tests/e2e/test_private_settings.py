"""A command's private sidecar shares its user's configuration, but nothing that belongs to the one that serves."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.sidecar_process import NO_MODELS, SidecarProcess, millirank


def test_explain_beside_a_sidecar_with_the_same_configuration(tmp_path: Path) -> None:
    """Both have the same administration port and the same decision log: the command takes neither."""
    log = tmp_path / "decisions.jsonl"
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LISTEN__ADMIN": "127.0.0.1:0"}) as first:
        admin = str(first.wait_for_log("administration")["address"])
        variables = {**NO_MODELS, "MILLIRANK_LISTEN__ADMIN": admin, "MILLIRANK_DECISION_LOG__FILE": str(log)}
        text = '{"text": "a"}\n{"text": "b"}\n'
        done = millirank("explain", "q", "--json", variables=variables, text=text)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["strategy"] == "none"
        assert not log.exists()
