"""The profiles in use: read again when their files change, swapped all together or not at all.

Polled, because that needs no library and works wherever files come from: a Kubernetes ConfigMap appears as symbolic
links, of which one far up the path is swapped, so that the file itself never changes and inotify on it is silent.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from router.profile import ProfileError
from sidecar import profiles
from sidecar.logs import place
from sidecar.profiles import Profiles

_log = logging.getLogger("millirank.profiles")

POLL_S = 2.0

# What tells that a file is another one or has been written to: real path, inode, size, time of the last write.
_State: TypeAlias = tuple[tuple[str, int, int, int], ...]


class ProfileWatch:
    """``current`` are the profiles that decide; ``error`` says why the files, as they are now, can't be used ('' if
    they are what decides)."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        on_reload: Callable[[bool], None] = lambda accepted: None,
        poll_s: float = POLL_S,
    ) -> None:
        """Reads ``paths`` (see `profiles.load`) at once. ``on_reload`` is told of every later attempt that changed the
        profiles or was refused. Raises ProfileError.
        """
        self._paths = tuple(paths)
        self._on_reload = on_reload
        self._poll_s = poll_s
        self._followers: list[Callable[[Profiles], None]] = []
        self._reading = asyncio.Lock()
        # The state before the content, here and below: what is written in between is a change at the next look.
        self._seen = _state(self._paths)
        self.current = profiles.load(self._paths)
        self.error = ""

    def follow(self, follower: Callable[[Profiles], None]) -> None:
        """Call ``follower`` with the new profiles, on the event loop, whenever they are swapped."""
        self._followers.append(follower)

    async def run(self) -> None:
        """Look for changes until cancelled; without paths there is nothing to look at. A file that can't be used is
        logged once, not at every look."""
        while self._paths:
            await asyncio.sleep(self._poll_s)
            if await asyncio.to_thread(_state, self._paths) == self._seen:
                continue
            try:
                await self.reload()
            except ProfileError:
                continue  # logged, counted and kept in `error`
            except Exception as error:  # noqa: BLE001 - a watch that ends on a bug would miss every later change
                _log.error("looking for profiles failed", extra={"error": place(error)})

    async def reload(self) -> tuple[str, ...]:
        """Read all files again and swap the profiles. Returns the corpora whose profile changed.

        Raises ProfileError naming the file and the fix; the profiles stay as they are.
        """
        async with self._reading:
            self._seen = await asyncio.to_thread(_state, self._paths)
            try:
                loaded = await asyncio.to_thread(profiles.load, self._paths)
            except ProfileError as error:
                self.error = str(error)
                _log.warning("profiles refused, the old ones stay", extra={"detail": self.error})
                self._on_reload(False)
                raise
            self.error = ""
            changed = loaded.changed_from(self.current)
            if changed:
                self.current = loaded
                for follow in self._followers:
                    follow(loaded)
                revisions = {each.corpus: each.revision for each in loaded.all()}
                _log.info("profiles reloaded", extra={"changed": changed, "revisions": revisions})
                self._on_reload(True)
            return changed


def _state(paths: Sequence[str]) -> _State:
    """Costs a few system calls a file; reads none."""
    found = []
    for path in profiles.files(paths):
        try:
            status = os.stat(path)
            found.append((os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((str(path), 0, 0, 0))
    return tuple(found)
