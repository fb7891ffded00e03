"""float32 ONNX graph -> int8 ONNX graph for one text a run: faster than `quantise`, and closer to float32.

A text that runs alone has the same scales whatever else is scored, so one scale may serve all its tokens, and ONNX
Runtime's own `DynamicQuantizeMatMul` does the whole product in one node. What keeps that precise:
- In front of a product that reads a layer normalisation, the channels are brought to one size: BERT has a few that are
  ten times as large as the others, which would take the scale for themselves. Divided by s in the activations and
  multiplied by s in the weights they are the same product (SmoothQuant, Xiao et al. 2023, equation 4).
- What comes out of a GELU (or ReLU) has no left half, and its tokens differ a lot in size. It keeps one scale per
  token, and a zero point near the end of the range, which gives nearly all levels to the right half.

Measured with a MiniLM-L6 cross-encoder, pairs of 256 tokens, one thread of an AMD Zen 5 (VNNI), ms of CPU time a pair
and root mean square error of the logits as a share of their spread within a list: one scale per token 14.5 and 0.13,
one scale per text 11.7 and 0.19, this 12.2 and 0.08. With the weights in 8 bits instead of 7 it would be 0.065, but see
`quantise` for why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sidecar.engines.export.graph import WORD_TABLE, Graph
from sidecar.engines.export.quantise import SMALLEST_SCALE, WEIGHT_LEVELS, Rewriter, row_tensors
from sidecar.engines.export.tensors import Floats, Tensor

if TYPE_CHECKING:
    import onnx

SMOOTHING = 0.65  # the exponent of the activations; 0.5 to 0.8 are about equally good
SMALLEST_PEAK = 1e-5
# The least value that comes out of an activation (GELU's minimum is -0.16998), and the zero point that has room for it.
LEAST: Mapping[str, float] = {"Gelu": -0.17, "Relu": 0.0}
ZERO = 24
HIGHEST = 255


def quantise_alone(graph: Graph, peaks: Mapping[str, Floats], keep_float: frozenset[str] = frozenset()) -> Graph:
    """Returns the int8 form of `graph`, which has to be a `Graph.one_text`; products in `keep_float` stay float32.

    Every other MatMul must have a constant right-hand side of shape [in, out] and a left-hand side [1, s, in].
    ``peaks`` is the largest magnitude of each channel in real texts, float32 [in], by the tensor's name in the graph;
    products whose input is not among them go without smoothing.
    """
    rewriter = _TextRewriter(graph, peaks)
    for node in graph.nodes:
        if node.op_type == "MatMul" and node.name not in keep_float:
            rewriter.matrix_product(node)
        elif node.op_type == "Gather" and node.input[0] == WORD_TABLE:
            rewriter.word_table(node)
        elif node.name not in rewriter.done:
            rewriter.nodes.append(node)
    return replace(graph, nodes=tuple(rewriter.nodes), constants=rewriter.constants)


def smoothing(peaks: Floats, weight: Floats) -> Floats:
    """What to divide each channel of the activations by: float32 [in], geometric mean 1.

    ``peaks`` float32 [in] are its largest magnitudes, ``weight`` is [in, out].
    """
    most = np.maximum(np.abs(weight).max(axis=1), SMALLEST_PEAK)
    logarithms = SMOOTHING * np.log(np.maximum(peaks, SMALLEST_PEAK)) - (1 - SMOOTHING) * np.log(most)
    factors: Floats = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors


class _TextRewriter(Rewriter):
    """Collects the nodes and constants of the quantised graph. ``done`` are nodes that a product has taken in."""

    def __init__(self, graph: Graph, peaks: Mapping[str, Floats]) -> None:
        super().__init__(graph.constants)
        self._peaks = peaks
        self._producers = {output: node for node in graph.nodes for output in node.output}
        self._adds = {node.input[0]: node for node in graph.nodes if node.op_type == "Add"}
        self.done: set[str] = set()

    def matrix_product(self, node: onnx.NodeProto) -> None:
        """One product, with the bias that is added to it."""
        x, name = node.input[0], node.input[1]
        weight = self.constants.pop(name)
        add = self._adds.get(node.output[0])
        bias, output = "", node.output[0]
        if add is not None and add.input[1] in self.constants:
            bias, output = add.input[1], add.output[0]
            self.done.add(add.name)
        producer = self._producers.get(x)
        if producer is not None and producer.op_type in LEAST:
            self._one_sided(x, LEAST[producer.op_type], weight, name, bias, output)
            return
        if x in self._peaks:
            factors = smoothing(self._peaks[x], weight.load())
            divisors = self.constant(f"{name}.smoothing", (1 / factors).astype(np.float32))
            x = self.node("Mul", [x, divisors], f"{output}.smoothed")
            weight = _row_scaled(weight, factors)
        inputs = [x, *self._weight(weight, name)]
        self.node("DynamicQuantizeMatMul", [*inputs, "", bias] if bias else inputs, output, domain="com.microsoft")

    def _weight(self, weight: Tensor, name: str) -> list[str]:
        """The names of the product's int8 weights [in, out] and their scales [out]."""
        values, scales = row_tensors(weight.transposed(), WEIGHT_LEVELS)
        self.constants[f"{name}.int8"] = values.transposed()
        self.constants[f"{name}.scales"] = Tensor(scales.shape[:1], scales.dtype, lambda: scales.load().ravel())
        return [f"{name}.int8", f"{name}.scales"]

    def _one_sided(self, x: str, least: float, weight: Tensor, name: str, bias: str, output: str) -> None:
        """A product of an input that is never below ``least``: a scale per token, by its largest value."""
        values, scales = self._weight(weight, name)
        zero = self.constant("quantise.zero", np.array([ZERO], dtype=np.uint8))
        axis = self.constant("quantise.axis", np.array([-1]))
        levels = self.constant("quantise.levels", np.array(1 / (HIGHEST - ZERO), dtype=np.float32))
        # No scale is so small that ``least`` would fall out of the range on the left.
        floor = self.constant("quantise.floor", np.array(max(-least / ZERO, SMALLEST_SCALE), dtype=np.float32))
        peak = self.node("ReduceMax", [x, axis], f"{output}.peak", keepdims=1)
        scale = self.node("Max", [self.node("Mul", [peak, levels], f"{output}.rough_scale"), floor], f"{output}.scale")
        flat = self.node("Reshape", [scale, axis], f"{output}.flat_scale")
        zeros = self.node("Expand", [zero, self.node("Shape", [flat], f"{output}.count")], f"{output}.zeros")
        quantised = self.node("QuantizeLinear", [x, flat, zeros], f"{output}.int8", axis=1)
        one = self.constant("quantise.one", np.array(1, dtype=np.float32))
        scalar_zero = self.constant("quantise.scalar_zero", np.array(ZERO, dtype=np.uint8))
        product = self.node(
            "MatMulIntegerToFloat",
            [quantised, values, one, scales, scalar_zero],
            f"{output}.unscaled",
            domain="com.microsoft",
        )
        if not bias:
            self.node("Mul", [product, scale], output)
            return
        self.node("Add", [self.node("Mul", [product, scale], f"{output}.rows"), bias], output)


def _row_scaled(weight: Tensor, factors: Floats) -> Tensor:
    """Row i of a matrix times ``factors[i]``, once it is loaded."""
    return Tensor(weight.shape, weight.dtype, lambda: weight.load() * factors[:, None])
