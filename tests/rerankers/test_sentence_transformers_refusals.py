"""What the sentence-transformers engine refuses to load, and how it says what is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.engines import checkpoint
from sidecar.engines.manifest import Kind, ModelError
from sidecar.engines.sentence_transformers import load
from tests.rerankers.local_models import copy_model
from tests.rerankers.torch_cases import MARKS, WEIGHTS, cut, pickle_only, spec

pytest_plugins = ("tests.rerankers.checkpoints",)
pytestmark = MARKS


def edit_config(folder: Path, **values: object) -> None:
    """Values on top of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def missing_shard(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds no weights"),
    "a pickle": (pickle_only, r"pytorch_model\.bin is a pickle"),
    "cut in half": (lambda folder: cut(folder, 300_000), "should have .* cut off"),
    "cut in the header": (lambda folder: cut(folder, 100), "no complete safetensors file"),
    "empty weights": (lambda folder: cut(folder, 0), "no complete safetensors file"),
    "other bytes": (
        lambda folder: (folder / WEIGHTS).write_bytes(b"\4" + b"\0" * 7 + b"%PDF"),
        "no safetensors header",
    ),
    "a shard missing": (missing_shard, "names model-00002-of-00002.safetensors, which is not there"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
    "half a config": (lambda folder: (folder / "config.json").write_text('{"arch'), r"config\.json cannot be read"),
    "no head": (
        lambda folder: edit_config(folder, architectures=["XLMRobertaModel"]),
        "holds XLMRobertaModel; a cross-encoder has a classification head",
    ),
    "unknown architecture": (
        lambda folder: edit_config(folder, model_type="unheard-of"),
        "cannot be loaded: .*unheard-of",
    ),
    "half a tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:5_000]),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_checkpoint_says_what_is_wrong(damage: str, xlmr_tiny: Path, tmp_path: Path) -> None:
    """ModelError, and nothing worse, names the folder or the file."""
    folder = copy_model(xlmr_tiny, tmp_path / "model")
    change, reason = BROKEN[damage]
    change(folder)
    with pytest.raises(ModelError, match=reason) as caught:
        load(spec(folder), 1, 0)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_beside_a_model_is_not_run(xlmr_tiny: Path, tmp_path: Path) -> None:
    """Invariant 12: a checkpoint that brings its own Python is refused, and its Python stays unread."""
    folder = copy_model(xlmr_tiny, tmp_path / "model")
    trace = tmp_path / "was-run"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    classes = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    edit_config(folder, model_type="evil", auto_map=classes)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(spec(folder), 1, 0)
    assert not trace.exists()


def test_a_tokenizer_of_another_model_is_refused(xlmr_tiny: Path, tmp_path: Path) -> None:
    """With more entries than the embedding table it would break on the first text that has one of them."""
    from transformers import AutoTokenizer

    folder = copy_model(xlmr_tiny, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["antidisestablishmentarianism"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"does not match its weights: ids go up to 4,000, the model knows 4,000"):
        load(spec(folder), 1, 0)


def test_a_model_with_several_labels_is_refused(xlmr_three_labels: Path) -> None:
    """Entailment, neutral, contradiction: none of them is a rerank score."""
    with pytest.raises(ModelError, match="gives 3 labels"):
        load(spec(xlmr_three_labels), 1, 0)


def test_a_plain_encoder_is_no_colbert(minilm_cross_encoder: Path) -> None:
    """The library would add a projection of random numbers; here the folder's content is named instead."""
    with pytest.raises(ModelError, match="holds BertForSequenceClassification; late interaction needs a ColBERT"):
        load(spec(minilm_cross_encoder, Kind.TOKEN_ENCODER), 1, 0)


def test_limits_that_leave_no_room(xlmr_tiny: Path) -> None:
    """The longest query and a document have to fit in together."""
    with pytest.raises(ModelError, match=r"max_tokens of .* is 39; use 40 or more"):
        load(spec(xlmr_tiny, max_tokens=39), 1, 0)


def test_precision_of_an_exported_model(xlmr_tiny: Path) -> None:
    """ONNX and OpenVINO files have the precision that they were exported with."""
    with pytest.raises(ModelError, match="dtype float16 works with backend torch only"):
        load(spec(xlmr_tiny, backend="onnx", dtype="float16"), 1, 0)


@pytest.mark.parametrize(("backend", "file"), [("onnx", "*.onnx"), ("openvino", "*.xml")])
def test_a_model_that_was_not_exported(backend: str, file: str, xlmr_tiny: Path) -> None:
    """Starting a sidecar is not the time to export a model, least of all from pickled weights."""
    with pytest.raises(ModelError, match=f"holds no {re.escape(file)}: export the model first"):
        load(spec(xlmr_tiny, backend=backend), 1, 0)


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="optimum is installed")
def test_a_backend_that_is_not_installed(xlmr_tiny: Path, tmp_path: Path) -> None:
    """What the backend needs is named."""
    folder = copy_model(xlmr_tiny, tmp_path / "model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    with pytest.raises(ModelError, match="requires installing Optimum"):
        load(spec(folder, backend="onnx"), 1, 0)


def test_the_extra_is_not_installed(xlmr_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install has no torch; the reason is the command that adds it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"needs torch: run pip install 'millirank-server\[torch\]'"):
        load(spec(xlmr_tiny), 1, 0)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/nowhere/model", "/nowhere/model is not a folder"),
        ("models/of/mine", "models/of/mine is not a folder"),
        ("two words", "'two words' is neither a folder nor a hub name"),
    ],
)
def test_a_name_that_cannot_be_on_the_hub(model: str, reason: str) -> None:
    """A mistyped path is not looked up anywhere."""
    with pytest.raises(ModelError, match=reason):
        checkpoint.locate(model, "", "torch")
