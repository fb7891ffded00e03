"""The ONNX graph of a cross-encoder: encoder, first token, head.

What was measured with MiniLM-L6 (384 wide) on pairs of 256 tokens, one thread, CPU time in interleaved rounds:
- On an AMD Zen 1, where torch already runs near the processor's peak and int8 brings nothing, pairs per second: the
  same model in torch 4.6; all rows of the last layer 5.0; the first row only 5.8.
- On an AMD Zen 5 (AVX-512, VNNI), ms a pair: float32 28.7; int8 with all scales fixed, the least that it can be, 12.3.
  Of that attention takes 4.1, and its kernel for texts without a mask 3.3. The tanh form of GELU saves 0.1, ReLU would
  0.8, bias and GELU in one node, or the bias within attention, nothing. `SkipLayerNormalization` costs 3.4 more than
  the two nodes that it stands for. 8-bit `MatMulNBits`, whose scales are finer still, takes 24.
So the exact GELU stays, no node is fused by hand, and int8, which runs one text at a time anyway, has no mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sidecar.engines.export.architectures import PairModel
from sidecar.engines.export.graph import Graph, GraphBuilder, add_first_row
from sidecar.engines.export.quantise_alone import quantise_alone
from sidecar.engines.export.tensors import Floats

NAME = "cross-encoder"


def build(model: PairModel, *, one_text: bool = False) -> Graph:
    """The float32 graph: input_ids, attention_mask and, where the model has token types, token_type_ids -> logits [b].

    The last layer is computed for the first token only, which is all that the head reads. With ``one_text`` it takes
    one pair a run and no attention_mask.
    """
    builder, weights = GraphBuilder(), model.weights
    rows = add_first_row(builder, weights, model.shape, token_types=model.token_types, masked=not one_text)
    first = builder.node("Squeeze", [rows, builder.constant("row_axis", np.array([1]))], "first")
    dense = builder.linear(first, "head.dense", weights["head.dense.weight"].transposed(), weights["head.dense.bias"])
    dense = builder.activation(dense, "head.activation", model.head_activation)
    column = builder.linear(dense, "head.out", weights["head.out.weight"].transposed(), weights["head.out.bias"])
    builder.node("Squeeze", [column, builder.constant("last_axis", np.array([-1]))], "logits")
    inputs = ["input_ids", *([] if one_text else ["attention_mask"])]
    inputs += ["token_type_ids"] if model.token_types else []
    return builder.graph(NAME, inputs, {"logits": ("b",)}, one_text=one_text)


def build_int8(model: PairModel, peaks: Mapping[str, Floats]) -> Graph:
    """`build` for one pair a run with int8 layers; the head stays float32, it is one row of work.

    ``peaks`` as for `quantise_alone`.
    """
    graph = build(model, one_text=True)
    products = (node.name for node in graph.nodes if node.op_type == "MatMul")
    return quantise_alone(graph, peaks, frozenset(name for name in products if not name.startswith("encoder.")))
