"""Batched runs of the ONNX models while making and measuring them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BATCH_TOKENS = 2048
MAX_BATCH = 64

Ids = list[int]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of n texts: `sentences` [n, d]; `tokens` [total, t], text i being rows `offsets[i]:offsets[i+1]`."""

    sentences: NDArray[np.float32]
    tokens: NDArray[np.float16]
    offsets: NDArray[np.int64]

    def token_rows(self, index: int) -> NDArray[np.float16]:
        """The token vectors of one text, [tokens, t]."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


class TextTokenizer:
    """A `tokenizer.json` that cuts to a given number of tokens, special ones included."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str], max_tokens: int) -> list[Ids]:
        self._tokenizer.enable_truncation(max_tokens)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


class OnnxModel:
    """An ONNX Runtime session on the CPU with `threads` threads."""

    def __init__(self, model: Path | bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads would take the processor from everything else on the machine while waiting.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = str(model) if isinstance(model, Path) else model
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Outputs in the order of the graph."""
        return list(self._session.run(None, inputs))


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of about BATCH_TOKENS tokens, sorted by length so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    start = 0
    while start < len(order):
        # The longest text of the batch is not known yet; the first one's length is close, because they are sorted.
        size = max(1, min(MAX_BATCH, BATCH_TOKENS // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


def pad(ids: Sequence[Ids]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask, both int64 [b, s]."""
    width = max(map(len, ids))
    padded = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros_like(padded)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return padded, mask


def cut(ids: Ids, max_tokens: int) -> Ids:
    """Shortens to `max_tokens`, keeping the closing [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def encode(model: OnnxModel, ids: Sequence[Ids], advance: Advance = lambda _: None) -> Encoded:
    """Token and sentence vectors of tokenised texts; `advance` is told how many texts were done."""
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
    tokens: NDArray[np.float16] | None = None
    sentences: NDArray[np.float32] | None = None
    for batch in batches([len(t) for t in ids]):
        padded, mask = pad([ids[index] for index in batch])
        token_rows, sentence_rows = model.run({"input_ids": padded, "attention_mask": mask})
        if tokens is None or sentences is None:
            tokens = np.zeros((offsets[-1], token_rows.shape[-1]), dtype=np.float16)
            sentences = np.zeros((len(ids), sentence_rows.shape[-1]), dtype=np.float32)
        sentences[batch] = sentence_rows
        for row, index in enumerate(batch):
            tokens[offsets[index] : offsets[index + 1]] = token_rows[row, : len(ids[index])]
        advance(len(batch))
    if tokens is None or sentences is None:
        raise ValueError("no texts to encode")
    return Encoded(sentences, tokens, offsets)


def maxsim(query: NDArray[np.floating], document: NDArray[np.floating]) -> float:
    """Mean over the query's tokens of the best dot product with a document token (ColBERT's MaxSim, averaged)."""
    return float((query.astype(np.float32) @ document.astype(np.float32).T).max(axis=1).mean())
