"""How much the sentence-transformers engine computes in one run, by device and setting. All of it runs on a CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.trace import NoOpTracer

from router.arms import Availability, State
from sidecar.assemble_rerankers import scheduling_of, simple
from sidecar.engines.base import PairList
from sidecar.engines.manifest import Kind, ModelError, Truncation
from sidecar.engines.sentence_transformers import (
    DEVICE_TOKEN_BUDGET,
    TOKEN_BUDGET,
    PairScorer,
    TokenEncoder,
    batch_tokens,
    load,
)
from sidecar.engines.specs import TorchSpec
from sidecar.reranker_settings import TorchCrossEncoder
from sidecar.rerankers.loadable import QUERY_TOKENS
from sidecar.settings import Settings
from tests.rerankers.torch_cases import NEEDS_TORCH, TIMEOUT

pytest_plugins = ("tests.rerankers.checkpoints",)
pytestmark = TIMEOUT
MAX_TOKENS = 128
QUERY = "how to read a csv file"
TEXTS = tuple("of the file " * (number % 37) + str(number) for number in range(60))


def spec(model: Path, **fields: Any) -> TorchSpec:
    """A cross-encoder with short limits."""
    return TorchSpec(str(model), Kind.CROSS_ENCODER, Truncation(MAX_TOKENS, QUERY_TOKENS), **fields)


@pytest.mark.parametrize(
    ("device", "setting", "expected"),
    [
        ("cpu", 0, TOKEN_BUDGET),
        ("cpu:0", 0, TOKEN_BUDGET),
        ("cuda", 0, DEVICE_TOKEN_BUDGET),
        ("cuda:1", 0, DEVICE_TOKEN_BUDGET),
        ("mps", 0, DEVICE_TOKEN_BUDGET),
        ("cpu", 2048, 2048),
        ("cuda", 2048, 2048),
    ],
)
def test_tokens_of_a_run_are_by_device_unless_set(device: str, setting: int, expected: int) -> None:
    """512 on a CPU, 16,384 on whatever else; a setting wins."""
    assert batch_tokens(spec(Path("model"), device=device, batch_tokens=setting)) == expected


def counted(method: Callable[..., Any], runs: list[int]) -> Callable[..., Any]:
    """``method``, which is told its texts first; their number is added to ``runs``."""

    def run(texts: Sequence[object], **options: Any) -> Any:
        runs.append(len(texts))
        return method(texts, **options)

    return run


@NEEDS_TORCH
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float16", 8 * 2**-10), ("bfloat16", 8 * 2**-7)])
def test_one_run_of_many_pairs_scores_as_many_runs_of_few(
    dtype: str, most: float, xlmr_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 pairs that a CPU takes 512 tokens at a time go through in a few runs with a GPU's budget; scores with a
    deviation of 0.36 move by what the precision allows: in half precision by eight steps between numbers near 1."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(xlmr_tiny), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype})
    runs: list[int] = []
    monkeypatch.setattr(model, "predict", counted(model.predict, runs))
    scores = {}
    for budget in (TOKEN_BUDGET, DEVICE_TOKEN_BUDGET):
        runs.clear()
        (found,) = PairScorer("tiny", model, budget).score_lists([PairList(QUERY, TEXTS)], MAX_TOKENS, QUERY_TOKENS)
        scores[budget] = found.scores
        assert sum(runs) == len(TEXTS)
        assert (len(runs) < 5) == (budget == DEVICE_TOKEN_BUDGET), runs
    np.testing.assert_allclose(scores[DEVICE_TOKEN_BUDGET], scores[TOKEN_BUDGET], rtol=0, atol=most)


@NEEDS_TORCH
def test_one_run_of_many_documents_encodes_as_many_runs_of_few(
    colbert_minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for token vectors, before they are rounded to int8."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(colbert_minilm), device="cpu", local_files_only=True)
    runs: list[int] = []
    monkeypatch.setattr(model, "encode_document", counted(model.encode_document, runs))
    few = TokenEncoder(model, TOKEN_BUDGET).encode(TEXTS, MAX_TOKENS)
    of_few = len(runs)
    many = TokenEncoder(model, DEVICE_TOKEN_BUDGET).encode(TEXTS, MAX_TOKENS)
    assert len(runs) - of_few < 5 < of_few
    assert few.lengths == many.lengths
    for one, other in zip(few.vectors, many.vectors, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@NEEDS_TORCH
def test_the_tokens_of_a_run_are_part_of_the_revision(xlmr_tiny: Path) -> None:
    """Batches move scores in the sixth digit, so that another budget is another revision; the CPU's own, spelt out, is
    not."""
    own, spelt_out, larger = (load(spec(xlmr_tiny, batch_tokens=tokens), 1, 0).revision for tokens in (0, 512, 4096))
    assert own == spelt_out != larger


async def until_known(model: Path, **fields: Any) -> tuple[Availability, str]:
    """What becomes of a configured cross-encoder, and its revision."""
    configured = TorchCrossEncoder(
        engine="sentence_transformers", model=str(model), threads=1, max_tokens=MAX_TOKENS, **fields
    )
    reranker = simple("bge", configured, scheduling_of(Settings()), {}, NoOpTracer())
    await reranker.start()
    try:
        while (availability := reranker.availability()).state is State.WARMING:
            await asyncio.sleep(0.02)
        return availability, reranker.identity.revision
    finally:
        await reranker.close()


@NEEDS_TORCH
async def test_the_setting_reaches_the_child(xlmr_tiny: Path) -> None:
    """`batch_tokens` of a configured reranker is what its model process runs with: they have one revision."""
    availability, revision = await until_known(xlmr_tiny, batch_tokens=4096)
    assert availability.state is State.READY
    assert revision == load(spec(xlmr_tiny, batch_tokens=4096), 1, 0).revision


@NEEDS_TORCH
async def test_a_device_that_is_not_there(xlmr_tiny: Path) -> None:
    """The reranker is OFF; its reason names the setting, what torch says of it, and both ways out."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    availability, _ = await until_known(xlmr_tiny, device="cuda")
    assert availability.state is State.OFF
    assert f"{xlmr_tiny} cannot run on device 'cuda' (" in availability.detail
    assert "CUDA" in availability.detail
    assert (
        "set `device` = 'cpu', or install a build of torch for it and let this process see one" in availability.detail
    )


@NEEDS_TORCH
def test_a_device_that_does_not_exist(xlmr_tiny: Path) -> None:
    """A slip is told before anything is looked for on the hub."""
    with pytest.raises(ModelError, match=r"cannot run on device 'cuba' \(RuntimeError: .*cuba"):
        load(spec(xlmr_tiny / "nowhere", device="cuba"), 1, 0)
