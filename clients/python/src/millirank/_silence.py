"""Notices a sidecar that reads nothing any more, so that its callers' memory stays bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

MAX_UNANSWERED = 64
"""So many calls in a row without a word from the sidecar: more are not sent until it says something."""
PROBE_S = 0.25

_NO_WORD = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class Silence:
    """Whether to hold requests back. Safe to use from several threads.

    gRPC keeps what it could not send until the connection is given up, also of calls that ended long ago (measured
    with grpcio 1.85: 100 kB for each request of 60 kB, for 5 s over TCP and longer over a Unix socket). So requests
    are held back while nobody reads them; a health check, a few bytes, finds out when to go on.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        """``probe`` starts a health check of at most `PROBE_S` and, when that has ended, calls `probed`."""
        self._probe = probe
        self._lock = threading.Lock()
        self._unanswered = 0
        self._probing = False

    def left(self) -> None:
        """A caller went without an answer: its budget ended, or it was cancelled."""
        with self._lock:
            self._unanswered += 1

    def ended(self, code: grpc.StatusCode) -> None:
        """An RPC ended like this. Every end but our own deadline or cancellation is a word from the sidecar, or the
        end of the connection and of what it kept.
        """
        if code not in _NO_WORD:
            with self._lock:
                self._unanswered = 0

    def lasts(self) -> bool:
        """Whether to hold requests back; sees to it that somebody is finding out."""
        with self._lock:
            if self._unanswered < MAX_UNANSWERED:
                return False
            probe = not self._probing
            self._probing = True
        if probe:
            self._probe()
        return True

    def probed(self, code: grpc.StatusCode) -> None:
        """The health check ended like this."""
        self.ended(code)
        with self._lock:
            self._probing = False
