"""all-MiniLM-L6-v2 -> the token encoder `minilm-l6`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make.encode import Advance, OnnxModel, TextTokenizer, batches, pad
from sidecar.embedded.make.files import MINILM, Manifest, load_weights, source_folder, write_model
from sidecar.engines.export.graph import BertShape, Graph, GraphBuilder, add_bert, add_masked_mean
from sidecar.engines.export.quantise import quantise
from sidecar.engines.export.tensors import Floats, Tensor, as_weights

NAME = "minilm-l6"
SHAPE = BertShape(layers=6, heads=12)
HIDDEN = 384
TOKEN_DIM = 128
MAX_TOKENS = 128
PROJECTION = "projection"


def build(weights: Mapping[str, Floats], projection: NDArray[np.float32]) -> Graph:
    """The float32 graph with outputs `token_embeddings` [b,s,d] and `sentence_embedding` [b,384].

    `projection` is [384, d]. Both outputs have L2 norm 1, rows of padding are zero.
    """
    builder = GraphBuilder()
    hidden, mask = add_bert(builder, as_weights(weights), SHAPE, token_types=False)
    tokens = builder.linear(hidden, PROJECTION, Tensor.of(projection), None)
    builder.node("Mul", [builder.l2_normalise(tokens, "token_embeddings.unmasked"), mask], "token_embeddings")
    builder.l2_normalise(add_masked_mean(builder, hidden, mask, "sentence"), "sentence_embedding")
    outputs: dict[str, tuple[str | int, ...]] = {
        "token_embeddings": ("b", "s", projection.shape[1]),
        "sentence_embedding": ("b", HIDDEN),
    }
    return builder.graph(NAME, ["input_ids", "attention_mask"], outputs)


def fit_projection(
    weights: Mapping[str, Floats], texts: Sequence[str], threads: int, advance: Advance
) -> NDArray[np.float32]:
    """The [384, 128] projection that keeps most of the token vectors' inner products.

    Principal directions of the L2-normalised token vectors, not centred: MaxSim is a dot product with the origin, and
    centring would move it.
    """
    identity = np.eye(HIDDEN, dtype=np.float32)
    model = OnnxModel(build(weights, identity).proto().SerializeToString(), threads)
    ids = TextTokenizer(source_folder(MINILM) / "tokenizer.json")(texts, MAX_TOKENS)
    moment = np.zeros((HIDDEN, HIDDEN))
    for batch in batches([len(i) for i in ids]):
        padded, mask = pad([ids[index] for index in batch])
        tokens = model.run({"input_ids": padded, "attention_mask": mask})[0].reshape(-1, HIDDEN)
        moment += tokens.T.astype(np.float64) @ tokens  # rows of padding are zero
        advance(len(batch))
    _, vectors = np.linalg.eigh(moment)
    return np.ascontiguousarray(vectors[:, ::-1][:, :TOKEN_DIM]).astype(np.float32)


def write(folder: Path, projection: NDArray[np.float32], maxsim_ratio: float) -> None:
    """Writes the int8 model, its tokenizer and its manifest to `folder`."""
    # The projection is 0.5 % of the work and the last step before the output: it stays float32.
    model = quantise(build(load_weights(MINILM), projection), frozenset({f"{PROJECTION}.matmul"}))
    manifest = Manifest(
        name=NAME,
        kind="token_encoder",
        max_tokens=MAX_TOKENS,
        token_dim=TOKEN_DIM,
        sentence_dim=HIDDEN,
        maxsim_ratio=maxsim_ratio,
        licence="Apache-2.0",
        source=f"sentence-transformers/all-MiniLM-L6-v2, from {MINILM.distribution} (weights SHA-256 {MINILM.sha256})",
    )
    write_model(folder, model, source_folder(MINILM) / "tokenizer.json", manifest)
