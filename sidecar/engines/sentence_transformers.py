"""sentence-transformers: any Hugging Face cross-encoder or ColBERT checkpoint. Imported by worker processes only.

Weights are safetensors, code from the hub is never run, and what the model's own library would only warn about (a head
that is not in the checkpoint, several labels, a tokenizer with more entries than the model has) is refused.

Batches and reproducibility. Texts go through the model sorted by length, in batches of at most `TOKEN_BUDGET` padded
tokens on a CPU, where that was measured to be best, and of `DEVICE_TOKEN_BUDGET` elsewhere. Nothing is measured on a
GPU; this is reckoned from public figures. One run of a model of 24 layers launches some hundred kernels, which takes 3
to 5 ms for the smallest batch; in that time an A10 computes 400 tokens of bge-reranker-v2-m3, an H100 3,000, and
several times as many of a small model. So 512 would starve it. 16,384 is 32 texts of 512 tokens and the default of Text
Embeddings Inference; with that model it needs, beside the weights, about 0.5 GB in float16 and 1 GB in float32. Nobody
waits longer for it: the scheduler sizes a call by the time that it is predicted to take.

A text's result depends on its batch by what reordered sums differ: in float32 by at most 1e-5 of a logit of the order
of 1, in float16 by 0.008, in bfloat16 by 0.06.
Late interaction then rounds token vectors to int8, where such a difference may tip a component over to the next level:
at most 1e-3 of a MaxSim.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.engines import checkpoint
from sidecar.engines.base import EncodedTexts, Floats, PairList, PairScores, split_scores
from sidecar.engines.batching import max_characters, plan_batches
from sidecar.engines.manifest import Kind, ModelError, Truncation
from sidecar.engines.models import CrossEncoderModel, LateInteractionModel, Model
from sidecar.engines.specs import TorchSpec

ENGINE_VERSION = "sentence_transformers/1"  # raise it when the engine's own arithmetic or truncation changes
TOKEN_BUDGET = 512
DEVICE_TOKEN_BUDGET = 16_384
# Padding that costs a GPU about as much as one more run (400 to 3,000 tokens, see above). On a CPU it never decides.
PADDING_TOKENS = 2_048
LEAST_DOCUMENT_TOKENS = 8
EXTRA = ("torch", "transformers", "sentence_transformers")
LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch")
BACKEND_LIBRARIES = {"torch": (), "onnx": ("optimum-onnx",), "openvino": ("optimum-intel", "openvino")}


def load(spec: TorchSpec, threads: int, vector_bytes: int) -> Model:
    """Loads the checkpoint that ``spec`` names.

    A limit above the model's own has no effect. Raises ModelError when the extra is not installed or the model can't be
    used.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"engine sentence_transformers needs {', '.join(missing)}: run pip install 'millirank-server[torch]'"
        )
    if spec.device != "cpu":
        _check_device(spec)
    if spec.backend != "torch" and spec.dtype != "float32":
        raise ModelError(f"dtype {spec.dtype} works with backend torch only; {spec.backend} takes float32")
    folder = checkpoint.locate(spec.model, spec.revision, spec.backend)
    checkpoint.check(folder, spec.kind, spec.backend)
    # Before anything is loaded: a file that is replaced meanwhile must not lend its digest to the old one's scores.
    files = checkpoint.digests(folder, spec.backend)
    model = _loaded(spec, folder, threads)
    _check_tokenizer(spec.model, model)
    tokens = batch_tokens(spec)
    if spec.kind is Kind.CROSS_ENCODER:
        scorer = PairScorer(spec.model, model, tokens)
        truncation = _capped(spec, model.max_seq_length)
        return CrossEncoderModel(scorer, truncation, _revision(spec, truncation, files))
    encoder = TokenEncoder(model, tokens)
    truncation = _capped(spec, encoder.longest_document)
    return LateInteractionModel(encoder, truncation, vector_bytes, _revision(spec, truncation, files))


def batch_tokens(spec: TorchSpec) -> int:
    """Padded tokens that one run of the model takes at most: as the setting says, or by the device."""
    return spec.batch_tokens or (TOKEN_BUDGET if spec.device.startswith("cpu") else DEVICE_TOKEN_BUDGET)


class PairScorer:
    """(query, text) -> logit, without the activation that a model's card may ask for: it would not change the order.

    Raises ModelError for a model that has several labels.
    """

    def __init__(self, name: str, model: Any, batch_tokens: int) -> None:
        import torch

        if model.num_labels != 1:
            raise ModelError(f"{name} gives {model.num_labels} labels for a pair; a reranker needs one score")
        self._model = model
        self._batch_tokens = batch_tokens
        self._identity = torch.nn.Identity()
        # A model that reads a conversation (an LLM with a template) gets both texts as one.
        self._cut = "longest_first" if model.supports("message") else "only_second"

    def score_lists(self, lists: Sequence[PairList], max_tokens: int, query_max_tokens: int) -> list[PairScores]:
        """Scores each pair, in input order.

        A query is cut to ``query_max_tokens``, then the text so that the pair has at most ``max_tokens``.
        """
        tokenizer = self._model.tokenizer
        pairs = []
        for query, texts in lists:
            cut = _cut_query(tokenizer, query, query_max_tokens)
            pairs += [(cut, text[: max_characters(max_tokens)]) for text in texts]
        limits = {"max_length": max_tokens, "truncation": self._cut}
        # A tokenizer takes an empty list for a mistake.
        lengths = list(map(len, tokenizer(pairs, **limits)["input_ids"])) if pairs else []
        scores = np.empty(len(pairs), dtype=np.float32)
        for batch in plan_batches(lengths, self._batch_tokens, PADDING_TOKENS):
            scores[batch] = self._model.predict(
                [pairs[index] for index in batch],
                batch_size=len(batch),
                activation_fn=self._identity,
                show_progress_bar=False,
                processing_kwargs={"text": limits},
            )
        return split_scores(lists, scores, lengths)


class TokenEncoder:
    """Texts -> token vectors, projected and of length 1; punctuation that the checkpoint masks is left out."""

    def __init__(self, model: Any, batch_tokens: int = TOKEN_BUDGET) -> None:
        self._model = model
        self._batch_tokens = batch_tokens
        self._module = model[0]
        self._token_dim = int(model.get_embedding_dimension())

    @property
    def maxsim_ratio(self) -> float:
        """1: a model without sentence vectors scores by MaxSim alone."""
        return 1.0

    @property
    def longest_document(self) -> int | None:
        """Tokens of a document that the model was trained with; None when the checkpoint does not say."""
        limits = [limit for limit in (self._module.document_length, self._model.max_seq_length) if limit]
        return min(limits) if limits else None

    def encode(self, texts: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes documents, each cut to ``max_tokens`` tokens, the marker for documents included; in input order."""
        vectors: list[Floats] = [np.empty((0, self._token_dim), np.float32)] * len(texts)
        cut = [text[: max_characters(max_tokens)] for text in texts]
        limits = {"max_length": max_tokens, "truncation": True}
        lengths = self._lengths(cut, limits)
        for batch in plan_batches(lengths, self._batch_tokens, PADDING_TOKENS):
            encoded = self._model.encode_document(
                [cut[index] for index in batch],
                batch_size=len(batch),
                convert_to_numpy=True,
                show_progress_bar=False,
                processing_kwargs={"text": limits},
            )
            for index, rows in zip(batch, encoded, strict=True):
                vectors[index] = _unit_rows(rows)
        return self._encoded(vectors, lengths)

    def encode_queries(self, queries: Sequence[str], max_tokens: int) -> EncodedTexts:
        """Encodes queries, cut to ``max_tokens`` or to the fixed width that the checkpoint fills up with masks."""
        if not queries:
            return self._encoded([], [])
        expansion = self._module.query_expansion
        limits: dict[str, Any] = {"max_length": max_tokens, "truncation": True}
        encoded = self._model.encode_query(
            [query[: max_characters(max_tokens)] for query in queries],
            batch_size=len(queries),
            convert_to_numpy=True,
            show_progress_bar=False,
            # A fixed width leaves no choice, and the library warns about every attempt.
            processing_kwargs=None if expansion is not None else {"text": limits},
        )
        vectors = list(map(_unit_rows, encoded))
        return self._encoded(vectors, list(map(len, vectors)))  # nothing is left out of a query

    def _lengths(self, texts: Sequence[str], limits: dict[str, Any]) -> list[int]:
        """Tokens of each document behind the marker for documents."""
        if not texts:
            return []
        marker = self._model.prompts.get("document") or ""
        return list(map(len, self._model.tokenizer([marker + text for text in texts], **limits)["input_ids"]))

    def _encoded(self, vectors: list[Floats], lengths: list[int]) -> EncodedTexts:
        return EncodedTexts(vectors, np.empty((len(vectors), 0), np.float32), lengths)


def _check_device(spec: TorchSpec) -> None:
    """Before gigabytes are downloaded for nothing. Raises ModelError when torch can't compute there."""
    import torch

    try:
        torch.zeros(1, device=spec.device)
    except Exception as error:  # whatever the device's own library says
        raise ModelError(
            f"{spec.model} cannot run on device {spec.device!r} ({checkpoint.first_line(error)}): set `device` = "
            "'cpu', or install a build of torch for it and let this process see one"
        ) from error


def _loaded(spec: TorchSpec, folder: Path, threads: int) -> Any:
    """The model, from the folder and nothing else. Raises ModelError with whatever the libraries say."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    # This process's stderr is the sidecar's log.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for library in ("sentence_transformers", "optimum"):
        logging.getLogger(library).setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    options: dict[str, Any] = {}
    if spec.backend == "torch":
        options = {"use_safetensors": True, "dtype": getattr(torch, spec.dtype)}
    elif spec.backend == "openvino":
        # Left alone it takes every processor, and bfloat16 where the processor has it.
        options = {"ov_config": {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}}
    create = CrossEncoder if spec.kind is Kind.CROSS_ENCODER else MultiVectorEncoder
    try:
        model = create(
            str(folder),
            device=spec.device,
            backend=spec.backend,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs=options,
        )
    except Exception as error:  # the libraries raise whatever comes to hand
        raise ModelError(f"{spec.model} cannot be loaded: {checkpoint.first_line(error)}") from error
    model.eval()
    return model


def _check_tokenizer(name: str, model: Any) -> None:
    """An id beyond the embedding table would break the first request that needs it."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{name} has no fast tokenizer: add its tokenizer.json")
    rows = getattr(model.transformers_model.config, "vocab_size", None)
    with suppress(AttributeError, NotImplementedError):  # exported models have no table to ask
        rows = model.transformers_model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and highest >= rows:
        raise ModelError(
            f"the tokenizer of {name} does not match its weights: ids go up to {highest:,}, the model knows "
            f"{rows:,} tokens; download both from one place"
        )


def _capped(spec: TorchSpec, longest: int | None) -> Truncation:
    """The configured limits, but never more than the model can read. Raises ModelError when nothing fits in."""
    asked = spec.truncation
    tokens = min(asked.max_tokens, longest or asked.max_tokens)
    least = LEAST_DOCUMENT_TOKENS + (asked.query_max_tokens if spec.kind is Kind.CROSS_ENCODER else 0)
    if tokens < least:
        raise ModelError(f"max_tokens of {spec.model} is {tokens}; use {least} or more")
    return Truncation(tokens, asked.query_max_tokens)


def _cut_query(tokenizer: Any, query: str, max_tokens: int) -> str:
    """The part of the query that makes at most ``max_tokens`` tokens, special ones included."""
    query = query[: max_characters(max_tokens)]
    encoding = tokenizer(
        query,
        truncation=True,
        max_length=max_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    places = zip(encoding["offset_mapping"], encoding["special_tokens_mask"], strict=True)
    return query[: max((end for (_, end), special in places if not special), default=0)]


def _unit_rows(rows: Floats) -> Floats:
    """float32 rows of length 1. A text of which everything is masked gets one zero row: it matches nothing."""
    if not len(rows):
        return np.zeros((1, rows.shape[1]), np.float32)
    rows = rows.astype(np.float32)
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _revision(spec: TorchSpec, truncation: Truncation, files: Sequence[tuple[str, str]]) -> str:
    """12 hex digits that change whenever a score could: files, truncation, batching, how and on what it is run."""
    parts = [ENGINE_VERSION, spec.kind.value, spec.backend, spec.device, spec.dtype, repr(truncation)]
    libraries = (*LIBRARIES, *BACKEND_LIBRARIES[spec.backend])
    parts += [str(batch_tokens(spec)), *(f"{name}={importlib.metadata.version(name)}" for name in libraries)]
    parts += [f"{name}={digest}" for name, digest in files]
    return blake2b("\n".join(parts).encode(), digest_size=6).hexdigest()
