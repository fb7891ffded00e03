"""A BERT-style encoder -> ONNX graph, written node by node.

Written by hand instead of traced, because a traced graph changes with the torch and transformers release that traces
it, and because the fused attention kernel of ONNX Runtime (`com.microsoft.MultiHeadAttention`) takes the padding mask
as it is, which a traced graph expands to a [b,1,s,s] tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidecar.engines.export.tensors import Tensor, Weights, joined
from sidecar.engines.manifest import MODEL_FILE

if TYPE_CHECKING:
    import onnx

OPSET = 20  # the first with Gelu, which ONNX Runtime fuses with the bias before it
CONTRIB_OPSET = 1
IR_VERSION = 10
WORD_TABLE = "embeddings.word_embeddings.weight"
POSITION_TABLE = "embeddings.position_embeddings.weight"
TYPE_TABLE = "embeddings.token_type_embeddings.weight"
DATA_FILE = f"{MODEL_FILE}.data"
# A protobuf message ends at 2 GiB, and is held twice in memory while it is written.
INLINE_BYTES = 256 * 1024 * 1024
ALIGNMENT = 4_096  # of a tensor in the data file, so that it can be mapped
SMALL_BYTES = 1_024  # shapes and scalars stay in the model file: ONNX Runtime reads them before the others


@dataclass(frozen=True, slots=True)
class BertShape:
    """What the graph has to know of a BERT configuration.

    ``activation`` is that of the feed-forward layers: "gelu" (exact), "gelu_tanh" or "relu". The rows of the position
    table before ``first_position`` are never used (RoBERTa counts from its padding id + 1).
    """

    layers: int
    heads: int
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    first_position: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """A finished graph whose constants are not loaded yet.

    ``inputs`` are int64 [b,s], or [1,s] if ``one_text``: such a graph refuses a batch. ``outputs`` are float32 with the
    given shapes.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: Mapping[str, tuple[str | int, ...]]
    one_text: bool = False

    def proto(self) -> onnx.ModelProto:
        """The checked model with everything in memory."""
        import onnx
        from onnx import numpy_helper

        loaded = (numpy_helper.from_array(_contiguous(t), name) for name, t in self.constants.items())
        model = self._model(list(loaded))
        onnx.checker.check_model(model)
        return model

    def write(self, folder: Path) -> tuple[str, ...]:
        """Writes `MODEL_FILE`, with `DATA_FILE` beside it if it is large; returns the names of the files.

        One constant at a time is in memory when there is a data file.
        """
        import onnx

        path = folder / MODEL_FILE
        if sum(tensor.size_bytes for tensor in self.constants.values()) <= INLINE_BYTES:
            path.write_bytes(self.proto().SerializeToString(deterministic=True))
            return (MODEL_FILE,)
        with (folder / DATA_FILE).open("wb") as data:
            placed = [_placed(name, tensor, data) for name, tensor in self.constants.items()]
        path.write_bytes(self._model(placed).SerializeToString(deterministic=True))
        onnx.checker.check_model(path)
        return (MODEL_FILE, DATA_FILE)

    def _model(self, constants: list[onnx.TensorProto]) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        rows = 1 if self.one_text else "b"
        shapes = {name: [rows if size == "b" else size for size in shape] for name, shape in self.outputs.items()}
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(name, TensorProto.INT64, [rows, "s"]) for name in self.inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", CONTRIB_OPSET)]
        return helper.make_model(graph, producer_name="millirank", opset_imports=opsets, ir_version=IR_VERSION)


def _contiguous(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.load(), order="C")


def _placed(name: str, tensor: Tensor, data: Any) -> onnx.TensorProto:
    """The constant itself if it is small; otherwise it goes to the open data file, and where it is comes back."""
    from onnx import TensorProto, helper, numpy_helper

    array = np.ascontiguousarray(tensor.load())
    if array.nbytes <= SMALL_BYTES:
        return numpy_helper.from_array(array, name)
    data.seek(-(-data.tell() // ALIGNMENT) * ALIGNMENT)
    offset = data.tell()
    data.write(array.data)
    proto = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", DATA_FILE), ("offset", str(offset)), ("length", str(array.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto


class GraphBuilder:
    """Collects nodes and constants; every method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Tensor] = {}

    def constant(self, name: str, value: NDArray[Any] | Tensor) -> str:
        """Stores `value` under `name`, once."""
        self.constants.setdefault(name, value if isinstance(value, Tensor) else Tensor.of(value))
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

    def linear(self, x: str, name: str, weight: Tensor, bias: Tensor | None) -> str:
        """`x @ weight + bias`; `weight` is [in, out], the transpose of what torch stores."""
        y = self.node("MatMul", [x, self.constant(f"{name}.weight", weight)], f"{name}.matmul")
        if bias is None:
            return y
        return self.node("Add", [y, self.constant(f"{name}.bias", bias)], name)

    def activation(self, x: str, output: str, kind: str) -> str:
        """One of the activations that `BertShape` names, or "tanh"."""
        if kind == "gelu_tanh":
            return self.node("Gelu", [x], output, approximate="tanh")
        return self.node({"gelu": "Gelu", "relu": "Relu", "tanh": "Tanh"}[kind], [x], output)

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

    def graph(
        self, name: str, inputs: list[str], outputs: Mapping[str, tuple[str | int, ...]], *, one_text: bool = False
    ) -> Graph:
        """Closes the graph; see `Graph`."""
        return Graph(name, tuple(self.nodes), self.constants, tuple(inputs), outputs, one_text)


def add_bert(builder: GraphBuilder, weights: Weights, shape: BertShape, *, token_types: bool) -> tuple[str, str]:
    """Adds embeddings and encoder layers.

    Returns the names of the last hidden state, float32 [b,s,h], and of the mask as float32 [b,s,1]. Without
    `token_types` the vector of type 0 is folded into the position table and the graph has no such input.
    """
    from onnx import TensorProto

    x = _embeddings(builder, weights, shape, token_types)
    key_mask = _key_mask(builder)
    for layer in range(shape.layers):
        x = _encoder_layer(builder, x, key_mask, f"encoder.layer.{layer}", weights, shape)
    mask = builder.node("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    mask = builder.node("Unsqueeze", [mask, builder.constant("last_axis", np.array([-1]))], "mask")
    return x, mask


def add_first_row(
    builder: GraphBuilder, weights: Weights, shape: BertShape, *, token_types: bool, masked: bool = True
) -> str:
    """As `add_bert`, but the last layer is computed for the first token only: float32 [b,1,h].

    Without ``masked`` there is no input attention_mask, and so no padding: attention takes a faster kernel. What a
    classification head reads. Only the keys and values of that layer are needed of the other tokens, so that
    10 of its 12 h**2 multiplications per token fall away, 14 % of a model of six layers.
    """
    x = _embeddings(builder, weights, shape, token_types)
    key_mask = _key_mask(builder) if masked else ""
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        x = _encoder_layer(builder, x, key_mask, f"encoder.layer.{layer}", weights, shape, first_row=last)
    return x


def _key_mask(builder: GraphBuilder) -> str:
    """The mask that attention takes."""
    from onnx import TensorProto

    return builder.node("Cast", ["attention_mask"], "key_mask", to=TensorProto.INT32)


def _embeddings(builder: GraphBuilder, weights: Weights, shape: BertShape, token_types: bool) -> str:
    """The input of the first layer."""
    words = builder.constant(WORD_TABLE, weights[WORD_TABLE])
    x = builder.node("Gather", [words, "input_ids"], "embeddings.words")
    length = builder.node("Shape", ["input_ids"], "length", start=1, end=2)
    positions = weights[POSITION_TABLE].load()[shape.first_position :]
    if not token_types and TYPE_TABLE in weights:
        positions = positions + weights[TYPE_TABLE].load()[0]
    table = builder.constant("embeddings.positions", positions)
    zero = builder.constant("zero", np.array([0]))
    position = builder.node("Slice", [table, zero, length, zero], "embeddings.position_rows")
    x = builder.node("Add", [x, position], "embeddings.with_positions")
    if token_types:
        types = builder.constant("embeddings.types", weights[TYPE_TABLE])
        rows = builder.node("Gather", [types, "token_type_ids"], "embeddings.type")
        x = builder.node("Add", [x, rows], "embeddings.with_types")
    x = builder.layer_norm(x, "embeddings.LayerNorm", weights, shape.layer_norm_eps)
    if "embeddings.project.weight" in weights:  # ELECTRA's embeddings may be narrower than its layers
        weight = weights["embeddings.project.weight"].transposed()
        x = builder.linear(x, "embeddings.project", weight, weights["embeddings.project.bias"])
    return x


def _encoder_layer(
    builder: GraphBuilder,
    x: str,
    key_mask: str,
    prefix: str,
    weights: Weights,
    shape: BertShape,
    *,
    first_row: bool = False,
) -> str:
    def dense(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{prefix}.{name}.weight"].transposed(), weights[f"{prefix}.{name}.bias"]

    def packed(parts: list[str]) -> list[str]:
        # One multiplication for several projections: fewer, larger matrix products.
        pairs = [dense(f"attention.self.{part}") for part in parts]
        name = f"{prefix}.{''.join(part[0] for part in parts)}"
        rows = builder.linear(x, name, joined([weight for weight, _ in pairs]), joined([bias for _, bias in pairs]))
        outputs = [f"{prefix}.{part}" for part in parts]
        return builder.nodes_with_outputs("Split", [rows], outputs, axis=-1, num_outputs=len(parts))

    if first_row:
        key, value = packed(["key", "value"])
        ends = [builder.constant(name, np.array([at])) for name, at in (("zero", 0), ("first_end", 1), ("row_axis", 1))]
        x = builder.node("Slice", [x, *ends], f"{prefix}.first_row")
        query = builder.linear(x, f"{prefix}.query", *dense("attention.self.query"))
    else:
        query, key, value = packed(["query", "key", "value"])
    y = builder.node(
        "MultiHeadAttention",
        [query, key, value, "", key_mask] if key_mask else [query, key, value],
        f"{prefix}.attention",
        domain="com.microsoft",
        num_heads=shape.heads,
    )
    y = builder.linear(y, f"{prefix}.attention.output", *dense("attention.output.dense"))
    y = builder.node("Add", [y, x], f"{prefix}.attention.residual")
    x = builder.layer_norm(y, f"{prefix}.attention.output.LayerNorm", weights, shape.layer_norm_eps)
    y = builder.linear(x, f"{prefix}.intermediate", *dense("intermediate.dense"))
    y = builder.activation(y, f"{prefix}.gelu", shape.activation)
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
