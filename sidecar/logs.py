"""JSON lines on stderr: one object a line, never any query or document text."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

# What every LogRecord has; everything else on it came in through `extra` and is logged.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_log = logging.getLogger("millirank")


class JsonFormatter(logging.Formatter):
    """One JSON object for each record: time, level, logger, message, and what `extra` brought."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            # Messages of exceptions may quote texts; the type is safe.
            entry["error"] = record.exc_info[0].__qualname__
        return json.dumps(entry, default=str, ensure_ascii=False)


def set_up(level: str) -> None:
    """Send all logging through `JsonFormatter` to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Their INFO lines repeat what our own say.
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "opentelemetry"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def place(error: BaseException) -> str:
    """An exception's type and where it was raised, without its message, which may quote a text."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else "unknown place"
    return f"{type(error).__qualname__} at {where}"


def report_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught on an event loop, in place of asyncio's own report.

    That one quotes a callback's arguments and an exception's words, and both may be documents.
    """
    error = context.get("exception")
    _log.error(
        "unhandled error on the event loop",
        extra={"error": place(error) if error is not None else "unknown"},
    )
