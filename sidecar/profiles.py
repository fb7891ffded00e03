"""The profiles that a sidecar decides with: the built-in default, and one file for each calibrated corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.profile import Profile, ProfileError, parse
from sidecar import json_text

BUILT_IN = Path(__file__).with_name("builtin_profile.json")
DEFAULT_CORPUS = "default"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a profile comes from: its file (None: the built-in one) and the file's text."""

    path: Path | None
    text: str


@dataclass(frozen=True, slots=True)
class Profiles:
    """Profiles by corpus; ``default`` serves every corpus that has none. ``sources`` are by corpus too."""

    default: Profile
    by_corpus: Mapping[str, Profile]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def select(self, corpus: str) -> Profile:
        """The corpus's own profile, or the default one."""
        return self.by_corpus.get(corpus, self.default)

    def all(self) -> Iterator[Profile]:
        """The default one first, the others by corpus."""
        yield self.default
        for corpus in sorted(self.by_corpus):
            if corpus != self.default.corpus:
                yield self.by_corpus[corpus]

    def changed_from(self, other: Profiles) -> tuple[str, ...]:
        """The corpora whose profile is another one than in ``other``, sorted."""
        ours, theirs = ({each.corpus: each.revision for each in profiles.all()} for profiles in (self, other))
        return tuple(sorted(corpus for corpus in ours.keys() | theirs.keys() if ours.get(corpus) != theirs.get(corpus)))


def load(paths: Sequence[str]) -> Profiles:
    """The built-in profile and those in ``paths``; a file for corpus 'default' replaces the built-in one.

    A path may be a folder: then it stands for the ``*.json`` in it, which may be none. Raises ProfileError naming the
    file and the fix.
    """
    by_corpus: dict[str, Profile] = {}
    sources: dict[str, Source] = {}
    for path in files(paths):
        profile, source = _read(path)
        if profile.corpus in sources:
            raise ProfileError(
                f"profiles {sources[profile.corpus].path} and {path} are both for corpus {profile.corpus!r}; keep one"
            )
        sources[profile.corpus] = source
        by_corpus[profile.corpus] = profile
    default = by_corpus.get(DEFAULT_CORPUS)
    if default is None:
        default, built_in = _read(BUILT_IN)
        sources[DEFAULT_CORPUS] = Source(None, built_in.text)
    return Profiles(default, by_corpus, sources)


def files(paths: Sequence[str]) -> list[Path]:
    """The profile files that ``paths`` mean; a folder's in the order of their names, hidden ones left out."""
    found = []
    for path in map(Path, paths):
        if os.path.isdir(path):  # unlike Path's own, False also where looking is forbidden: reading then says so
            found += sorted(each for each in path.glob("*.json") if not each.name.startswith("."))
        else:
            found.append(path)
    return found


def revision_of(raw: bytes) -> str:
    """A digest of a profile file's bytes, which every decision names."""
    return hashlib.sha256(raw).hexdigest()[:12]


def read(path: Path) -> Profile:
    """One profile file; its revision is a digest of its bytes. Raises ProfileError."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Profile, Source]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ProfileError(
            f"profile {path} does not exist; correct `profiles` in the configuration, or drop it for the built-in one"
        ) from None
    except OSError as error:
        raise ProfileError(f"profile {path} can't be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
        return parse(json_text.loads(text), revision=revision_of(raw)), Source(path, text)
    except ProfileError as error:
        raise ProfileError(f"profile {path}: {error}") from None
    except ValueError as error:  # also UTF-8 that is none, and numbers and nesting without end
        raise ProfileError(f"profile {path} is not valid JSON: {error}") from None
