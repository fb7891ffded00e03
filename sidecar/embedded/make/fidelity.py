"""What quantisation costs, measured on training texts: int8 against float32, and one batch against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.embedded.make.encode import Encoded, Ids, OnnxModel, encode, pad
from sidecar.embedded.make.train import pair_inputs


@dataclass(frozen=True, slots=True)
class EncoderLoss:
    """Cosines between int8 and float32 vectors; `batch` is the largest change of a component when a text is batched."""

    sentence_mean: float
    sentence_min: float
    token_mean: float
    token_low: float  # 1st percentile
    batch: float


@dataclass(frozen=True, slots=True)
class ScorerLoss:
    """Logits, int8 against float32: root mean square difference and correlation; `batch` as for the encoder."""

    spread: float  # standard deviation of the float32 logits
    difference: float
    correlation: float
    batch: float


def encoder_loss(int8: OnnxModel, exact: OnnxModel, ids: Sequence[Ids]) -> EncoderLoss:
    """Compares two token encoders on tokenised texts."""
    coarse, fine = encode(int8, ids), encode(exact, ids)
    sentence = (coarse.sentences * fine.sentences).sum(axis=1)
    token = (coarse.tokens.astype(np.float32) * fine.tokens.astype(np.float32)).sum(axis=1)
    return EncoderLoss(
        float(sentence.mean()),
        float(sentence.min()),
        float(token.mean()),
        float(np.quantile(token, 0.01)),
        _encoder_batch_effect(int8, coarse, ids),
    )


def _encoder_batch_effect(model: OnnxModel, batched: Encoded, ids: Sequence[Ids]) -> float:
    alone = [model.run(dict(zip(("input_ids", "attention_mask"), pad([tokens]), strict=True)))[1][0] for tokens in ids]
    return float(np.abs(np.stack(alone) - batched.sentences).max())


def scorer_loss(int8: OnnxModel, exact: OnnxModel, pairs: list[tuple[Ids, Ids]]) -> ScorerLoss:
    """Compares two cross-encoders on tokenised pairs."""
    names = ("input_ids", "attention_mask", "token_type_ids")

    def logits(model: OnnxModel, size: int) -> np.ndarray:
        groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return np.concatenate([model.run(dict(zip(names, pair_inputs(g), strict=True)))[0] for g in groups])

    coarse, fine = logits(int8, 32), logits(exact, 32)
    return ScorerLoss(
        float(fine.std()),
        float(np.sqrt(((coarse - fine) ** 2).mean())),
        float(np.corrcoef(coarse, fine)[0, 1]),
        float(np.abs(logits(int8, 1) - coarse).max()),
    )
