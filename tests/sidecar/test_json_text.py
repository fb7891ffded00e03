"""JSON that other people wrote: decoded, or a ValueError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import json_text

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


@given(_JSON)
def test_what_json_writes_is_read(value: object) -> None:
    """As text, as UTF-8, escaped or not, and after a byte order mark."""
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert json_text.loads(text) == json_text.loads(text.encode()) == value
        assert json_text.loads(b"\xef\xbb\xbf" + text.encode()) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "can't decode"),
        ('"a"'.encode("utf-16"), "can't decode"),
        ("9" * 5000, "Exceeds the limit"),
        ("{", "Expecting"),
    ],
)
def test_what_is_none(data: str | bytes, words: str) -> None:
    """One kind of error, whatever it is."""
    with pytest.raises(ValueError, match=words):
        json_text.loads(data)


def test_whole_surrogate_pair_is_text() -> None:
    """An emoji that is written as two escapes is one character."""
    assert json_text.loads('"\\ud83d\\ude00"') == "\U0001f600"
