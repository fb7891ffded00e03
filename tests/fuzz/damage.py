"""Good input, damaged the way that finds most: what is read badly is seldom read badly at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_TOKENS = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"NaN", b"-Infinity", b"1e999", b"-1", b"0",
    b"null", b"true", b'""', b"[]", b"{}", b"9" * 400, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\n",
    b'"', b"=", b".",
)  # fmt: skip


def damaged(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged copies, the same ones for the same ``seed``."""
    source = random.Random(seed)
    for _ in range(count):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 3)):
            at = source.randint(0, len(data))
            to = min(len(data), at + source.choice((0, 1, 1, 2, 8, 64)))
            match source.randrange(5):
                case 0 if data:
                    data[at % len(data)] ^= 1 << source.randrange(8)
                case 1:
                    del data[at:to]
                case 2:
                    data[at:to] = source.choice(_TOKENS)
                case 3:
                    del data[at:]
                case _:
                    data[at:at] = data[at:to] * source.choice((1, 2, 100))
        yield bytes(data)
