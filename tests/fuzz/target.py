"""One reader of bytes from outside, and its promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.errors import InvalidFieldError, to_failure


@dataclass(frozen=True, slots=True)
class Target:
    """``read`` takes any bytes; ``refused`` are the only exceptions that may come of them. ``seeds`` are good input."""

    name: str
    read: Callable[[bytes], None]
    refused: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def probe(self, data: bytes) -> bool:
        """Whether the bytes were taken; raises where they break the promise."""
        try:
            self.read(data)
        except self.refused as error:
            refusal = error
        else:
            return True
        message = str(refusal)
        assert message, "an error says something"
        assert len(message) <= 4 * len(data) + 4096, "an error does not repeat everything"
        message.encode()  # no half of a surrogate pair: it could not be sent, logged or printed
        if isinstance(refusal, InvalidFieldError):
            assert refusal.field
            to_failure(refusal, "id")
        return False
