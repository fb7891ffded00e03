"""Profiles that change while they are in use (DESIGN section 6, invariant 12): swapped whole, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from router.profile import Profile, ProfileError
from sidecar.messages import CacheStatus, Candidate, Request
from sidecar.profile_watch import ProfileWatch
from sidecar.profiles import Profiles
from tests.helpers import ScriptedReranker, arm_data, profile, profile_data, rig

SOON_S = 30.0  # far more than a look takes: only a watch that sees nothing reaches it
EARLIER, LATER = (json.dumps(profile_data("legal", scripted=arm_data(gain=gain))) for gain in (0.1, 0.2))


class Watched:
    """A watch over one folder that looks every 10 ms, and what it told its followers."""

    def __init__(self, folder: Path) -> None:
        self.reloads: list[bool] = []
        self.swaps: list[Profiles] = []
        self.watch = ProfileWatch([str(folder)], on_reload=self.reloads.append, poll_s=0.01)
        self.watch.follow(self.swaps.append)

    def legal(self) -> Profile:
        return self.watch.current.select("legal")

    async def until_reloads(self, count: int) -> None:
        task = asyncio.create_task(self.watch.run())
        try:
            async with asyncio.timeout(SOON_S):
                while len(self.reloads) < count:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)  # several looks more: nothing else happens
        finally:
            task.cancel()
        assert len(self.reloads) == count


async def test_changed_file_is_swapped_in(tmp_path: Path) -> None:
    """Once, with everybody told; the profile that a request holds stays what it was."""
    path = tmp_path / "legal.json"
    path.write_text(EARLIER)
    watched = Watched(tmp_path)
    held = watched.legal()
    path.write_text(LATER)
    await watched.until_reloads(1)
    assert watched.reloads == [True]
    assert watched.swaps == [watched.watch.current]
    assert watched.legal().arms["scripted"].gains[""].points[0].gain == 0.2
    assert held.arms["scripted"].gains[""].points[0].gain == 0.1


async def test_bad_file_keeps_the_old_profiles_and_says_why(tmp_path: Path) -> None:
    """Told once, not at every look; the file that is mended is taken, and the error is gone."""
    path = tmp_path / "legal.json"
    path.write_text(EARLIER)
    watched = Watched(tmp_path)
    before = watched.watch.current
    path.write_text(EARLIER.replace("0.1", "7.5"))
    await watched.until_reloads(1)
    assert watched.reloads == [False]
    assert watched.watch.current is before
    assert watched.swaps == []
    assert watched.watch.error.startswith(f"profile {path}: $.arms.scripted")
    path.write_text(LATER)
    await watched.until_reloads(2)
    assert watched.watch.error == ""
    assert watched.legal().arms["scripted"].gains[""].points[0].gain == 0.2


async def test_one_bad_file_of_two_changes_neither(tmp_path: Path) -> None:
    """All or none: what decides is always a set of files that stood there together."""
    (tmp_path / "legal.json").write_text(EARLIER)
    watched = Watched(tmp_path)
    (tmp_path / "legal.json").write_text(LATER)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ProfileError, match=r"broken\.json is not valid JSON"):
        await watched.watch.reload()
    assert watched.legal().arms["scripted"].gains[""].points[0].gain == 0.1


async def test_new_and_removed_files(tmp_path: Path) -> None:
    """A corpus gets its own profile when the file appears, and the default one again when it goes."""
    watched = Watched(tmp_path)
    (tmp_path / "legal.json").write_text(EARLIER)
    await watched.until_reloads(1)
    assert watched.legal().corpus == "legal"
    (tmp_path / "legal.json").unlink()
    await watched.until_reloads(2)
    assert watched.legal().corpus == "default"


async def test_swapped_link_is_a_change(tmp_path: Path) -> None:
    """As a Kubernetes ConfigMap is updated: the visible file is a link through `..data`, and only that one is
    replaced. Both versions have the same size."""
    folder = tmp_path / "mount"
    for version, content in (("..v1", EARLIER), ("..v2", LATER)):
        (folder / version).mkdir(parents=True)
        (folder / version / "legal.json").write_text(content)
        os.utime(folder / version / "legal.json", (1, 1))
    (folder / "..data").symlink_to("..v1")
    (folder / "legal.json").symlink_to("..data/legal.json")
    watched = Watched(folder)
    (folder / "..tmp").symlink_to("..v2")
    (folder / "..tmp").replace(folder / "..data")
    await watched.until_reloads(1)
    assert watched.legal().arms["scripted"].gains[""].points[0].gain == 0.2


async def test_rewritten_with_equal_content_is_no_change(tmp_path: Path) -> None:
    """Nobody is told of a file that was only touched, by looking or by asking."""
    path = tmp_path / "legal.json"
    path.write_text(EARLIER)
    watched = Watched(tmp_path)
    os.utime(path, (1, 1))
    await watched.until_reloads(0)
    assert await watched.watch.reload() == ()
    assert watched.swaps == []


async def test_kept_answers_of_the_old_profile_are_not_given_out() -> None:
    """Result cache keys hold the profile's revision: after a swap an equal request is computed with the new
    weights, although its answer under the old ones is still kept."""
    scripted = ScriptedReranker()

    def weighing(bm25: float, revision: str) -> Profiles:
        made = profile(scripted=arm_data(weights={"bm25": bm25}))
        made = Profile(made.corpus, revision, made.arms, made.rerank_ks, made.min_gain_per_second, made.known_signals)
        return Profiles(made, {})

    parts = rig(scripted)
    candidates = tuple(
        Candidate(str(rank), text, {"bm25": 3.0 - rank}) for rank, text in enumerate(("blue", "grey", "red green"))
    )
    request = Request("r", "", "red green", candidates, budget_ms=10_000.0)

    async def answered() -> tuple[CacheStatus, list[int]]:
        answer = await parts.pipeline.rerank(request, None, parts.clock())
        return answer.cache, [ranked.position for ranked in answer.outcome.ranked]

    parts.planner.use(weighing(0.0, "first"))
    assert await answered() == (CacheStatus.MISS, [2, 0, 1])
    assert await answered() == (CacheStatus.HIT, [2, 0, 1])
    parts.planner.use(weighing(9.0, "second"))
    assert await answered() == (CacheStatus.MISS, [0, 1, 2])
    parts.planner.use(weighing(0.0, "first"))
    assert await answered() == (CacheStatus.HIT, [2, 0, 1])
