"""The teacher of the tiny cross-encoder: mean of z(BM25), z(cosine) and z(MaxSim), the last two from `minilm-l6`.

It is computed once, for up to CANDIDATES candidates per query: the best ones by BM25 and the best ones by cosine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make.bm25 import Bm25
from sidecar.embedded.make.encode import Advance, Encoded, Ids, OnnxModel, TextTokenizer, encode
from sidecar.embedded.make.files import QUERY_MAX_TOKENS
from sidecar.embedded.make.queries import Example

DOCUMENT_TOKENS = 96
CHUNK = 512
CANDIDATES = 40


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the student learns from. n queries, c candidates each, best teacher score first.

    `queries` and `documents` are token ids with special tokens; `candidates` int32 [n, c] indexes `documents`;
    `scores` float32 [n, c] are the teacher's; `maxsim_ratio` is mean std of cosine / mean std of MaxSim over the lists.
    """

    queries: list[Ids]
    documents: list[Ids]
    candidates: NDArray[np.int32]
    scores: NDArray[np.float32]
    maxsim_ratio: float

    def save(self, path: Path) -> None:
        """Writes everything to one `.npz` without pickles."""
        np.savez(
            path,
            queries=np.concatenate([np.array(q, dtype=np.int32) for q in self.queries]),
            query_lengths=np.array([len(q) for q in self.queries]),
            documents=np.concatenate([np.array(d, dtype=np.int32) for d in self.documents]),
            document_lengths=np.array([len(d) for d in self.documents]),
            candidates=self.candidates,
            scores=self.scores,
            maxsim_ratio=self.maxsim_ratio,
        )

    @classmethod
    def load(cls, path: Path) -> Lesson:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(
                _split(data["queries"], data["query_lengths"]),
                _split(data["documents"], data["document_lengths"]),
                data["candidates"],
                data["scores"],
                float(data["maxsim_ratio"]),
            )


def _split(ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> list[Ids]:
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def z(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard scores; zeros where all values are the same."""
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def teach(
    examples: Sequence[Example], model: OnnxModel, tokenizer: TextTokenizer, minutes: float, advance: Advance
) -> Lesson:
    """Encodes as many examples as fit into `minutes`, in order, then scores the candidates of their queries."""
    deadline = time.monotonic() + 60 * minutes
    documents: list[Encoded] = []
    queries: list[Encoded] = []
    used = 0
    while used < len(examples) and (used == 0 or time.monotonic() < deadline):
        chunk = examples[used : used + CHUNK]
        documents.append(encode(model, tokenizer([e.document for e in chunk], DOCUMENT_TOKENS), advance))
        queries.append(encode(model, tokenizer([q for e in chunk for q in e.queries], QUERY_MAX_TOKENS)))
        used += len(chunk)
    kept = examples[:used]
    return _score(kept, _join(queries), _join(documents), tokenizer)


def _join(parts: Sequence[Encoded]) -> Encoded:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Encoded(
        np.concatenate([part.sentences for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def _score(examples: Sequence[Example], queries: Encoded, documents: Encoded, tokenizer: TextTokenizer) -> Lesson:
    texts = [example.document for example in examples]
    asked = [query for example in examples for query in example.queries]
    lexical = Bm25(texts)
    candidates = np.zeros((len(asked), CANDIDATES), dtype=np.int32)
    scores = np.zeros((len(asked), CANDIDATES), dtype=np.float32)
    spreads = np.zeros((len(asked), 2))
    for row, query in enumerate(asked):
        bm25 = lexical.scores(query)
        cosine = documents.sentences @ queries.sentences[row]
        chosen = _candidates(bm25, cosine)
        similarity = maxsim_of(queries.token_rows(row), documents, chosen)
        teacher = (z(bm25[chosen]) + z(cosine[chosen]) + z(similarity)) / 3
        order = np.argsort(-teacher, kind="stable")
        candidates[row], scores[row] = chosen[order], teacher[order]
        spreads[row] = cosine[chosen].std(), similarity.std()
    ratio = float(spreads[:, 0].mean() / spreads[:, 1].mean())
    ids = tokenizer(texts, DOCUMENT_TOKENS)
    return Lesson(tokenizer(asked, QUERY_MAX_TOKENS), ids, candidates, scores, ratio)


def _candidates(bm25: NDArray[np.float32], cosine: NDArray[np.float32]) -> NDArray[np.int64]:
    """CANDIDATES documents, alternating between the two rankings, as a first stage would find them."""
    lexical, dense = (np.argpartition(-s, CANDIDATES)[:CANDIDATES] for s in (bm25, cosine))
    lexical, dense = lexical[np.argsort(-bm25[lexical])], dense[np.argsort(-cosine[dense])]
    mixed = dict.fromkeys(np.stack([lexical, dense], axis=1).ravel().tolist())
    return np.array(list(mixed)[:CANDIDATES])


def maxsim_of(query: NDArray[np.float16], documents: Encoded, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """MaxSim (mean over query tokens) of one query, [tokens, d], with each chosen document: [len(chosen)]."""
    parts = [documents.token_rows(int(index)) for index in chosen]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])[:-1]])
    similarity = query.astype(np.float32) @ np.concatenate(parts).astype(np.float32).T
    best: NDArray[np.float32] = np.maximum.reduceat(similarity, starts, axis=1).mean(axis=0)
    return best
