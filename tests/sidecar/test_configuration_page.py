"""docs/configuration.md is what the settings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sidecar.settings import known_keys

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_current() -> None:
    """`make docs` would change nothing."""
    made = subprocess.run(
        [sys.executable, DOCS / "make_configuration.py"], capture_output=True, text=True, check=True, timeout=60
    )
    assert made.stdout == (DOCS / "configuration.md").read_text(), "run: make docs"


def test_every_setting_is_there_with_what_it_is_for() -> None:
    """No name is left out, and none stands without words."""
    rows = [line for line in (DOCS / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    told = {row.split("`")[1] for row in rows}
    # Which kind of reranker a table is, the headings say.
    wanted = {key for key in known_keys() if key not in ("rerankers.NAME.strategy", "rerankers.NAME.engine")}
    assert told == wanted
    without_words = [row for row in rows if not row.removesuffix("|").rsplit("|", 1)[1].strip()]
    assert without_words == []
