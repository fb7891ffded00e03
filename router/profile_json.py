"""Typed reading of a profile's decoded JSON: what is not as it should be is named by its path, with the fix."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class ProfileError(ValueError):
    """A profile that cannot be used. The message starts with the JSON path and ends with the fix."""


def json_object(
    data: object, path: str, required: Iterable[str] = (), optional: Iterable[str] = ()
) -> Mapping[str, object]:
    """A JSON object with all of ``required`` and nothing but ``required`` and ``optional``."""
    fields, required = json_mapping(data, path), tuple(required)
    allowed = (*required, *optional)
    for key in fields:
        if key not in allowed:
            raise ProfileError(
                f"{path}{step(key)}: unknown key{suggestion(key, allowed)}; allowed here: {', '.join(allowed)}"
            )
    for key in required:
        if key not in fields:
            raise ProfileError(f"{path}.{key}: is missing; add it")
    return fields


def json_mapping(data: object, path: str) -> Mapping[str, object]:
    if not isinstance(data, dict):
        raise ProfileError(f"{path}: expected an object, got {_kind(data)}")
    return data


def json_list(data: object, path: str) -> list[object]:
    if not isinstance(data, list):
        raise ProfileError(f"{path}: expected a list, got {_kind(data)}")
    return data


def json_text(data: object, path: str) -> str:
    if not isinstance(data, str) or not data.strip():
        raise ProfileError(f"{path}: expected a non-empty string, got {data!r}")
    return data


def json_integer(data: object, path: str, low: int) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise ProfileError(f"{path}: expected a whole number, got {data!r}")
    if data < low:
        raise ProfileError(f"{path}: must be at least {low}, got {data}")
    return data


def json_number(data: object, path: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise ProfileError(f"{path}: expected a number, got {data!r}")
    # JSON allows whole numbers beyond the range of a float, and Python's reader lets NaN and Infinity
    # through.
    if not abs(data) <= sys.float_info.max:
        raise ProfileError(
            f"{path}: expected a finite number, got {data:g}" if isinstance(data, float) else f"{path}: is too large"
        )
    if not low <= data <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ProfileError(f"{path}: must be {bounds}, got {data}")
    return float(data)


def _kind(data: object) -> str:
    return "null" if data is None else type(data).__name__


def step(key: str) -> str:
    """One step of a JSON path: .name, or ["any text"] where the dot form would be ambiguous."""
    return f".{key}" if key.isidentifier() else f'["{key}"]'


def suggestion(word: str, choices: Iterable[str]) -> str:
    close = get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
