"""Who is measured: every contender with its environment, its program and what that is loaded with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.rerankers.models import Models
from tests.rivals.environment import HERE, ROOT, Environment

FP32 = "fp32"
INT8 = "int8"
OURS = "millirank"
REFERENCE = "sentence-transformers torch"
INFINITY = "infinity"


LONGEST_PAIR = 512

OWN_ENVIRONMENT = Environment(
    "this-project",
    (HERE / "this-project.txt",),
    manifests=(ROOT / "pyproject.toml", ROOT / "clients" / "python" / "pyproject.toml"),
    sources=(ROOT / "router", ROOT / "sidecar", ROOT / "clients" / "python" / "src"),
)
SENTENCE_TRANSFORMERS = Environment("sentence-transformers", (HERE / "sentence-transformers.txt",))
SENTENCE_TRANSFORMERS_ONNX = Environment("sentence-transformers-onnx", (HERE / "sentence-transformers-onnx.txt",))
# Not the one of the remote pool's tests: that release does not start where optimum is installed.
INFINITY_BOTH = Environment("infinity-optimum", (HERE / "infinity-optimum.txt",))
FLASHRANK = Environment("flashrank", (HERE / "flashrank.txt",))


@dataclass(frozen=True, slots=True)
class Contender:
    """``module`` of `tests.bench.rivals` runs it; ``arguments`` are what its ``load`` takes.

    ``tunes``: it has a batch size to choose, and gets the fastest one.
    """

    name: str
    precision: str
    environment: Environment
    module: str
    arguments: Mapping[str, Any]
    tunes: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether this project wrote it."""
        return self.name.startswith(OURS)

    @property
    def is_infinity(self) -> bool:
        """Whether it is infinity-emb, with whatever engine."""
        return self.name.startswith(INFINITY)


def contenders(models: Models, threads: int) -> tuple[Contender, ...]:
    """Everybody, on ``threads`` threads each; the models need not be there yet."""
    return (*_ours(models, threads), *_sentence_transformers(models, threads), *_others(models, threads))


def _ours(models: Models, threads: int) -> tuple[Contender, ...]:
    return tuple(
        Contender(
            f"{OURS} {precision}",
            precision,
            OWN_ENVIRONMENT,
            "millirank_pairs",
            {"model": str(models.own[precision]), "threads": threads},
            tunes=False,  # the export has chosen
        )
        for precision in (FP32, INT8)
    )


def _sentence_transformers(models: Models, threads: int) -> tuple[Contender, ...]:
    def one(name: str, precision: str, environment: Environment, model: Path, backend: str, file: str) -> Contender:
        arguments = {"model": str(model), "threads": threads, "backend": backend, "file_name": file}
        return Contender(name, precision, environment, "sentence_transformers_pairs", arguments)

    return (
        one(REFERENCE, FP32, SENTENCE_TRANSFORMERS, models.checkpoint, "torch", ""),
        *(
            one(
                f"sentence-transformers onnx {precision}",
                precision,
                SENTENCE_TRANSFORMERS_ONNX,
                file.parent,
                "onnx",
                file.name,
            )
            for precision, file in models.onnx.items()
        ),
    )


def _others(models: Models, threads: int) -> tuple[Contender, ...]:
    def infinity(name: str, precision: str, model: Path, engine: str) -> Contender:
        arguments = {"model": str(model), "threads": threads, "engine": engine}
        return Contender(name, precision, INFINITY_BOTH, "infinity_pairs", arguments)

    return (
        infinity(f"{INFINITY} torch", FP32, models.checkpoint, "torch"),
        *(
            infinity(f"{INFINITY} optimum {precision}", precision, file.parent, "optimum")
            for precision, file in models.onnx.items()
        ),
        *(
            Contender(
                f"FlashRank {precision}",
                precision,
                FLASHRANK,
                "flashrank_pairs",
                {
                    "cache_dir": str(models.flashrank(precision).parent),
                    "model_name": models.flashrank(precision).name,
                    "max_length": LONGEST_PAIR,
                },
                tunes=False,
            )
            for precision in models.onnx
        ),
    )
