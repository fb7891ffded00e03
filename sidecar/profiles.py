"""The profiles that a sidecar decides with: the built-in default, and one file for each calibrated corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.profile import Profile, ProfileError, parse

BUILT_IN = Path(__file__).with_name("builtin_profile.json")
DEFAULT_CORPUS = "default"


@dataclass(frozen=True, slots=True)
class Profiles:
    """Profiles by corpus; ``default`` serves every corpus that has none."""

    default: Profile
    by_corpus: Mapping[str, Profile]

    def select(self, corpus: str) -> Profile:
        """The corpus's own profile, or the default one."""
        return self.by_corpus.get(corpus, self.default)


def load(paths: Sequence[str]) -> Profiles:
    """The built-in profile and those in ``paths``; a file for corpus 'default' replaces the built-in one.

    Raises ProfileError naming the file and the fix.
    """
    by_corpus: dict[str, Profile] = {}
    origin: dict[str, Path] = {}
    for path in map(Path, paths):
        profile = read(path)
        if profile.corpus in origin:
            raise ProfileError(
                f"profiles {origin[profile.corpus]} and {path} are both for corpus {profile.corpus!r}; keep one"
            )
        origin[profile.corpus] = path
        by_corpus[profile.corpus] = profile
    default = by_corpus.get(DEFAULT_CORPUS) or read(BUILT_IN)
    return Profiles(default, by_corpus)


def read(path: Path) -> Profile:
    """One profile file; its revision is a digest of its bytes."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ProfileError(
            f"profile {path} does not exist; correct `profiles` in the configuration, or drop it for the built-in one"
        ) from None
    except OSError as error:
        raise ProfileError(f"profile {path} can't be read: {error.strerror}") from None
    try:
        return parse(json.loads(raw), revision=hashlib.sha256(raw).hexdigest()[:12])
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path} is not valid JSON: {error}") from None
    except ProfileError as error:
        raise ProfileError(f"profile {path}: {error}") from None
