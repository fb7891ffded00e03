"""Inputs that once came out as something else than the reader's own error, cut to what matters."""

from __future__ import annotations

_DEEP = b"[" * 3000  # more than Python's recursion can follow: RecursionError is no ValueError
_LONG = b"9" * 5000  # more digits than Python turns into a number: ValueError, but no JSONDecodeError
_HALF = b'"\\ud800"'  # half of a surrogate pair: JSON spells it, UTF-8 has no bytes for it

FINDINGS: tuple[tuple[str, bytes], ...] = (
    # The answer could not be encoded, so that the caller got a bare 500.
    ("http", b'\n\n\n{"query": "q", "documents": ["d"], ' + _HALF + b": 1}"),
    ("http", b'\n\xff\n\n{"query": "q", "documents": ["d"]}'),
    ("http", b'\n\n\xff\n{"query": "q", "documents": ["d"]}'),
    # The error named no field.
    ("http", b'\n\n\n{"": 1}'),
    ("config", b"mode = " + _DEEP),
    ("config", b"\0MODE=" + _DEEP),
    ("profile", b"{" + _HALF + b": 1}"),
    ("index", _DEEP),
    ("index-ids", _DEEP),
    ("model", _DEEP),
    ("model", b'{"name": ' + _HALF + b"}"),
    ("documents", _DEEP),
    ("documents", _LONG),
    ("candidates", _DEEP),
    ("candidates", _LONG),
    ("decisions", _DEEP + b"\n"),
    ("decisions", _LONG + b"\n"),
    ("shadow", _DEEP + b"\n"),
    ("shadow", b'{"format": "millirank.shadow/1", "corpus": ""}\n'),
)
