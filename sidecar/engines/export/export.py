"""Checkpoint folder -> model folder, with what the export costs in fidelity and what it brings in speed, both measured.

Everything is written beside the target and moved there at the end: a run that is stopped leaves nothing half-done.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sidecar.engines.export import reference
from sidecar.engines.export.architectures import PairModel, normalised
from sidecar.engines.export.fidelity import Fidelity, PairGroup, compare, paces
from sidecar.engines.export.graph import WORD_TABLE, Graph
from sidecar.engines.export.scorer import build, build_int8
from sidecar.engines.export.tensors import Floats
from sidecar.engines.export.weights import Checkpoint, read_checkpoint
from sidecar.engines.manifest import MANIFEST_FILE, TOKENIZER_FILE, Kind, ModelError, read_manifest, sha256
from sidecar.engines.onnx import PairScorer, PairTokeniser

DEFAULT_MAX_TOKENS = 512
LEAST_MAX_TOKENS = 128  # room for the longest query and as much of a document
QUERY_MAX_TOKENS = 64
# The reference has no fused kernels: longer pairs would make the report slow, and say nothing else.
REPORT_TOKENS = 256
PACE_TEXTS = 4
BATCHES = (1, 1_024)  # padded tokens a run: one text, or what still fits the cache of most processors
# int8 takes a quarter of the memory, one text a run gives the same score to the last bit: a tie goes to these.
CLEARLY_FASTER = 1.1
LEAST_TAU = 0.9  # below it int8 does more harm than it saves
# float32 against float32: only the order of additions differs, by 1e-6 to 1e-4 of the spread in 24 layers.
MOST_FLOAT_DIFFERENCE = 2e-3

OnProgress = Callable[[str, int, int], None]


class Precision(StrEnum):
    """How the weights of the layers are held."""

    INT8 = "int8"
    FP32 = "fp32"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export and how. ``precision`` None makes both, measures them here and keeps the better.

    ``source`` says for people where the checkpoint is from; ``max_tokens`` bounds a pair, 0 takes 512 or the model's
    own limit, whichever is smaller; the speed is measured with ``threads`` threads for about ``pace_seconds``.
    """

    name: str
    source: str
    precision: Precision | None
    max_tokens: int
    threads: int
    pace_seconds: float = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was kept, and what was measured: fidelity by precision, pairs per second by (precision, batch tokens)."""

    folder: Path
    precision: Precision
    batch_tokens: int
    fidelity: Mapping[Precision, Fidelity]
    pairs_per_s: Mapping[tuple[Precision, int], float]


def export(checkpoint: Path, target: Path, plan: Plan, groups: Sequence[PairGroup], on_progress: OnProgress) -> Outcome:
    """Writes the model folder ``target``, which must not exist yet.

    ``groups`` are real queries with texts, to measure on. ``on_progress`` gets (what, done, of). Raises ModelError for
    a checkpoint that cannot be exported faithfully, OSError when there is no room.
    """
    if target.exists():
        raise ModelError(f"{target} exists: choose another name, or remove it first")
    read = read_checkpoint(checkpoint)
    model = normalised(read)
    max_tokens = _max_tokens(plan, model, checkpoint)
    tokenizer = _checked_tokenizer(read, model)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        limit = min(max_tokens, REPORT_TOKENS)
        expected, peaks = _reference(model, PairTokeniser(_copy(tokenizer)), groups, limit, on_progress)
        variants: dict[Precision, Path] = {}
        wanted = list(Precision) if plan.precision is None else [plan.precision]
        for done, precision in enumerate(wanted):
            on_progress("writing the model", done, len(wanted))
            folder = work / precision
            graph = build_int8(model, peaks) if precision is Precision.INT8 else build(model)
            _write(folder, graph, model.positions, precision, tokenizer, replace(plan, max_tokens=max_tokens))
            variants[precision] = folder
        on_progress("writing the model", len(wanted), len(wanted))
        scorers = {precision: PairScorer(read_manifest(at), plan.threads) for precision, at in variants.items()}
        fidelity = _fidelity(expected, scorers, groups, limit, on_progress)
        speeds = _speeds(scorers, groups, limit, plan.pace_seconds, on_progress)
        chosen, batch = _choice(fidelity, speeds)
        _complete(variants[chosen], batch, fidelity[chosen], speeds)
        variants[chosen].rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Outcome(target, chosen, batch, fidelity, speeds)


def _max_tokens(plan: Plan, model: PairModel, checkpoint: Path) -> int:
    limit = plan.max_tokens or min(DEFAULT_MAX_TOKENS, model.positions)
    if not LEAST_MAX_TOKENS <= limit <= model.positions:
        raise ModelError(f"max_tokens is {limit}; {checkpoint} can read {LEAST_MAX_TOKENS} to {model.positions}")
    return limit


def _checked_tokenizer(checkpoint: Checkpoint, model: PairModel) -> Tokenizer:
    """The tokenizer without truncation and padding, after a look at whether it is this model's."""
    path, rows = checkpoint.tokenizer, model.weights[WORD_TABLE].shape[0]
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # what the Rust side raises is a plain Exception
        raise ModelError(f"{path} cannot be loaded: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    fix = "take the tokenizer that was published with the weights"
    # Tables are often padded to a round number of rows; a tenth of the rows is more than padding.
    if not 0.9 * rows <= size <= rows:
        raise ModelError(f"{path} has {size:,} tokens and the model's table {rows:,} rows: {fix}")
    pair = tokenizer.encode("a", "b")
    if not pair.ids or max(pair.ids) >= rows or not pair.special_tokens_mask[0]:
        raise ModelError(f"{path} does not begin a pair with a special token, which the model's head reads: {fix}")
    if model.token_types and max(pair.type_ids) >= model.types:
        raise ModelError(f"{path} tells {max(pair.type_ids) + 1} token types apart, the model {model.types}: {fix}")
    return tokenizer


def _write(folder: Path, graph: Graph, positions: int, precision: Precision, tokenizer: Tokenizer, plan: Plan) -> None:
    folder.mkdir()
    names = [*graph.write(folder), TOKENIZER_FILE]
    tokenizer.save(str(folder / TOKENIZER_FILE))
    _write_json(
        folder / MANIFEST_FILE,
        {
            "name": plan.name,
            "kind": Kind.CROSS_ENCODER.value,
            "precision": precision.value,
            "source": plan.source,
            "files": {name: sha256(folder / name) for name in names},
            "max_tokens": plan.max_tokens,
            "query_max_tokens": QUERY_MAX_TOKENS,
            "positions": positions,
            "batch_tokens": 1,
            "token_dim": 0,
            "sentence_dim": 0,
            "maxsim_ratio": 0.0,
            "made_by": "millirank models export",
        },
    )


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    copied: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    return copied


def _reference(
    model: PairModel, tokenised: PairTokeniser, groups: Sequence[PairGroup], limit: int, on_progress: OnProgress
) -> tuple[list[Floats], Mapping[str, Floats]]:
    """What the checkpoint scores in each group, and the peaks that int8 is scaled by.

    Those are of the first half of the groups, so that the report is also about texts that set no scale.
    """
    encodings = [tokenised(group.query, group.texts, limit, QUERY_MAX_TOKENS) for group in groups]
    pairs = [reference.TokenisedPair(encoding.ids, encoding.type_ids) for group in encodings for encoding in group]
    layers, peaks = model.shape.layers, reference.Peaks()
    watched = sum(len(group.texts) for group in groups[: -(-len(groups) // 2)])
    flat = reference.scores(
        model, pairs, lambda done: on_progress("computing the reference", done, layers), peaks, watched
    )
    if not np.isfinite(flat).all():
        raise ModelError("the checkpoint's weights give scores that are not numbers: download the model again")
    return np.split(flat, np.cumsum([len(group.texts) for group in groups])[:-1]), peaks.by_tensor


def _fidelity(
    expected: Sequence[Floats],
    scorers: Mapping[Precision, PairScorer],
    groups: Sequence[PairGroup],
    limit: int,
    on_progress: OnProgress,
) -> dict[Precision, Fidelity]:
    found: dict[Precision, Fidelity] = {}
    for precision, scorer in scorers.items():
        scored: list[Floats] = []
        for group in groups:
            scored.append(scorer.score(group.query, group.texts, limit, QUERY_MAX_TOKENS).scores)
            on_progress(f"comparing {precision}", len(scored), len(groups))
        found[precision] = compare(expected, scored)
    exact = found.get(Precision.FP32)
    if exact is not None and exact.largest > MOST_FLOAT_DIFFERENCE * max(exact.spread, MOST_FLOAT_DIFFERENCE):
        raise ModelError(
            f"the float32 export is off by {exact.largest:.2g} (scores spread by {exact.spread:.2g}), so it does not "
            'compute what the checkpoint says; report it, and use engine = "sentence_transformers"'
        )
    return found


def _speeds(
    scorers: Mapping[Precision, PairScorer],
    groups: Sequence[PairGroup],
    limit: int,
    seconds: float,
    on_progress: OnProgress,
) -> dict[tuple[Precision, int], float]:
    """Pairs per second of every precision, one text a run and, where the model takes batches, batched."""
    group = max(groups, key=lambda each: len(each.texts))
    texts = group.texts[:PACE_TEXTS]
    keys = {
        f"{precision} {batch}": (precision, batch)
        for precision, scorer in scorers.items()
        for batch in (BATCHES[:1] if scorer.one_text else BATCHES)
    }

    def run(precision: Precision, batch: int) -> Callable[[], int]:
        def scored() -> int:
            scorer = scorers[precision]
            scorer.token_budget = batch
            return len(scorer.score(group.query, texts, limit, QUERY_MAX_TOKENS).scores)

        return scored

    on_progress("measuring the speed", 0, 1)
    found = paces({label: run(*key) for label, key in keys.items()}, seconds)
    on_progress("measuring the speed", 1, 1)
    return {keys[label]: pace for label, pace in found.items()}


def _choice(
    fidelity: Mapping[Precision, Fidelity], speeds: Mapping[tuple[Precision, int], float]
) -> tuple[Precision, int]:
    def best(precision: Precision) -> float:
        return max(pace for (each, _), pace in speeds.items() if each is precision)

    chosen = next(iter(fidelity))
    if len(fidelity) == len(Precision):
        slower = best(Precision.FP32) > CLEARLY_FASTER * best(Precision.INT8)
        harmful = fidelity[Precision.INT8].tau < LEAST_TAU
        chosen = Precision.FP32 if slower or harmful else Precision.INT8
    alone, batched = (speeds.get((chosen, batch), 0.0) for batch in BATCHES)
    return chosen, BATCHES[1] if batched > CLEARLY_FASTER * alone else BATCHES[0]


def _complete(folder: Path, batch: int, fidelity: Fidelity, speeds: Mapping[tuple[Precision, int], float]) -> None:
    """Adds what was measured to the manifest."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["batch_tokens"] = batch
    manifest["fidelity"] = asdict(fidelity)
    manifest["pairs_per_s"] = {f"{precision}, batch_tokens {at}": round(v, 2) for (precision, at), v in speeds.items()}
    _write_json(path, manifest)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
