"""The export of a Hugging Face cross-encoder: the same scores, whatever the family, precision or packing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidecar.engines.manifest import ModelError, read_manifest

pytest.importorskip("onnx", reason="the extra export is not installed")

from sidecar.engines.export import graph as graphs
from sidecar.engines.export.architectures import FAMILIES
from sidecar.engines.export.export import BATCHES, Outcome, Precision, export
from sidecar.engines.export.weights import read_safetensors
from sidecar.engines.onnx import PairScorer
from tests.rerankers import tiny_checkpoints
from tests.rerankers.export_cases import GROUPS, PLAN, copied, exported

MAX_TOKENS, QUERY_MAX_TOKENS = 128, 64
# float32 sums in another order; scores spread by 0.15 to 0.3.
FLOAT_TOLERANCE = 1e-5
# Padding changes the order of additions. int8 takes no batches: every text is a run of its own, whatever the budget.
BATCH_TOLERANCE = {Precision.FP32: 1e-5, Precision.INT8: 0.0}


def scores(folder: Path, budget: int = 1) -> list[float]:
    """What the engine answers for the texts of the first group."""
    group = GROUPS[0]
    scorer = PairScorer(read_manifest(folder), threads=1, token_budget=budget)
    return scorer.score(group.query, group.texts, MAX_TOKENS, QUERY_MAX_TOKENS).scores.tolist()


@pytest.fixture(scope="module")
def both(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Outcome]:
    """That checkpoint in each precision."""
    root = tmp_path_factory.mktemp("models")
    return {precision: exported(bert, root / precision, replace(PLAN, precision=precision)) for precision in Precision}


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """The exported float32 model answers what the torch model answers, with no tensor left to chance."""
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra torch is not installed")
    checkpoint = tiny_checkpoints.make(family, tmp_path / family)
    scorer = PairScorer(read_manifest(exported(checkpoint, tmp_path / "model").folder), threads=1)
    group = GROUPS[0]
    found = scorer.score(group.query, group.texts, MAX_TOKENS, QUERY_MAX_TOKENS).scores
    model, facts = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(facts.values()), facts
    expected = []
    for encoding in scorer.tokenised(group.query, group.texts, MAX_TOKENS, QUERY_MAX_TOKENS):
        types = {"token_type_ids": torch.tensor([encoding.type_ids])} if family in ("bert", "electra") else {}
        with torch.inference_mode():
            expected.append(float(model.eval()(input_ids=torch.tensor([encoding.ids]), **types).logits[0, 0]))
    assert np.std(expected) > 0.05, "scores that hardly differ would prove nothing"
    assert found.tolist() == pytest.approx(expected, abs=FLOAT_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_the_reference(family: str, tmp_path: Path) -> None:
    """The graph and the NumPy formulas, which share no kernel, give the same scores, also without torch."""
    outcome = exported(tiny_checkpoints.make(family, tmp_path / family), tmp_path / "model")
    fidelity = outcome.fidelity[Precision.FP32]
    assert fidelity.pairs == sum(len(group.texts) for group in GROUPS)
    assert fidelity.spread > 0.05
    assert fidelity.largest < FLOAT_TOLERANCE
    assert fidelity.tau == 1.0


def test_int8_is_near(both: dict[Precision, Outcome]) -> None:
    """int8 moves scores by a fraction of their spread, and is really another computation."""
    fidelity = both[Precision.INT8].fidelity[Precision.INT8]
    assert 0 < fidelity.mean < 0.25 * fidelity.spread
    assert 1.0 >= fidelity.tau > 0.5


@pytest.mark.parametrize("precision", Precision)
def test_a_batch_does_not_change_a_score(both: dict[Precision, Outcome], precision: Precision) -> None:
    """Alone, in batches of some, or all together with padding: the same score within the stated tolerance."""
    folder, tolerance = both[precision].folder, BATCH_TOLERANCE[precision]
    alone = scores(folder)
    for budget in (256, 4_096):
        assert scores(folder, budget) == pytest.approx(alone, rel=0, abs=tolerance)


def test_the_manifest_says_what_was_made(both: dict[Precision, Outcome]) -> None:
    """Precision, limits, batch and the measured figures are in model.json, and the engine reads them."""
    outcome = both[Precision.INT8]
    data = json.loads((outcome.folder / "model.json").read_bytes())
    manifest = read_manifest(outcome.folder)
    assert (manifest.precision, manifest.source, manifest.positions) == ("int8", "a test", tiny_checkpoints.POSITIONS)
    assert manifest.truncation.max_tokens == tiny_checkpoints.POSITIONS, "less than 512, the model's own limit"
    assert manifest.batch_tokens == outcome.batch_tokens
    assert PairScorer(manifest).token_budget == outcome.batch_tokens
    assert data["fidelity"]["pairs"] == 9
    assert len(data["pairs_per_s"]) == 1, "int8 has no batches to choose between"
    assert all(pace > 0 for pace in outcome.pairs_per_s.values())


def test_the_revision_follows_precision_and_batch(both: dict[Precision, Outcome]) -> None:
    """Whatever can change a score changes the revision, on which caches rely."""
    manifests = [read_manifest(both[precision].folder) for precision in Precision]
    revisions = {m.revision(m.truncation, budget) for m in manifests for budget in BATCHES}
    assert len(revisions) == 4


def test_auto_measures_both_and_keeps_one(bert: Path, tmp_path: Path) -> None:
    """Without a stated precision both are compared, and exactly the better one is left."""
    outcome = exported(bert, tmp_path / "model", replace(PLAN, precision=None))
    assert set(outcome.fidelity) == set(Precision)
    assert set(outcome.pairs_per_s) == {(Precision.INT8, 1), *((Precision.FP32, batch) for batch in BATCHES)}
    assert read_manifest(tmp_path / "model").precision == outcome.precision
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_large_weights_stand_in_a_file_of_their_own(
    bert: Path, both: dict[Precision, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above protobuf's limit the model has a data file, which is digest-checked and gives the same scores."""
    monkeypatch.setattr(graphs, "INLINE_BYTES", 1_000)
    folder = exported(bert, tmp_path / "model", replace(PLAN, precision=Precision.INT8)).folder
    data = folder / graphs.DATA_FILE
    assert data.stat().st_size > (folder / "model.onnx").stat().st_size
    assert scores(folder) == scores(both[Precision.INT8].folder)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.onnx\.data is not the file that model\.json names"):
        PairScorer(read_manifest(folder))


def test_a_model_file_cut_in_half_is_named(both: dict[Precision, Outcome], tmp_path: Path) -> None:
    """A damaged model never reaches ONNX Runtime."""
    for file in both[Precision.FP32].folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"model\.onnx is not the file.*install the model again"):
        PairScorer(read_manifest(tmp_path))


def test_shards_are_read_like_one_file(bert: Path, both: dict[Precision, Outcome], tmp_path: Path) -> None:
    """An index with several weight files gives the same model."""
    folder = copied(bert, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    every = sorted(tiny_checkpoints.arrays("bert").items())
    parts = {"one.safetensors": dict(every[:9]), "two.safetensors": dict(every[9:])}
    for name, arrays in parts.items():
        tiny_checkpoints.write_safetensors(folder / name, arrays)
    weight_map = {tensor: name for name, arrays in parts.items() for tensor in arrays}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert scores(exported(folder, tmp_path / "model").folder) == scores(both[Precision.FP32].folder)


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.02), ("BF16", 0.15)])
def test_half_precision_checkpoints_are_read(
    kind: str, tolerance: float, both: dict[Precision, Outcome], tmp_path: Path
) -> None:
    """float16 and bfloat16 weights come out as the float32 numbers that they stand for."""
    outcome = exported(tiny_checkpoints.make("bert", tmp_path / "half", kind), tmp_path / "model")
    assert outcome.fidelity[Precision.FP32].largest < FLOAT_TOLERANCE
    assert scores(outcome.folder) == pytest.approx(scores(both[Precision.FP32].folder), abs=tolerance)


def test_an_interrupted_export_leaves_nothing(bert: Path, tmp_path: Path) -> None:
    """Ctrl-C at any step: no target and no half-written folder beside it."""
    for step in ("writing", "reference", "comparing", "speed"):

        def stop(what: str, done: int, of: int, step: str = step) -> None:
            if step in what:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(bert, tmp_path / "models" / "tiny", PLAN, GROUPS, stop)
        assert list((tmp_path / "models").iterdir()) == []


def test_nothing_is_overwritten(bert: Path, tmp_path: Path) -> None:
    """An export never replaces a model that a sidecar may be running."""
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="exists: choose another name"):
        exported(bert, tmp_path / "model")


def test_whole_number_tensors_are_left_out(tmp_path: Path) -> None:
    """Old checkpoints keep position ids among their weights."""
    path = tmp_path / "some.safetensors"
    kept = np.arange(6, dtype=np.float32).reshape(2, 3)
    tiny_checkpoints.write_safetensors(path, {"kept": kept, "ids": np.arange(4)})
    tensors = read_safetensors(path)
    assert list(tensors) == ["kept"]
    np.testing.assert_array_equal(tensors["kept"].load(), kept)
