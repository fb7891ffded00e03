"""Profile files: which one serves a corpus, and what is wrong with one that can't be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.profile import ProfileError
from sidecar import profiles
from tests.helpers import profile_data


def written(folder: Path, corpus: str, name: str = "") -> str:
    path = folder / (name or f"{corpus}.json")
    path.write_text(json.dumps(profile_data(corpus)), encoding="utf-8")
    return str(path)


def refused(*paths: str) -> str:
    with pytest.raises(ProfileError) as caught:
        profiles.load(paths)
    return str(caught.value)


def test_a_corpus_gets_its_own_profile_and_others_the_default(tmp_path: Path) -> None:
    """Selection is by the corpus inside the file; unknown and empty names get the default one."""
    loaded = profiles.load([written(tmp_path, "default"), written(tmp_path, "legal", "any-name.json")])
    assert loaded.select("legal").corpus == "legal"
    assert loaded.select("unknown") is loaded.default
    assert loaded.select("") is loaded.default
    assert loaded.default.corpus == "default"


def test_revision_is_the_digest_of_the_file(tmp_path: Path) -> None:
    """Equal bytes have equal revisions, one changed byte another."""
    first = profiles.read(Path(written(tmp_path, "default")))
    same = profiles.read(Path(written(tmp_path, "default", "copy.json")))
    path = Path(written(tmp_path, "default", "other.json"))
    path.write_text(path.read_text() + "\n")
    assert first.revision == same.revision
    assert profiles.read(path).revision != first.revision


def test_two_profiles_for_one_corpus_are_refused(tmp_path: Path) -> None:
    """Which one counts must not depend on their order: both files are named."""
    message = refused(written(tmp_path, "legal"), written(tmp_path, "legal", "again.json"))
    assert "legal.json" in message
    assert "again.json" in message
    assert "keep one" in message


def test_missing_file(tmp_path: Path) -> None:
    """The path and the setting that names it."""
    message = refused(str(tmp_path / "absent.json"))
    assert "absent.json does not exist; correct `profiles`" in message


def test_folder_stands_for_the_profiles_in_it(tmp_path: Path) -> None:
    """Every *.json in it, links too; hidden files and other kinds are not looked at. An empty one is no mistake."""
    assert profiles.load([str(tmp_path)]).select("legal").corpus == "default"
    written(tmp_path, "legal")
    (tmp_path / "medical.json").symlink_to(written(tmp_path, "medical", "..hidden.json"))
    (tmp_path / "notes.txt").write_text("no profile")
    assert [each.corpus for each in profiles.load([str(tmp_path)]).all()] == ["default", "legal", "medical"]


def test_source_of_a_profile_is_kept(tmp_path: Path) -> None:
    """The file and its text, byte for byte; the built-in one has no file."""
    path = written(tmp_path, "legal")
    loaded = profiles.load([path])
    assert loaded.sources["legal"] == profiles.Source(Path(path), Path(path).read_text())
    assert loaded.sources["default"] == profiles.Source(None, profiles.BUILT_IN.read_text())


def test_changed_corpora(tmp_path: Path) -> None:
    """New, gone and rewritten ones are changed; equal bytes are not, wherever they lie."""
    before = profiles.load([written(tmp_path, "a"), written(tmp_path, "b"), written(tmp_path, "c")])
    (tmp_path / "b.json").write_text((tmp_path / "b.json").read_text() + " ")
    after = profiles.load([written(tmp_path, "a", "moved.json"), str(tmp_path / "b.json"), written(tmp_path, "d")])
    assert after.changed_from(before) == before.changed_from(after) == ("b", "c", "d")
    assert after.changed_from(after) == ()


def test_unreadable_file(tmp_path: Path) -> None:
    """What can't be read is told as such: here a path that goes on behind a file."""
    assert "can't be read: Not a directory" in refused(written(tmp_path, "legal") + "/more.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"9" * 5_000])
def test_file_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    """Truncated and binary files are named."""
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    assert f"profile {path} is not valid JSON" in refused(str(path))


def test_broken_content_has_file_and_json_path(tmp_path: Path) -> None:
    """A profile with a wrong value says in which file and where in it."""
    path = Path(written(tmp_path, "default"))
    data = json.loads(path.read_text())
    data["arms"]["scripted"]["latency"]["base_ms"] = -1
    path.write_text(json.dumps(data))
    message = refused(str(path))
    assert message.startswith(f"profile {path}: $.arms.scripted.latency.base_ms: must be at least 0")
