"""int8 for one text a run: what smoothing divides by, what the one-sided scale keeps, and what refuses a batch."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")

from sidecar.engines.export.graph import Graph, GraphBuilder
from sidecar.engines.export.quantise_alone import HIGHEST, LEAST, ZERO, quantise_alone, smoothing
from sidecar.engines.export.tensors import Floats, Tensor

WIDTH, OUT = 64, 8
# Whole numbers from -63 to 63 with 63 in every column are their own int8 form: whatever is off is the activations'.
WEIGHT = np.random.default_rng(1).integers(-63, 64, (WIDTH, OUT)).astype(np.float32)
WEIGHT[0] = 63
BIAS = np.arange(OUT, dtype=np.float32)


def one_product(activation: str = "") -> Graph:
    """activation(table[input_ids]) @ WEIGHT + BIAS, with a table of 20 rows; the product's input is named "x"."""
    builder = GraphBuilder()
    table = builder.constant("table", rows())
    x = builder.node("Gather", [table, "input_ids"], "x" if not activation else "before")
    if activation:
        x = builder.node(activation, [x], "x")
    builder.linear(x, "y", Tensor.of(WEIGHT), Tensor.of(BIAS))
    return builder.graph("product", ["input_ids"], {"y": ("b", "s", OUT)}, one_text=True)


def rows() -> Floats:
    """20 tokens of very different size, float32 [20, WIDTH]."""
    generator = np.random.default_rng(2)
    return (generator.normal(size=(20, WIDTH)) * np.geomspace(0.01, 10, 20)[:, None]).astype(np.float32)


def run(graph: Graph, ids: list[int]) -> Floats:
    session = ort.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    result: Floats = session.run(["y"], {"input_ids": np.array([ids])})[0][0]
    return result


def test_smoothing_by_hand() -> None:
    """Peaks 16 and 1, largest weights 1 and 1: s is 16**0.65 and 1, over their geometric mean 16**0.325; doubling a
    channel's weights divides its s by 2**0.35 against the other."""
    equal = smoothing(np.array([16, 1], np.float32), np.array([[1, -0.5], [0.2, 1]], np.float32))
    assert equal.tolist() == pytest.approx([16**0.325, 16**-0.325])
    heavy = smoothing(np.array([16, 1], np.float32), np.array([[2, -0.5], [0.2, 1]], np.float32))
    assert heavy[0] / heavy[1] == pytest.approx(16**0.65 / 2**0.35)


def test_silent_channels_do_not_divide_by_zero() -> None:
    """A channel that was never seen, or that has no weights, gets a finite factor that is not 0."""
    factors = smoothing(np.array([0, 1, 1], np.float32), np.array([[1], [0], [1]], np.float32))
    assert np.isfinite(factors).all()
    assert (factors > 0).all()


def test_smoothing_saves_what_a_loud_channel_drowns() -> None:
    """One channel 100 times as large as the others: smoothed, the product is less than half as far off."""
    graph, ids = one_product(), list(range(20))
    table = np.random.default_rng(3).normal(size=(20, WIDTH)).astype(np.float32)
    table[:, 5] *= 100
    graph.constants["table"] = Tensor.of(table)  # type: ignore[index]
    expected = table @ WEIGHT + BIAS

    def error(peaks: dict[str, Floats]) -> float:
        return float(np.sqrt(((run(quantise_alone(graph, peaks), ids) - expected) ** 2).mean()))

    assert error({"x": np.abs(table).max(axis=0)}) < error({}) / 2


@pytest.mark.parametrize("activation", LEAST)
def test_one_sided_product_is_as_exact_for_small_tokens(activation: str) -> None:
    """After GELU or ReLU every token has levels of its own: no result is off by more than the sum of half a level."""
    graph = one_product(activation)
    expected, found = run(graph, list(range(20))), run(quantise_alone(graph, {}), list(range(20)))
    session = ort.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["y"]
    peaks = np.maximum(rows(), 0).max(axis=1)  # GELU lowers the largest value of a token, so this is never too small
    level = np.maximum(peaks / (HIGHEST - ZERO), -LEAST[activation] / ZERO)
    bound = level[:, None] / 2 * np.abs(WEIGHT).sum(axis=0) + 1e-3
    assert (np.abs(found - expected) <= bound).all()


def test_gelu_minimum_is_in_range() -> None:
    """The least value of GELU (x = -0.7518) has room on the left of the zero point, however small the token's peak."""
    assert LEAST["Gelu"] <= -0.16997
    assert -LEAST["Gelu"] / ZERO * ZERO == pytest.approx(-LEAST["Gelu"])
    graph = one_product("Gelu")
    graph.constants["table"] = Tensor.of(np.full((1, WIDTH), -0.7518, np.float32))  # type: ignore[index]
    exact, found = run(graph, [0]), run(quantise_alone(graph, {}), [0])
    assert found == pytest.approx(exact, abs=0.01 * float(np.abs(exact - BIAS).max()))


def test_a_batch_is_refused() -> None:
    """One scale for a whole text is only right when the text runs alone, so the graph takes no second row."""
    session = ort.InferenceSession(
        quantise_alone(one_product(), {}).proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="Expected: 1"):
        session.run(["y"], {"input_ids": np.zeros((2, 3), np.int64)})
