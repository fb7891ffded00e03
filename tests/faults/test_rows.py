"""The table of what may go wrong names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"`([^`]+)::(\w+)`", Path(__file__).with_name("README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_row_has_its_test(path: str, name: str) -> None:
    """A test of that name is defined in that file."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert re.search(rf"\b(def|func|void) {name}\(", text)


def test_table_is_read() -> None:
    """The rows above are all of the table's."""
    assert len(ROWS) > 40
