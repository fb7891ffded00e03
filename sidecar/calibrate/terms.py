"""What the lexical first stage indexes: stems of words, identifiers whole and in their parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

# A run of words joined by dots: `timer`, `os.path.join`, `3.14`. A full stop at the end is not part of it.
_COMPOUND = re.compile(r"\w+(?:\.\w+)*")
# HTTPSConnection -> HTTPS, Connection; run_until -> run, until; sha256 -> sha, 256. Letters beyond ASCII
# count as small ones: scripts without case stay in one piece.
_PART = re.compile(r"[A-Z]+(?![^\W\dA-Z_])|[A-Z]?[^\W\dA-Z_]+|\d+")


class TermSplitter:
    """Text -> index terms, the same for documents and queries. Needs PyStemmer and bm25s (extra `calibrate`).

    A plain word gives its English stem (Snowball), or nothing if it is one letter long or a stop word of
    bm25s. An identifier gives itself in lower case *and* the terms of its parts: `threading.Timer` ->
    threading.timer, thread, timer. So it is found by its full name, by its last part and by the words it is
    made of. A script that does not put spaces between words comes out as one term per run of letters; for
    those, this first stage has to be replaced.
    """

    def __init__(self) -> None:
        import Stemmer
        from bm25s.stopwords import STOPWORDS_EN

        self._stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
        self._stop_words = frozenset(STOPWORDS_EN)
        # Documents repeat their words: splitting each one once halves the time.
        self._known: dict[str, tuple[str, ...]] = {}

    def terms(self, text: str) -> list[str]:
        """The terms of `text` in reading order, repetitions included."""
        found: list[str] = []
        for match in _COMPOUND.finditer(text):
            compound = match[0]
            if compound not in self._known:
                self._known[compound] = tuple(self._split(compound))
            found += self._known[compound]
        return found

    def _split(self, compound: str) -> Iterator[str]:
        segments = compound.split(".")
        if len(segments) > 1:
            yield compound.lower()
        for segment in segments:
            parts = _PART.findall(segment)
            if parts != [segment]:
                yield segment.lower()
            for part in parts:
                word = part.lower()
                if len(word) > 1 and word not in self._stop_words:
                    yield self._stem(word)
