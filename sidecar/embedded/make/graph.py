"""BERT weights -> ONNX graph, written node by node.

Written by hand instead of traced, because a traced graph changes with the torch and transformers release that traces
it, and because the fused attention kernel of ONNX Runtime (`com.microsoft.MultiHeadAttention`) takes the padding mask
as it is, which a traced graph expands to a [b,1,s,s] tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Weights = Mapping[str, NDArray[np.float32]]

OPSET = 20  # the first with Gelu, which ONNX Runtime fuses with the bias before it
CONTRIB_OPSET = 1
IR_VERSION = 10
WORD_TABLE = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class BertShape:
    """What the graph has to know of a BERT configuration."""

    layers: int
    heads: int
    layer_norm_eps: float = 1e-12


class GraphBuilder:
    """Collects nodes and initialisers; every method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, NDArray[np.generic]] = {}

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Stores `value` under `name`, once."""
        self.initialisers.setdefault(name, np.array(value, order="C"))
        return name

    def node(self, op: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        """Adds one node with one output."""
        self.nodes_with_outputs(op, inputs, [output], domain=domain, **attributes)
        return output

    def nodes_with_outputs(
        self, op: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds one node with several outputs."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        """`x @ weight + bias`; `weight` is [in, out], the transpose of what torch stores."""
        y = self.node("MatMul", [x, self.constant(f"{name}.weight", weight)], f"{name}.matmul")
        if bias is None:
            return y
        return self.node("Add", [y, self.constant(f"{name}.bias", bias)], name)

    def layer_norm(self, x: str, name: str, weights: Weights, eps: float) -> str:
        """Layer normalisation over the last axis."""
        scale = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.node("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=eps)

    def l2_normalise(self, x: str, output: str) -> str:
        """`x / max(|x|, 1e-12)` over the last axis; a zero row stays zero."""
        norm = self.node("ReduceL2", [x, self.constant("last_axis", np.array([-1]))], f"{output}.norm", keepdims=1)
        floor = self.constant("norm_floor", np.array(1e-12, dtype=np.float32))
        return self.node("Div", [x, self.node("Max", [norm, floor], f"{output}.safe_norm")], output)

    def model(self, name: str, inputs: list[str], outputs: Mapping[str, list[str | int]]) -> onnx.ModelProto:
        """Closes the graph: int64 `inputs` of shape [b,s], float32 `outputs` with the given shapes."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(i, TensorProto.INT64, ["b", "s"]) for i in inputs],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, shape) for o, shape in outputs.items()],
            [numpy_helper.from_array(value, key) for key, value in self.initialisers.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", CONTRIB_OPSET)]
        model = helper.make_model(graph, producer_name="millirank", opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def add_bert(builder: GraphBuilder, weights: Weights, shape: BertShape, *, token_types: bool) -> tuple[str, str]:
    """Adds embeddings and encoder layers.

    Returns the names of the last hidden state, float32 [b,s,h], and of the mask as float32 [b,s,1]. Without
    `token_types` the vector of type 0 is folded into the position table and the graph has no such input.
    """
    from onnx import TensorProto

    positions = weights["embeddings.position_embeddings.weight"]
    types = weights["embeddings.token_type_embeddings.weight"]
    words = builder.constant(WORD_TABLE, weights[WORD_TABLE])
    x = builder.node("Gather", [words, "input_ids"], "embeddings.words")
    length = builder.node("Shape", ["input_ids"], "length", start=1, end=2)
    table = builder.constant("embeddings.positions", positions if token_types else positions + types[0])
    zero = builder.constant("zero", np.array([0]))
    position = builder.node("Slice", [table, zero, length, zero], "embeddings.position_rows")
    x = builder.node("Add", [x, position], "embeddings.with_positions")
    if token_types:
        rows = builder.node(
            "Gather", [builder.constant("embeddings.types", types), "token_type_ids"], "embeddings.type"
        )
        x = builder.node("Add", [x, rows], "embeddings.with_types")
    x = builder.layer_norm(x, "embeddings.LayerNorm", weights, shape.layer_norm_eps)

    key_mask = builder.node("Cast", ["attention_mask"], "key_mask", to=TensorProto.INT32)
    for layer in range(shape.layers):
        x = _encoder_layer(builder, x, key_mask, f"encoder.layer.{layer}", weights, shape)
    mask = builder.node("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    mask = builder.node("Unsqueeze", [mask, builder.constant("last_axis", np.array([-1]))], "mask")
    return x, mask


def _encoder_layer(
    builder: GraphBuilder, x: str, key_mask: str, prefix: str, weights: Weights, shape: BertShape
) -> str:
    def dense(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return weights[f"{prefix}.{name}.weight"].T, weights[f"{prefix}.{name}.bias"]

    parts = [dense(f"attention.self.{part}") for part in ("query", "key", "value")]
    # One multiplication for the three projections: fewer, larger matrix products.
    packed = builder.linear(
        x, f"{prefix}.qkv", np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts])
    )
    names = [f"{prefix}.{part}" for part in ("query", "key", "value")]
    query, key, value = builder.nodes_with_outputs("Split", [packed], names, axis=-1, num_outputs=3)
    y = builder.node(
        "MultiHeadAttention",
        [query, key, value, "", key_mask],
        f"{prefix}.attention",
        domain="com.microsoft",
        num_heads=shape.heads,
    )
    y = builder.linear(y, f"{prefix}.attention.output", *dense("attention.output.dense"))
    y = builder.node("Add", [y, x], f"{prefix}.attention.residual")
    x = builder.layer_norm(y, f"{prefix}.attention.output.LayerNorm", weights, shape.layer_norm_eps)
    y = builder.linear(x, f"{prefix}.intermediate", *dense("intermediate.dense"))
    y = builder.node("Gelu", [y], f"{prefix}.gelu")
    y = builder.linear(y, f"{prefix}.output", *dense("output.dense"))
    y = builder.node("Add", [y, x], f"{prefix}.residual")
    return builder.layer_norm(y, f"{prefix}.output.LayerNorm", weights, shape.layer_norm_eps)


def add_masked_mean(builder: GraphBuilder, x: str, mask: str, output: str) -> str:
    """Mean of the rows of `x` [b,s,h] where `mask` [b,s,1] is 1 (zero where it is 0 everywhere): [b,h]."""
    axis = builder.constant("token_axis", np.array([1]))
    masked = builder.node("Mul", [x, mask], f"{output}.masked")
    total = builder.node("ReduceSum", [masked, axis], f"{output}.sum", keepdims=0)
    count = builder.node("ReduceSum", [mask, axis], f"{output}.count", keepdims=0)
    count = builder.node(
        "Max", [count, builder.constant("one", np.array(1, dtype=np.float32))], f"{output}.at_least_one"
    )
    return builder.node("Div", [total, count], output)
