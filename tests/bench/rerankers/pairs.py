"""Real pairs: questions about the Python standard library, and its documentation, cut to a number of tokens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from sidecar.calibrate import stdlib
from sidecar.calibrate.first_stage import FirstStage
from sidecar.embedded import model_dir
from sidecar.engines.manifest import TOKENIZER_FILE

MIX = 0
"""Stands for the texts as they are, in place of a number of tokens."""
LONGEST = 256
SLACK = 4  # a text is cut between words


@dataclass(frozen=True, slots=True)
class Request:
    """What one rerank call gets. ``tokens`` is what all pairs have together, special tokens included."""

    query: str
    texts: tuple[str, ...]
    tokens: int


class Cutter:
    """Cuts texts so that a pair with a query has at most so many tokens, by the tokenizer of the weights."""

    def __init__(self) -> None:
        # All contenders run the same weights, and these are their word pieces.
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(model_dir("minilm-l6") / TOKENIZER_FILE))

    def tokens(self, query: str, text: str) -> int:
        """How many tokens the pair has, special ones included."""
        return len(self._tokenizer.encode(query, text).ids)

    def cut(self, query: str, text: str, limit: int) -> str:
        """The longest beginning of ``text``, in whole words, with which the pair has at most ``limit`` tokens."""
        encoding = self._tokenizer.encode(query, text)
        surplus = len(encoding.ids) - limit
        if surplus <= 0:
            return text
        last = len(encoding.ids) - 2 - surplus  # the last token that may stay; the end mark stays as well
        while last > 0 and encoding.word_ids[last] == encoding.word_ids[last + 1]:
            last -= 1
        return text[: encoding.offsets[last][1]]


class Pairs:
    """An endless supply. A request of a fixed number of tokens joins documents until they are long enough."""

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._documents = stdlib.documents(progress=False)
        questions = [question.text for question in stdlib.questions()]
        random.Random(0).shuffle(questions)
        self._questions = itertools.cycle(questions)
        self._joined = self._shuffled()
        self._first_stage = FirstStage.build(self._documents, dense=False, progress=False)

    def request(self, tokens: int, candidates: int) -> Request:
        """New texts each time. ``tokens`` a pair, or `MIX`: what BM25 finds, cut to `LONGEST` and otherwise as is."""
        if tokens == MIX:
            query, texts = self._found(candidates)
        else:
            query = next(self._questions)
            texts = [self._long(query, tokens) for _ in range(candidates)]
        total = sum(self._cutter.tokens(query, text) for text in texts)
        return Request(query, tuple(texts), total)

    def passages(self, tokens: int, count: int) -> tuple[str, ...]:
        """Texts of ``tokens`` tokens each, their own special ones included."""
        # A pair has one special token more than a text alone.
        return tuple(self._long("", tokens + 1) for _ in range(count))

    def questions(self, count: int) -> tuple[str, ...]:
        """The next questions."""
        return tuple(itertools.islice(self._questions, count))

    def _found(self, candidates: int) -> tuple[str, Sequence[str]]:
        for query in self._questions:
            hits = self._first_stage.search(query, candidates)
            if len(hits) == candidates:
                return query, [self._cutter.cut(query, hit.text, LONGEST) for hit in hits]
        raise AssertionError("the questions never end")

    def _long(self, query: str, tokens: int) -> str:
        while True:
            text = ""
            while self._cutter.tokens(query, text) < tokens:
                text = f"{text}\n\n{next(self._joined)}".strip()
            cut = self._cutter.cut(query, text, tokens)
            if self._cutter.tokens(query, cut) >= tokens - SLACK:  # else its last word was a long one
                return cut

    def _shuffled(self) -> Iterator[str]:
        texts = [document.text for document in self._documents]
        random.Random(0).shuffle(texts)
        return itertools.cycle(texts)
