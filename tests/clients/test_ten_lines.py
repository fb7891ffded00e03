"""The ten lines in clients/README.md: Python's are run as they stand, Go's and Java's stand in tests of theirs."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from millirank import Client, Outcome
from millirank.testing import FakeSidecar

CLIENTS = Path(__file__).parents[2] / "clients"
IN_TESTS = {
    "go": CLIENTS / "go/millirank/ten_lines_test.go",
    "java": CLIENTS / "java/client/src/test/java/io/millirank/client/TenLinesTest.java",
}


def shown(language: str) -> str:
    """The README's block in this language."""
    text = (CLIENTS / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(block)


def lines(text: str) -> str:
    """The lines without their indentation."""
    return "\n".join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize("language", IN_TESTS)
def test_what_is_shown_is_what_is_tested(language: str) -> None:
    """Each paragraph stands, line by line, in the test that compiles and runs it."""
    tested = lines(IN_TESTS[language].read_text(encoding="utf-8"))
    paragraphs = lines(shown(language)).strip().split("\n\n")

    assert len(paragraphs) == 2
    for paragraph in paragraphs:
        assert paragraph in tested


@pytest.mark.parametrize("up", [True, False])
def test_python_runs_as_shown(up: bool, sidecar: FakeSidecar) -> None:
    """A sidecar's order reaches the service; where it is not there, the service's own order stays."""
    hits = [SimpleNamespace(body="alpha", score=2.0), SimpleNamespace(body="beta", score=1.0)]
    names: dict[str, Any] = {
        "Client": lambda target: Client(sidecar.target),
        "Outcome": Outcome,
        "log": logging.getLogger("search"),
        "query": "query",
        "hits": hits,
    }
    expected = hits[::-1] if up else hits
    if not up:
        sidecar.stop()
    for _ in range(3):  # 50 ms may pass on a machine that others load
        exec(shown("python"), names)  # noqa: S102 - it is our own README
        names["client"].close()
        if names["page"] == expected:
            break

    assert names["page"] == expected
