"""Listwise distillation of the teacher into the tiny cross-encoder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make.encode import Ids, cut
from sidecar.embedded.make.files import SPLADE_TINY, load_weights
from sidecar.embedded.make.network import create
from sidecar.embedded.make.teacher import CANDIDATES, Lesson

if TYPE_CHECKING:
    import torch

LISTS_PER_STEP = 8
LIST_SIZE = 8
DOCUMENT_TOKENS = 64  # what the student reads while training: the beginning decides, and twice as many pairs fit
FROM_THE_TOP = 3  # of the list's candidates, how many come from the teacher's best ten: the order there is what counts
PAIRS_PER_FORWARD = 32
TEMPERATURE = 0.35
LEARNING_RATE = 5e-4
WARM_UP = 0.03
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of training after a step; `loss` and `agreement` (top-1) are means over the last 50 steps."""

    step: int
    share: float
    loss: float
    agreement: float


def train(
    lesson: Lesson, checkpoint: Path, *, minutes: float, seed: int, threads: int, report: Callable[[Progress], None]
) -> int:
    """Trains for `minutes` of wall time and returns the number of steps.

    `checkpoint` (safetensors) is written every minute and at the end, also when interrupted, so that a stop at any
    time leaves a model. The learning rate falls to zero over the given time, so a run that is cut short is worse than
    one planned shorter.
    """
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(seed)
    model = create(load_weights(SPLADE_TINY))
    optimiser = torch.optim.AdamW(_groups(model), betas=(0.9, 0.98), weight_decay=0.01)
    rates = [group["lr"] for group in optimiser.param_groups]
    started = saved = time.monotonic()
    recent: list[tuple[float, float]] = []
    step = 0
    queue: list[int] = []
    try:
        while (share := (time.monotonic() - started) / (60 * minutes)) < 1:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, share / WARM_UP + 0.02) * (1 - share)
            if len(queue) < LISTS_PER_STEP:
                queue = rng.permutation(len(lesson.queries)).tolist()
            rows, queue = queue[:LISTS_PER_STEP], queue[LISTS_PER_STEP:]
            picks = np.stack([_pick(rng) for _ in rows])
            target = torch.from_numpy(np.stack([lesson.scores[r, p] for r, p in zip(rows, picks, strict=True)]))
            pairs = [
                (lesson.queries[r], cut(lesson.documents[lesson.candidates[r, c]], DOCUMENT_TOKENS))
                for r, columns in zip(rows, picks, strict=True)
                for c in columns
            ]
            student = _score(model, pairs).view(len(rows), LIST_SIZE)
            wanted = functional.softmax(target / TEMPERATURE, dim=1)
            loss = functional.kl_div(functional.log_softmax(student, dim=1), wanted, reduction="batchmean")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            step += 1
            agreement = (student.argmax(1) == target.argmax(1)).float().mean()
            recent = [*recent[-49:], (loss.item(), agreement.item())]
            mean = np.mean(recent, axis=0)
            report(Progress(step, share, float(mean[0]), float(mean[1])))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save(model, checkpoint)
                saved = time.monotonic()
    finally:
        save(model, checkpoint)
    return step


def _pick(rng: np.random.Generator) -> NDArray[np.int64]:
    """Columns of a list (best teacher score first) to learn from."""
    top = rng.choice(10, FROM_THE_TOP, replace=False)
    rest = rng.choice(np.arange(10, CANDIDATES), LIST_SIZE - FROM_THE_TOP, replace=False)
    return np.concatenate([top, rest])


def _groups(model: torch.nn.Module) -> list[dict[str, object]]:
    """Embeddings slower, new parts faster than the pre-trained layers."""
    named = list(model.named_parameters())
    words = [p for n, p in named if "embeddings" in n]
    layers = [p for n, p in named if n.startswith("bert.encoder")]
    new = [p for n, p in named if not n.startswith("bert.")]
    return [
        {"params": words, "lr": LEARNING_RATE * 0.5},
        {"params": layers, "lr": LEARNING_RATE},
        {"params": new, "lr": LEARNING_RATE * 2},
    ]


def pair_inputs(
    pairs: list[tuple[Ids, Ids]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """[CLS] query [SEP] document [SEP], padded: input_ids, attention_mask, token_type_ids, each int64 [b,s]."""
    width = max(len(query) + len(document) - 1 for query, document in pairs)
    ids = np.zeros((len(pairs), width), dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, (query, document) in enumerate(pairs):
        end = len(query) + len(document) - 1
        ids[row, :end] = query + document[1:]
        mask[row, :end] = 1
        types[row, len(query) : end] = 1
    return ids, mask, types


def _score(model: torch.nn.Module, pairs: list[tuple[Ids, Ids]]) -> torch.Tensor:
    """Logits in the order of `pairs`; computed in batches of similar length."""
    import torch

    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    parts = []
    for start in range(0, len(order), PAIRS_PER_FORWARD):
        inputs = pair_inputs([pairs[index] for index in order[start : start + PAIRS_PER_FORWARD]])
        parts.append(model(*map(torch.from_numpy, inputs)))
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[inverse]


def save(model: torch.nn.Module, path: Path) -> None:
    """Writes the weights as safetensors, atomically."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.partial")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    os.replace(partial, path)
