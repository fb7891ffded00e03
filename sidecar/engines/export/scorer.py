"""The ONNX graph of a cross-encoder: encoder, first token, head.

What was measured with MiniLM-L6 (384 wide) on pairs of 256 tokens, one thread, pairs per second of CPU time in
interleaved rounds on an AMD Zen 1, where torch already runs near the processor's peak and int8 brings nothing:
- The same model in torch 4.6; all rows of the last layer 5.0; the first row only 5.8.
- Fewer passes over the activations did not show: bias and activation in one node, `SkipLayerNormalization`, the tanh
  form of GELU, even no GELU at all stay within 4 % of each other, in no order. So the exact GELU stays, and ONNX
  Runtime's own optimiser fuses what it likes.
- Without a mask, attention takes a faster kernel: 2 %. A second graph for texts without padding is not worth that.
"""

from __future__ import annotations

import numpy as np

from sidecar.engines.export.architectures import PairModel
from sidecar.engines.export.graph import Graph, GraphBuilder, add_first_row
from sidecar.engines.export.quantise import quantise

NAME = "cross-encoder"


def build(model: PairModel) -> Graph:
    """The float32 graph: input_ids, attention_mask and, where the model has token types, token_type_ids -> logits [b].

    The last layer is computed for the first token only, which is all that the head reads.
    """
    builder, weights = GraphBuilder(), model.weights
    rows = add_first_row(builder, weights, model.shape, token_types=model.token_types)
    first = builder.node("Squeeze", [rows, builder.constant("row_axis", np.array([1]))], "first")
    dense = builder.linear(first, "head.dense", weights["head.dense.weight"].transposed(), weights["head.dense.bias"])
    dense = builder.activation(dense, "head.activation", model.head_activation)
    column = builder.linear(dense, "head.out", weights["head.out.weight"].transposed(), weights["head.out.bias"])
    builder.node("Squeeze", [column, builder.constant("last_axis", np.array([-1]))], "logits")
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if model.token_types else [])]
    return builder.graph(NAME, inputs, {"logits": ("b",)})


def build_int8(model: PairModel) -> Graph:
    """`build` with int8 layers; the head stays float32, it is one row of work."""
    graph = build(model)
    products = (node.name for node in graph.nodes if node.op_type == "MatMul")
    return quantise(graph, frozenset(name for name in products if not name.startswith("encoder.")))
