"""Which architectures can be exported, and how their weights are called: one row a model type in `FAMILIES`.

All of them are BERT's encoder under other names, with other heads on the first token. Every tensor comes out under the
name that BERT gives it, the head's as ``head.dense`` (with an activation) and ``head.out``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.engines.export.graph import POSITION_TABLE, TYPE_TABLE, WORD_TABLE, BertShape
from sidecar.engines.export.tensors import Tensor, Weights
from sidecar.engines.export.weights import CONFIG_FILE, Checkpoint
from sidecar.engines.manifest import ModelError

ELSEWHERE = 'engine = "sentence_transformers" runs it'
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# TensorFlow's names, which old BERT checkpoints still have.
OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
DISTILBERT_NAMES = (
    ("transformer.layer.", "encoder.layer."),
    (".attention.q_lin.", ".attention.self.query."),
    (".attention.k_lin.", ".attention.self.key."),
    (".attention.v_lin.", ".attention.self.value."),
    (".attention.out_lin.", ".attention.output.dense."),
    (".sa_layer_norm.", ".attention.output.LayerNorm."),
    (".ffn.lin1.", ".intermediate.dense."),
    (".ffn.lin2.", ".output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
)
DISTILBERT_KEYS = {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "hidden_act": "activation"}


@dataclass(frozen=True, slots=True)
class Family:
    """What sets a model type apart from BERT.

    ``prefix`` is what the encoder's tensors begin with, ``dense`` and ``out`` are the head's tensors; with
    ``padded_positions`` the rows of the position table up to the padding id are never used.
    """

    prefix: str
    dense: str
    out: str
    head_activation: str
    padded_positions: bool = False
    renamed: tuple[tuple[str, str], ...] = ()


ROBERTA = Family("roberta.", "classifier.dense", "classifier.out_proj", "tanh", padded_positions=True)
FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert.", "bert.pooler.dense", "classifier", "tanh"),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": Family(
        "electra.",
        "classifier.dense",
        "classifier.out_proj",
        "gelu",
        renamed=(("embeddings_project.", "embeddings.project."),),
    ),
    "distilbert": Family("distilbert.", "pre_classifier", "classifier", "relu", renamed=DISTILBERT_NAMES),
}


@dataclass(frozen=True, slots=True)
class PairModel:
    """A cross-encoder in BERT's terms: ``positions`` tokens at most; ``types`` is the number of token types."""

    shape: BertShape
    head_activation: str
    weights: Weights
    positions: int
    types: int

    @property
    def token_types(self) -> bool:
        """Whether query and document are told apart by token types."""
        return self.types > 1


def normalised(checkpoint: Checkpoint) -> PairModel:
    """The checkpoint as `PairModel`. Raises ModelError for what the graph could not compute faithfully."""
    config, path = checkpoint.config, checkpoint.folder / CONFIG_FILE
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    named = ", ".join(map(str, config.get("architectures") or [kind]))
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(f"{path}: the ONNX export knows {known}, not {kind!r} ({named}); {ELSEWHERE}")
    weights = _renamed(checkpoint.tensors, family)
    if "head.out.weight" not in weights:
        raise ModelError(
            f"{checkpoint.folder} is a {named} without the tensor {family.out}.weight, so it has no scoring head: "
            "choose a cross-encoder (a sequence classification model with one label)"
        )
    labels = weights["head.out.weight"].shape[0]
    if labels != 1:
        raise ModelError(f"{checkpoint.folder} has {labels} labels; a cross-encoder has one: choose another model")
    first = _integer(config, path, "pad_token_id") + 1 if family.padded_positions else 0
    shape = BertShape(
        layers=_integer(config, path, "num_hidden_layers"),
        heads=_integer(config, path, "num_attention_heads"),
        layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        activation=_activation(config, path),
        first_position=first,
    )
    _check_attention(config, path, named)
    _check_shapes(checkpoint, weights, shape)
    types = weights[TYPE_TABLE].shape[0] if TYPE_TABLE in weights else 1
    return PairModel(shape, family.head_activation, weights, weights[POSITION_TABLE].shape[0] - first, types)


def _renamed(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in tensors.items():
        for ours, theirs in (("head.dense.", family.dense), ("head.out.", family.out)):
            if name in (f"{theirs}.weight", f"{theirs}.bias"):
                weights[ours + name.rpartition(".")[2]] = tensor
        short = name.removeprefix(family.prefix)
        for old, new in (*OLD_NAMES, *family.renamed):
            short = short.replace(old, new)
        weights.setdefault(short, tensor)
    return weights


def _stated(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key, config.get(DISTILBERT_KEYS.get(key, key)))


def _integer(config: Mapping[str, Any], path: Any, key: str) -> int:
    value = _stated(config, key)
    if not isinstance(value, int) or value < 0:
        raise ModelError(f"{path}: {key} is {value!r}, not a whole number; download the model again")
    return value


def _activation(config: Mapping[str, Any], path: Any) -> str:
    stated = _stated(config, "hidden_act") or "gelu"
    if stated not in ACTIVATIONS:
        raise ModelError(f"{path}: the ONNX export has no activation {stated!r}; {ELSEWHERE}")
    return ACTIVATIONS[stated]


def _check_attention(config: Mapping[str, Any], path: Any, named: str) -> None:
    """What changes the arithmetic without changing a tensor's shape must not pass unseen."""
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ModelError(f"{path}: the ONNX export has no {positions!r} positions ({named}); {ELSEWHERE}")
    for key in ("is_decoder", "quantization_config"):
        if config.get(key):
            raise ModelError(f"{path}: {key} is set, which the ONNX export cannot reproduce; {ELSEWHERE}")


def _check_shapes(checkpoint: Checkpoint, weights: Weights, shape: BertShape) -> None:
    """Every tensor that the graph reads is there and fits."""
    folder = checkpoint.folder
    missing = [name for name in _needed(shape, weights) if name not in weights]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors of its architecture, the first is {missing[0]!r} (BERT's name); "
            f"{CONFIG_FILE} and weights do not belong together: download the model again"
        )
    hidden = weights["head.dense.weight"].shape[1]
    if shape.heads == 0 or hidden % shape.heads:
        raise ModelError(f"{folder / CONFIG_FILE}: {shape.heads} heads do not divide {hidden} dimensions")
    for layer in range(shape.layers):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            found = weights[f"encoder.layer.{layer}.{name}.weight"].shape
            if found != (hidden, hidden):
                raise ModelError(f"{folder}: {name} of layer {layer} is {found}, not {(hidden, hidden)}; {ELSEWHERE}")


def _needed(shape: BertShape, weights: Weights) -> list[str]:
    linear = ["head.dense", "head.out", "embeddings.LayerNorm"]
    if "embeddings.project.weight" in weights:
        linear.append("embeddings.project")
    for layer in range(shape.layers):
        linear += [
            f"encoder.layer.{layer}.{part}"
            for part in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            )
        ]
    return [WORD_TABLE, POSITION_TABLE, *(f"{name}.{end}" for name in linear for end in ("weight", "bias"))]
