"""What a cross-encoder should answer: the same formulas in NumPy, float32, without ONNX, fused kernels or shortcuts.

An export is compared with this. It shares nothing with the exported graph but the names of the weights, goes through
all tokens in every layer, and reads one layer of the checkpoint at a time for all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.engines.export.architectures import PairModel
from sidecar.engines.export.graph import POSITION_TABLE, TYPE_TABLE, WORD_TABLE
from sidecar.engines.export.tensors import Floats

Arrays = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """Token ids of query and document together, and the token type of each."""

    ids: Sequence[int]
    types: Sequence[int]


class Peaks:
    """The largest magnitude of each channel that was seen, float32 [h], by the name that the graph gives the tensor."""

    def __init__(self) -> None:
        self.by_tensor: dict[str, Floats] = {}

    def see(self, name: str, rows: Floats) -> None:
        """``rows`` is [t,h]."""
        found = np.abs(rows).max(axis=0)
        self.by_tensor[name] = np.maximum(self.by_tensor.get(name, found), found)


def scores(
    model: PairModel,
    pairs: Sequence[TokenisedPair],
    on_layer: Callable[[int], None],
    peaks: Peaks,
    watched: int,
) -> Floats:
    """Logits float32 [n] in the order of ``pairs``. ``on_layer`` is told how many layers were done.

    ``peaks`` is shown what the large products read in the first ``watched`` pairs.
    """
    weights = _loaded(model, "embeddings.")
    states = [_embedded(model, weights, pair) for pair in pairs]
    name = "embeddings.project" if "embeddings.project.weight" in weights else "embeddings.LayerNorm"
    for layer in range(model.shape.layers):
        for state in states[:watched]:
            peaks.see(name, state)
        prefix = f"encoder.layer.{layer}."
        weights = _loaded(model, prefix)
        states = [_attended(model, weights, prefix, state) for state in states]
        for state in states[:watched]:
            peaks.see(f"{prefix}attention.output.LayerNorm", state)
        states = [_fed_forward(model, weights, prefix, state) for state in states]
        name = f"{prefix}output.LayerNorm"
        on_layer(layer + 1)
    weights = _loaded(model, "head.")
    first = np.stack([state[0] for state in states])
    dense = _activated(_linear(weights, "head.dense", first), model.head_activation)
    logits: Floats = _linear(weights, "head.out", dense)[:, 0]
    return logits


def _loaded(model: PairModel, prefix: str) -> dict[str, Floats]:
    return {name: tensor.load() for name, tensor in model.weights.items() if name.startswith(prefix)}


def _embedded(model: PairModel, weights: Arrays, pair: TokenisedPair) -> Floats:
    first = model.shape.first_position
    state = weights[WORD_TABLE][np.asarray(pair.ids)] + weights[POSITION_TABLE][first : first + len(pair.ids)]
    if TYPE_TABLE in weights:
        state = state + weights[TYPE_TABLE][np.asarray(pair.types) if model.token_types else 0]
    state = _normalised(weights, "embeddings.LayerNorm", state, model.shape.layer_norm_eps)
    return _linear(weights, "embeddings.project", state) if "embeddings.project.weight" in weights else state


def _attended(model: PairModel, weights: Arrays, prefix: str, state: Floats) -> Floats:
    """The first half of a layer for one pair: float32 [t,h] -> [t,h]."""
    shape = model.shape
    width = state.shape[1] // shape.heads
    query, key, value = (
        _linear(weights, f"{prefix}attention.self.{part}", state).reshape(-1, shape.heads, width).transpose(1, 0, 2)
        for part in ("query", "key", "value")
    )
    logits = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(width))
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = _linear(
        weights, f"{prefix}attention.output.dense", (shares @ value).transpose(1, 0, 2).reshape(state.shape)
    )
    return _normalised(weights, f"{prefix}attention.output.LayerNorm", state + mixed, shape.layer_norm_eps)


def _fed_forward(model: PairModel, weights: Arrays, prefix: str, state: Floats) -> Floats:
    """The second half."""
    wide = _activated(_linear(weights, f"{prefix}intermediate.dense", state), model.shape.activation)
    narrow = _linear(weights, f"{prefix}output.dense", wide)
    return _normalised(weights, f"{prefix}output.LayerNorm", state + narrow, model.shape.layer_norm_eps)


def _linear(weights: Arrays, name: str, state: Floats) -> Floats:
    result: Floats = state @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return result


def _normalised(weights: Arrays, name: str, state: Floats, eps: float) -> Floats:
    centred = state - state.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(variance + np.float32(eps))
    result: Floats = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return result


def _activated(x: Floats, kind: str) -> Floats:
    match kind:
        case "tanh":
            result: Floats = np.tanh(x)
        case "relu":
            result = np.maximum(x, 0)
        case "gelu_tanh":
            result = 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))
        case _:
            result = 0.5 * x * (1 + _erf(x * np.float32(np.sqrt(0.5))))
    return result


def _erf(x: Floats) -> Floats:
    """Abramowitz and Stegun, formula 7.1.26: off by at most 1.5e-7, about what float32 can hold."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = t * (
        np.float32(0.254829592)
        + t
        * (
            np.float32(-0.284496736)
            + t * (np.float32(1.421413741) + t * (np.float32(-1.453152027) + t * np.float32(1.061405429)))
        )
    )
    result: Floats = np.sign(x) * (1 - series * np.exp(-x * x))
    return result
