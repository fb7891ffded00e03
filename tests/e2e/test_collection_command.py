"""``millirank collection``: what the examples in other languages index."""

from __future__ import annotations

import json

from sidecar_process import millirank


def test_documents_are_json_lines() -> None:
    """Every line has an id and a text; ids are unique; there are thousands of them."""
    done = millirank("collection")

    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(row) == {"id", "text"} and row["text"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows) > 5_000


def test_questions_name_documents_of_the_collection() -> None:
    """Every question has at least one answer, and every answer is a document's id."""
    ids = {json.loads(line)["id"] for line in millirank("collection").stdout.splitlines()}
    done = millirank("collection", "--questions")

    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    for row in rows:
        assert row["answers"], row["id"]
        assert set(row["answers"]) <= ids
