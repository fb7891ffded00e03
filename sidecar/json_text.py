"""JSON from files and other people, whose only error is ValueError."""

from __future__ import annotations

import json
from typing import Any


def loads(data: str | bytes) -> Any:
    """Decoded JSON. Raises ValueError for what is none, and, unlike `json.loads`, for nesting that Python can't follow,
    bytes that are not UTF-8 (a byte order mark is skipped) and half of a surrogate pair, which no later step could
    encode again."""
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not text.isascii() or "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair, which is no text") from None
    return value
