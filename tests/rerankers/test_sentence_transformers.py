"""What the sentence-transformers engine computes: as the models themselves do, whatever the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.engines.manifest import Kind
from sidecar.engines.models import CrossEncoderModel, LateInteractionModel
from sidecar.engines.sentence_transformers import TOKEN_BUDGET, TokenEncoder, load
from sidecar.worker_messages import ScorePairs
from tests.rerankers.local_models import copy_model
from tests.rerankers.torch_cases import MARKS, QUERY, TEXTS, WEIGHTS, spec

pytest_plugins = ("tests.rerankers.checkpoints",)
pytestmark = MARKS


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
