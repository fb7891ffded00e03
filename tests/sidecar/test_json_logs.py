"""Logs: one JSON object a line, and no words of exceptions in it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import pytest

from sidecar import logs
from tests.helpers import MARKER


def formatted(**fields: object) -> dict[str, object]:
    line = logs.JsonFormatter().format(logging.makeLogRecord(fields))
    assert "\n" not in line
    return json.loads(line)


def test_a_record_is_one_object_on_one_line() -> None:
    """Time, level, logger and message are there, line breaks are escaped, `extra` is added as it is."""
    entry = formatted(
        name="millirank.x", levelno=30, levelname="WARNING", msg="a %s\nb", args=("ü",), request_id="r", n=3
    )
    assert entry["level"] == "warning"
    assert entry["logger"] == "millirank.x"
    assert entry["message"] == "a ü\nb"
    assert (entry["request_id"], entry["n"]) == ("r", 3)
    assert str(entry["time"]).endswith("+00:00")


def test_what_json_can_not_hold_is_written_as_text() -> None:
    """An object in `extra` never breaks a log line."""
    assert formatted(msg="m", where={1}.__class__)["where"] == "<class 'set'>"


def test_exceptions_are_logged_by_type_only() -> None:
    """Invariant 11: the words of an exception may quote a document; only its type is logged."""
    try:
        raise ValueError(MARKER)
    except ValueError:
        entry = formatted(msg="failed", exc_info=sys.exc_info())
    assert entry["error"] == "ValueError"
    assert MARKER not in json.dumps(entry)


async def test_errors_of_the_event_loop_are_logged_without_words(caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 11: asyncio's own report quotes a callback's arguments and its exception; ours has neither."""
    asyncio.get_running_loop().set_exception_handler(logs.report_loop_error)
    reported = asyncio.Event()

    def fail(text: str) -> None:
        asyncio.get_running_loop().call_soon(reported.set)
        raise ValueError(text)

    asyncio.get_running_loop().call_soon(fail, MARKER)
    await reported.wait()
    (record,) = caplog.records
    line = logs.JsonFormatter().format(record)
    assert record.levelno == logging.ERROR
    assert "ValueError at " in json.loads(line)["error"]
    assert MARKER not in line
