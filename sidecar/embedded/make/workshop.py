"""The steps of making the models, each kept in a work folder, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidecar.embedded.make import minilm, network
from sidecar.embedded.make.encode import OnnxModel, TextTokenizer
from sidecar.embedded.make.fidelity import encoder_loss, scorer_loss
from sidecar.embedded.make.files import MINILM, SPLADE_TINY, Manifest, load_weights, source_folder, write_model
from sidecar.embedded.make.queries import Example, make_examples
from sidecar.embedded.make.teacher import Lesson, teach
from sidecar.embedded.make.texts import load_or_collect
from sidecar.embedded.make.train import Progress, train
from sidecar.engines.export.graph import Graph
from sidecar.engines.export.quantise import quantise

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

TEXT_LIMITS = {"debian": 20_000, "docstring": 7_000, "code": 5_000}
QUERIES_EACH = 2
PROJECTION_TEXTS = 1200  # about 100,000 token vectors for 384 directions
FIDELITY_TEXTS = 100
CROSS_ENCODER_MAX_TOKENS = 128  # of a pair


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where the models are made: `work` keeps intermediate results, `out` has one folder per finished model."""

    work: Path
    out: Path
    threads: int
    seed: int
    bars: Bars

    def minilm(self, teacher_minutes: float) -> None:
        """Makes `minilm-l6`; the teacher's lists come with it, because MaxSim's ratio is measured on them."""
        projection = self._projection()
        self._write_minilm(projection, 1.0)
        lesson = self.lesson(teacher_minutes)
        self._write_minilm(projection, lesson.maxsim_ratio)
        texts = [example.document for example in self._examples()[-FIDELITY_TEXTS:]]
        ids = TextTokenizer(self.out / minilm.NAME / "tokenizer.json")(texts, minilm.MAX_TOKENS)
        exact = self.exact_minilm()
        int8 = OnnxModel(self.out / minilm.NAME / "model.onnx", self.threads)
        self._remember("encoder_loss", {"texts": len(texts), **asdict(encoder_loss(int8, exact, ids))})

    def exact_minilm(self) -> OnnxModel:
        """The float32 form of `minilm-l6`."""
        return OnnxModel(
            minilm.build(load_weights(MINILM), self._projection()).proto().SerializeToString(), self.threads
        )

    def lesson(self, teacher_minutes: float) -> Lesson:
        """What the teacher says; kept, so that `teacher_minutes` are spent once. Needs the files of `minilm`."""
        path = self.work / "lesson.npz"
        if not path.exists():
            examples = self._examples()
            folder = self.out / minilm.NAME
            task = self.bars.add_task(f"teacher, at most {teacher_minutes:g} minutes of texts", total=len(examples))
            model = OnnxModel(folder / "model.onnx", self.threads)
            tokenizer = TextTokenizer(folder / "tokenizer.json")
            taught = teach(examples, model, tokenizer, teacher_minutes, lambda n: self.bars.advance(task, n))
            self.bars.update(task, completed=len(examples))
            taught.save(path)
        lesson = Lesson.load(path)
        facts = {"documents": len(lesson.documents), "queries": len(lesson.queries), "ratio": lesson.maxsim_ratio}
        self._remember("lesson", facts)
        return lesson

    def cross_encoder(self, minutes: float, teacher_minutes: float) -> None:
        """Trains for `minutes` and writes `tiny-cross-encoder`; stopped with Ctrl-C, it writes what it has."""
        lesson = self.lesson(teacher_minutes)
        checkpoint = self.work / "cross-encoder.safetensors"
        task = self.bars.add_task("training", total=1.0)
        last: dict[str, float] = {}

        def report(progress: Progress) -> None:
            figures = f"training: step {progress.step}, KL {progress.loss:.3f}, top-1 {progress.agreement:.2f}"
            self.bars.update(task, completed=progress.share, description=figures)
            last.update(minutes=minutes * progress.share, **asdict(progress))

        try:
            train(lesson, checkpoint, minutes=minutes, seed=self.seed, threads=self.threads, report=report)
        finally:
            if last:
                self._remember("training", last)
                self.write_cross_encoder(checkpoint, lesson)

    def write_cross_encoder(self, checkpoint: Path, lesson: Lesson) -> None:
        """Writes the int8 model, its tokenizer and its manifest from trained weights."""
        manifest = Manifest(
            name=network.NAME,
            kind="cross_encoder",
            max_tokens=CROSS_ENCODER_MAX_TOKENS,
            token_dim=0,
            sentence_dim=0,
            maxsim_ratio=0.0,
            licence="Apache-2.0",
            source=(
                f"initialised from SPLADE-tiny-msmarco in {SPLADE_TINY.distribution} "
                f"(weights SHA-256 {SPLADE_TINY.sha256}), distilled from minilm-l6 and BM25"
            ),
        )
        exact = _cross_encoder_graph(checkpoint)
        int8 = quantise(exact, network.float_products(exact))
        write_model(self.out / network.NAME, int8, source_folder(SPLADE_TINY) / "tokenizer.json", manifest)
        rows = range(0, len(lesson.queries), max(1, len(lesson.queries) // 50))
        pairs = [(lesson.queries[r], lesson.documents[d]) for r in rows for d in lesson.candidates[r, ::5]]
        coarse, fine = (OnnxModel(model.proto().SerializeToString(), self.threads) for model in (int8, exact))
        self._remember("scorer_loss", asdict(scorer_loss(coarse, fine, pairs)))

    def exact_cross_encoder(self) -> OnnxModel:
        """The float32 form of `tiny-cross-encoder`, from the last checkpoint."""
        graph = _cross_encoder_graph(self.work / "cross-encoder.safetensors")
        return OnnxModel(graph.proto().SerializeToString(), self.threads)

    def facts(self) -> dict[str, dict[str, Any]]:
        """What the steps so far have measured, for the cards."""
        path = self.work / "facts.json"
        found: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found

    def _remember(self, key: str, values: dict[str, Any]) -> None:
        (self.work / "facts.json").write_text(json.dumps(self.facts() | {key: values}, indent=2), "utf-8")

    def _write_minilm(self, projection: NDArray[np.float32], ratio: float) -> None:
        minilm.write(self.out / minilm.NAME, projection, round(ratio, 3))

    def _examples(self) -> list[Example]:
        pairs = load_or_collect(self.work / "texts.jsonl", TEXT_LIMITS, self.seed)
        self._remember("texts", dict(Counter(pair.source for pair in pairs)))
        return make_examples(pairs, QUERIES_EACH, self.seed)

    def _projection(self) -> NDArray[np.float32]:
        path = self.work / "projection.npy"
        if not path.exists():
            texts = [example.document for example in self._examples()[-PROJECTION_TEXTS:]]
            task = self.bars.add_task("minilm-l6: fitting the projection", total=len(texts))
            weights = load_weights(MINILM)
            fitted = minilm.fit_projection(weights, texts, self.threads, lambda n: self.bars.advance(task, n))
            np.save(path, fitted)
        loaded: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return loaded


def _cross_encoder_graph(checkpoint: Path) -> Graph:
    from safetensors.numpy import load_file

    return network.build({name.removeprefix("bert."): value for name, value in load_file(checkpoint).items()})
