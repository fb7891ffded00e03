"""ONNX Runtime + tokenizers: a token encoder and a pair scorer for CPU. Imported by worker processes only.

Batches and reproducibility. A model's manifest says how many padded tokens a run may take (``batch_tokens``). Where it
says nothing, every text is a run of its own (a token budget of 1):
- The usual dynamic quantisation takes the scale of the activations over the whole batch, so that a text's output
  depends on what it happens to be batched with. Measured with such a model: cosines move by up to 0.011, logits by up
  to 0.05 of their standard deviation, enough to swap neighbours. The embedded models take one scale per
  token, so that a batch only changes the order of additions; int8 exports refuse batches (`one_text`) and are faster
  for it (see `quantise_alone`); but any model may be configured.
- On one thread it costs nothing (MiniLM 16 texts/s alone, 14 in batches of 1,024 padded tokens; a 4M cross-encoder 287
  and 289 pairs/s) and takes 25 MB less. On two threads the small cross-encoder loses 28 %, MiniLM 10 %.
- Long pairs leave the cache in a batch: MiniLM, 256 tokens, one thread, CPU time, float32: 5.8 pairs/s alone,
  5.4 in fours, 5.2 all 25 at once; int8: 5.6 and 4.0. The export measures both on the machine where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from sidecar.engines.base import EncodedTexts, Floats, PairList, PairScores, split_scores
from sidecar.engines.batching import max_characters, plan_batches
from sidecar.engines.manifest import (
    MODEL_FILE,
    TOKENIZER_FILE,
    Kind,
    Manifest,
    ModelError,
    verified,
)
from sidecar.engines.threads import default_threads

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


class _OnnxModel:
    """A verified session and tokenizer; runs encodings in batches of at most ``token_budget`` padded tokens."""

    def __init__(
        self, manifest: Manifest, kind: Kind, threads: int | None, token_budget: int | None, provider: str
    ) -> None:
        if manifest.kind is not kind:
            raise ModelError(f"{manifest.folder} holds a {manifest.kind}, but a {kind} is needed here")
        self.manifest = manifest
        self.token_budget = token_budget or manifest.batch_tokens
        self._session = _session(manifest, threads or default_threads(), provider)
        self._tokenizer = _tokenizer(manifest)
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        # The export says so in the shape: [1, s] in place of [b, s].
        self.one_text = all(tensor.shape[:1] == [1] for tensor in self._session.get_inputs())

    def _require(self, inputs: set[str], outputs: set[str], optional: frozenset[str] = frozenset()) -> None:
        if self.one_text:  # without padding there is nothing to mask
            inputs, optional = inputs - {"attention_mask"}, optional | {"attention_mask"}
        if not inputs <= self._inputs <= inputs | optional or not outputs <= set(self._outputs):
            raise ModelError(
                f"{MODEL_FILE} of {self.manifest.name} maps {sorted(self._inputs)} to {sorted(self._outputs)}; "
                f"a {self.manifest.kind} maps {sorted(inputs)} to {sorted(outputs)}"
            )

    def _run(self, encodings: Sequence[Encoding], outputs: list[str]) -> Iterator[tuple[int, int, list[Floats]]]:
        """Yields (index, real tokens, this text's row of every output), in batch order."""
        lengths = [len(encoding.ids) for encoding in encodings]
        for batch in plan_batches(lengths, 1 if self.one_text else self.token_budget):
            width = lengths[batch[-1]]
            feeds = {name: np.zeros((len(batch), width), dtype=np.int64) for name in self._inputs}
            for row, index in enumerate(batch):
                encoding, length = encodings[index], lengths[index]
                feeds["input_ids"][row, :length] = encoding.ids
                if "attention_mask" in feeds:
                    feeds["attention_mask"][row, :length] = 1
                if "token_type_ids" in feeds:
                    feeds["token_type_ids"][row, :length] = encoding.type_ids
            results = self._session.run(outputs, feeds)
            for row, index in enumerate(batch):
                yield index, lengths[index], [result[row] for result in results]


class TokenEncoder(_OnnxModel):
    """Texts -> token vectors and sentence vectors, in one forward pass.

    ``threads`` None takes `default_threads`. ``token_budget`` bounds a batch in padded tokens; 1 runs every text alone
    (see above), None takes the manifest's. ``provider`` is one of `PROVIDERS`. Raises ModelError when the model's files
    or the provider cannot be used.
    """

    def __init__(
        self, manifest: Manifest, threads: int | None = None, token_budget: int | None = None, provider: str = "cpu"
    ) -> None:
        super().__init__(manifest, Kind.TOKEN_ENCODER, threads, token_budget, provider)
        self._require({"input_ids", "attention_mask"}, {"token_embeddings", "sentence_embedding"})

    @property
    def maxsim_ratio(self) -> float:
        """The manifest's."""
        return self.manifest.maxsim_ratio

    def encode_queries(self, queries: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes queries like any other texts."""
        return self.encode(queries, max_tokens)

    def encode(self, texts: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes each text cut to ``max_tokens`` tokens, special ones included; results in input order."""
        characters = max_characters(max_tokens)
        self._tokenizer.enable_truncation(max_tokens)
        encodings = self._tokenizer.encode_batch([text[:characters] for text in texts])
        vectors: list[Floats] = [np.empty((0, self.manifest.token_dim), np.float32)] * len(texts)
        sentences = np.empty((len(texts), self.manifest.sentence_dim), dtype=np.float32)
        for index, length, (token_rows, sentence) in self._run(encodings, ["token_embeddings", "sentence_embedding"]):
            vectors[index] = np.ascontiguousarray(token_rows[:length])  # a copy: the batch's padding can go
            sentences[index] = sentence
        return EncodedTexts(vectors, sentences, [len(encoding.ids) for encoding in encodings])


class PairTokeniser:
    """What a cross-encoder reads. ``tokenizer`` belongs to it: its truncation changes with every call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, query: str, texts: Sequence[str], max_tokens: int, query_max_tokens: int) -> list[Encoding]:
        """One encoding for each pair; cut as `PairScorer.score_lists` says."""
        query = self._cut_query(query, query_max_tokens)
        characters = max_characters(max_tokens)
        self._tokenizer.enable_truncation(max_tokens, strategy="only_second")
        encodings: list[Encoding] = self._tokenizer.encode_batch([(query, text[:characters]) for text in texts])
        return encodings

    def _cut_query(self, query: str, max_tokens: int) -> str:
        """The part of the query that makes at most ``max_tokens`` tokens, special ones included."""
        query = query[: max_characters(max_tokens)]
        self._tokenizer.enable_truncation(max_tokens)
        (encoding,) = self._tokenizer.encode_batch([query])
        ends = [
            end for (_, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not special
        ]
        return query[: ends[-1]] if ends else ""


class PairScorer(_OnnxModel):
    """(query, text) -> logit. Parameters and errors as for `TokenEncoder`.

    The model may do without token_type_ids, as RoBERTa's family does.
    """

    def __init__(
        self, manifest: Manifest, threads: int | None = None, token_budget: int | None = None, provider: str = "cpu"
    ) -> None:
        super().__init__(manifest, Kind.CROSS_ENCODER, threads, token_budget, provider)
        self._require({"input_ids", "attention_mask"}, {"logits"}, optional=frozenset({"token_type_ids"}))
        self.tokenised = PairTokeniser(self._tokenizer)

    def score(self, query: str, texts: Sequence[str], max_tokens: int, query_max_tokens: int) -> PairScores:
        """`score_lists` for a single list."""
        (scores,) = self.score_lists([PairList(query, texts)], max_tokens, query_max_tokens)
        return scores

    def score_lists(self, lists: Sequence[PairList], max_tokens: int, query_max_tokens: int) -> list[PairScores]:
        """Scores each pair, in input order.

        A query is cut to ``query_max_tokens``, then the text so that the pair has at most ``max_tokens``.
        """
        encodings = [
            encoding
            for query, texts in lists
            for encoding in self.tokenised(query, texts, max_tokens, query_max_tokens)
        ]
        scores = np.empty(len(encodings), dtype=np.float32)
        for index, _, (score,) in self._run(encodings, ["logits"]):
            scores[index] = score
        return split_scores(lists, scores, [len(encoding.ids) for encoding in encodings])


def provider_name(word: str) -> str:
    """ONNX Runtime's name of an execution provider that is there. Raises ModelError, which says what is."""
    available = ort.get_available_providers()
    name = PROVIDERS.get(word)
    if name is None or name not in available:
        usable = ", ".join(known for known, provider in PROVIDERS.items() if provider in available)
        fix = f"this ONNX Runtime has {usable}"
        raise ModelError(f"provider {word!r} is not there: {fix}; others come with packages such as onnxruntime-gpu")
    return name


def _session(manifest: Manifest, threads: int, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only; they come back as exceptions with a reason anyway
    # A spinning thread takes the core that the event loop, or the next container, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the largest batch ever seen; texts differ in length, so that a pattern never repeats either.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    wanted = provider_name(provider)
    for name, _ in manifest.files:  # large weights stand in a file of their own beside the model
        if name != TOKENIZER_FILE:
            verified(manifest, name)
    # By path, not by bytes: the session would keep those for as long as it lives (23 MB for MiniLM).
    path = manifest.folder / MODEL_FILE
    try:
        session = ort.InferenceSession(path, options, providers=list(dict.fromkeys([wanted, PROVIDERS["cpu"]])))
    except Exception as error:  # ONNX Runtime's exceptions have no common type of their own
        raise ModelError(f"{path} cannot be loaded: {error}") from error
    if session.get_providers()[0] != wanted:  # it falls back to the CPU and only logs why
        raise ModelError(f"provider {provider!r} could not start: check its driver and libraries, or use 'cpu'")
    return session


def _tokenizer(manifest: Manifest) -> Tokenizer:
    path = verified(manifest, TOKENIZER_FILE)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # what the Rust side raises is a plain Exception
        raise ModelError(f"{path} cannot be loaded: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
