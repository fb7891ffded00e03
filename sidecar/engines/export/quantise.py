"""float32 ONNX graph -> int8 ONNX graph.

Matrix products: dynamic quantisation, activations u8 with one scale per token, weights s8 with one scale per output
channel. The usual dynamic quantisation (`quantize_dynamic`) takes one scale for the whole batch, so that a document's
vector moves with the documents it happens to be computed with; with one scale per token it does not, which is what
makes scores reproducible and cacheable, and the loss is smaller too.

Weights keep 7 bits (`reduce_range`), because the AVX2 kernel for u8 x s8 adds two products in 16 bits and saturates
with 8 bits. On machines with VNNI and on Arm it costs a little precision for nothing, but one file gives one answer
everywhere.

What one scale per token costs: MiniLM-L6 (384 wide), one pair of 256 tokens a run, one thread, CPU time in interleaved
rounds: 5.6 pairs/s against 5.9 with ONNX Runtime's own `DynamicQuantizeMatMul`, whose scale is that of all tokens, and
5.8 in float32 (AMD Zen 1, whose int8 multiplications are no faster than float32 ones; elsewhere they are). Five per
cent, for scores that are the same in every batch.

Word table: s8 with one scale per row. The rows that a batch asks for are gathered first and scaled then, so the table
is never held in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidecar.engines.export.graph import WORD_TABLE, Graph
from sidecar.engines.export.tensors import Tensor, blocks

if TYPE_CHECKING:
    import onnx

WEIGHT_LEVELS = 63  # 7 bits, symmetric
ACTIVATION_LEVELS = 127  # symmetric around ACTIVATION_ZERO
ACTIVATION_ZERO = 128
TABLE_LEVELS = 127
SMALLEST_SCALE = 1e-12


def quantise(graph: Graph, keep_float: frozenset[str] = frozenset()) -> Graph:
    """Returns the int8 form of `graph`; MatMul nodes named in `keep_float` stay float32.

    Every other MatMul must have a constant right-hand side of shape [in, out] and a left-hand side [..., in].
    """
    rewriter = Rewriter(graph.constants)
    for node in graph.nodes:
        if node.op_type == "MatMul" and node.name not in keep_float:
            rewriter.matrix_product(node)
        elif node.op_type == "Gather" and node.input[0] == WORD_TABLE:
            rewriter.word_table(node)
        else:
            rewriter.nodes.append(node)
    return replace(graph, nodes=tuple(rewriter.nodes), constants=rewriter.constants)


def quantise_rows(table: NDArray[Any], levels: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric s8 per row: `table ~= values * scales`, `values` in [-levels, levels], `scales` of shape [rows, 1].

    Block by block: the word table of a multilingual model takes 1 GB, and so would every intermediate result.
    """
    values = np.empty(table.shape, dtype=np.int8)
    scales = np.empty((len(table), 1), dtype=np.float32)
    for rows in blocks(len(table)):
        scales[rows] = np.maximum(np.abs(table[rows]).max(axis=1, keepdims=True) / levels, SMALLEST_SCALE)
        values[rows] = np.rint(table[rows] / scales[rows])
    return values, scales


def row_tensors(table: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """`quantise_rows` of a tensor that is not loaded yet: values [rows, n] and scales [rows, 1]."""
    values = Tensor(table.shape, np.dtype(np.int8), lambda: quantise_rows(table.load(), levels)[0])
    scales = Tensor((table.shape[0], 1), np.dtype(np.float32), lambda: quantise_rows(table.load(), levels)[1])
    return values, scales


class Rewriter:
    """Collects the nodes and constants of the quantised graph, in order."""

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        self.constants = dict(constants)
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.setdefault(name, Tensor.of(value))
        return name

    def matrix_product(self, node: onnx.NodeProto) -> None:
        x, weight, output = node.input[0], node.input[1], node.output[0]
        values, scales = row_tensors(self.constants.pop(weight).transposed(), WEIGHT_LEVELS)
        self.constants[f"{weight}.int8"] = values.transposed()
        self.constants[f"{weight}.scales"] = Tensor(scales.shape[:1], scales.dtype, lambda: scales.load().ravel())
        width = np.array([-1, values.shape[1]])
        tokens = self.node("Reshape", [x, self.constant(f"rows_of_{width[1]}", width)], f"{output}.tokens")
        axis = self.constant("quantise.axis", np.array([-1]))
        peak = self.node("ReduceMax", [self.node("Abs", [tokens], f"{output}.abs"), axis], f"{output}.peak", keepdims=1)
        floor = self.constant("quantise.floor", np.array(SMALLEST_SCALE, dtype=np.float32))
        levels = self.constant("quantise.levels", np.array(1 / ACTIVATION_LEVELS, dtype=np.float32))
        scale = self.node("Mul", [peak, levels], f"{output}.scale")
        scale = self.node("Max", [scale, floor], f"{output}.safe_scale")
        flat = self.node("Reshape", [scale, axis], f"{output}.flat_scale")
        count = self.node("Shape", [flat], f"{output}.count")
        zero = self.constant("quantise.zero", np.array([ACTIVATION_ZERO], dtype=np.uint8))
        zeros = self.node("Expand", [zero, count], f"{output}.zeros")
        quantised = self.node("QuantizeLinear", [tokens, flat, zeros], f"{output}.int8", axis=0)
        one = self.constant("quantise.one", np.array(1, dtype=np.float32))
        scalar_zero = self.constant("quantise.scalar_zero", np.array(ACTIVATION_ZERO, dtype=np.uint8))
        product = self.node(
            "MatMulIntegerToFloat",
            [quantised, f"{weight}.int8", one, f"{weight}.scales", scalar_zero],
            f"{output}.unscaled",
            domain="com.microsoft",
        )
        scaled = self.node("Mul", [product, scale], f"{output}.rows")
        shape = self.node("Shape", [x], f"{output}.leading", end=-1)
        last = self.constant(f"width_{values.shape[0]}", np.array([values.shape[0]]))
        shape = self.node("Concat", [shape, last], f"{output}.shape", axis=0)
        self.node("Reshape", [scaled, shape], output)

    def word_table(self, node: onnx.NodeProto) -> None:
        from onnx import TensorProto

        ids, output = node.input[1], node.output[0]
        values, scales = row_tensors(self.constants.pop(WORD_TABLE), TABLE_LEVELS)
        self.constants[f"{WORD_TABLE}.int8"] = values
        self.constants[f"{WORD_TABLE}.scales"] = scales
        rows = self.node("Gather", [f"{WORD_TABLE}.int8", ids], f"{output}.int8")
        rows = self.node("Cast", [rows], f"{output}.cast", to=TensorProto.FLOAT)
        self.node("Mul", [rows, self.node("Gather", [f"{WORD_TABLE}.scales", ids], f"{output}.scale")], output)
