"""The export of a checkpoint that cannot be a cross-encoder here: a clear no, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.engines.manifest import ModelError

pytest.importorskip("onnx", reason="the extra export is not installed")

from tests.rerankers import tiny_checkpoints
from tests.rerankers.export_cases import PLAN, copied, exported


def set_config(**changes: Any) -> Callable[[Path], None]:
    """A change of config.json; None removes a key."""

    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_bytes()) | changes
        kept = {key: value for key, value in data.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")

    return change


def set_weights(change: Callable[[tiny_checkpoints.Arrays], tiny_checkpoints.Arrays]) -> Callable[[Path], None]:
    """Other weights under the same config."""
    return lambda folder: tiny_checkpoints.write_safetensors(
        folder / "model.safetensors", change(tiny_checkpoints.arrays("bert"))
    )


def without(name: str) -> Callable[[Path], None]:
    """A checkpoint that lacks one tensor."""
    return set_weights(lambda arrays: {key: value for key, value in arrays.items() if key != name})


def pickled(folder: Path) -> None:
    """Weights as torch pickles them."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def halved(name: str) -> Callable[[Path], None]:
    """A download that broke off."""

    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return cut


def two_labels(arrays: tiny_checkpoints.Arrays) -> tiny_checkpoints.Arrays:
    """A classifier."""
    return arrays | {key: np.repeat(arrays[key], 2, axis=0) for key in ("classifier.weight", "classifier.bias")}


def not_numbers(arrays: tiny_checkpoints.Arrays) -> tiny_checkpoints.Arrays:
    """A training run that diverged."""
    return arrays | {"classifier.bias": np.array([np.nan], np.float32)}


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "architecture": (
        set_config(model_type="llama", architectures=["LlamaForX"]),
        r"'llama' \(LlamaForX\).*sentence_tr",
    ),
    "no model type": (set_config(model_type=None), "not None"),
    "pickle": (pickled, r"only as pytorch_model\.bin, a pickle"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "weights cut": (halved("model.safetensors"), r"model\.safetensors is not a whole safetensors file.*download"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "is not a whole safetensors file",
    ),
    "config cut": (halved("config.json"), r"config\.json cannot be read"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"tokenizer\.json is missing.*save_pretrained",
    ),
    "tokenizer cut": (halved("tokenizer.json"), r"tokenizer\.json cannot be loaded"),
    "other tokenizer": (
        lambda folder: tiny_checkpoints.write_unigram(folder / "tokenizer.json"),
        r"tokenizer\.json has \d+ tokens and the model's table 30,522 rows: take the tokenizer",
    ),
    "two labels": (set_weights(two_labels), "has 2 labels"),
    "no head": (without("classifier.weight"), "no scoring head"),
    "a tensor missing": (
        without("bert.encoder.layer.1.output.dense.bias"),
        r"lacks 1 tensors.*layer\.1\.output\.dense",
    ),
    "relative positions": (set_config(position_embedding_type="relative_key"), "'relative_key' positions"),
    "activation": (set_config(hidden_act="silu"), "activation 'silu'"),
    "heads": (set_config(num_attention_heads=5), "5 heads do not divide 32"),
    "layers": (set_config(num_hidden_layers="three"), "num_hidden_layers is 'three'"),
    "more layers": (set_config(num_hidden_layers=4), r"lacks 16 tensors.*encoder\.layer\.3"),
    "not numbers": (set_weights(not_numbers), "not numbers"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_named(case: str, bert: Path, tmp_path: Path) -> None:
    """The message says what is wrong and what to do, and nothing is left behind."""
    change, said = BAD_CHECKPOINTS[case]
    folder = copied(bert, tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(ModelError, match=said):
        exported(folder, tmp_path / "models" / "tiny")
    assert not (tmp_path / "models").exists() or list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("max_tokens", [127, 161])
def test_max_tokens_stays_within_the_model(max_tokens: int, bert: Path, tmp_path: Path) -> None:
    """Beyond its positions a model has learnt nothing; below 128 there is no room beside the query."""
    with pytest.raises(ModelError, match=f"max_tokens is {max_tokens}; .* can read 128 to 160"):
        exported(bert, tmp_path / "model", replace(PLAN, max_tokens=max_tokens))
