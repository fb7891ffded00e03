"""The decision page in a real browser: it draws what it is told, and what it is told is text."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from millirank import Client

from tests.deploy.observing import free_address, tool
from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.sidecar_process import SidecarProcess

HOSTILE = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>"""


@pytest.mark.timeout(180)
def test_a_browser_draws_decisions_and_runs_no_name(tmp_path: Path) -> None:
    """Rows, marks and curves are there; a reranker whose name is markup is shown as it is written."""
    chromium = tool("chromium", "install the Debian package chromium")
    page = free_address()
    configuration = tmp_path / "millirank.toml"
    name = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    configuration.write_text(f'[rerankers."{name}"]\nstrategy = "cross_encoder"\nmodel = "/nowhere"\n')
    variables = model_settings(tmp_path) | {"MILLIRANK_LISTEN__PAGE": page}
    with SidecarProcess(variables, "--config", str(configuration)) as sidecar:
        (target,) = sidecar.addresses
        wait_until_ready(target)
        with Client(target) as client:
            for number in range(3):
                client.rerank(f"query {number}", ["a text", "another text"], budget_ms=10_000)
        ended = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=5000",
                "--dump-dom",
                f"http://{page}/",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    dom = ended.stdout
    assert re.search("<title>Millirank: decisions</title>", dom)
    assert len(re.findall(r'<tr class="decision"', dom)) == 3
    assert len(re.findall(r'<circle class="dot late_interaction', dom)) >= 6  # in both charts
    assert '<polyline class="curve late_interaction"' in dom
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in dom
    assert "<img" not in dom
    assert len(re.findall("<script", dom)) == 1  # the page's own
