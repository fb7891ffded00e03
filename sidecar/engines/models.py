"""What a worker process runs: a model that answers tasks, and its warm-up."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from sidecar.engines.base import Encoder, PairList, Scorer
from sidecar.engines.batching import kept_tokens
from sidecar.engines.kept_vectors import KeptVectors
from sidecar.engines.late_interaction import LateInteractionScorer
from sidecar.engines.manifest import Kind, ModelError, Truncation
from sidecar.engines.specs import IndexSpec, OnnxSpec, TorchSpec
from sidecar.worker_messages import (
    Encode,
    EncodeResult,
    LateResult,
    Load,
    PairResult,
    ScoreLate,
    ScorePairs,
    ScoreTogether,
    StoreChange,
    Task,
)

ResultT = TypeVar("ResultT")
PartT = TypeVar("PartT")
Sample = tuple[int, float]

QUERY = "how to warm up a model"
# (documents, words in each): short and long, one and several. A word of the filler is one token.
SHAPES = ((1, 8), (4, 20), (1, 60), (1, 120))
WARM_DOCUMENTS = (10, 50)


class Model(Protocol):
    """A loaded model."""

    @property
    def revision(self) -> str:
        """Changes whenever a score could; '' where the parent knows it from the manifest."""
        ...

    def run(self, task: Task[object]) -> object:
        """The task's result. Raises TypeError for a task of another kind of model."""
        ...

    def warm_up(self) -> list[Sample]:
        """Runs typical tasks and returns (tokens, milliseconds) of each, counted as `Work` counts them."""
        ...

    def rehearse(self, step: int) -> Sample:
        """Runs the task of `warm_up`'s sample number ``step`` again; (0, 0.0) where that would leave traces."""
        ...


class CrossEncoderModel:
    """Answers `ScorePairs` and `ScoreTogether`."""

    def __init__(self, scorer: Scorer, truncation: Truncation, revision: str = "") -> None:
        self._scorer = scorer
        self._truncation = truncation
        self.revision = revision

    def run(self, task: Task[object]) -> PairResult | tuple[PairResult | str, ...]:
        """Scores every text against its query."""
        match task:
            case ScorePairs():
                return self._score([task])[0]
            case ScoreTogether():
                return _together(self._score, [part for part in task.parts if isinstance(part, ScorePairs)])
            case _:
                raise TypeError(f"a cross-encoder cannot run {type(task).__name__}")

    def _score(self, tasks: Sequence[ScorePairs]) -> list[PairResult]:
        limits = self._truncation
        lists = [PairList(task.query, task.texts) for task in tasks]
        results = self._scorer.score_lists(lists, limits.max_tokens, limits.query_max_tokens)
        return [PairResult(tuple(result.scores.tolist()), result.tokens) for result in results]

    def warm_up(self) -> list[Sample]:
        """All shapes."""
        return [self.rehearse(step) for step in range(len(SHAPES))]

    def rehearse(self, step: int) -> Sample:
        """One shape twice: the first run allocates and does not count."""
        documents, words = SHAPES[step]
        task = ScorePairs(QUERY, (_filler(words),) * documents)
        self._score([task])
        (result,), elapsed_ms = _timed(self._score, [task])
        return result.tokens, elapsed_ms


class LateInteractionModel:
    """Answers `ScoreLate`, `ScoreTogether` and `Encode`."""

    def __init__(self, encoder: Encoder, truncation: Truncation, vector_bytes: int, revision: str = "") -> None:
        self._encoder = encoder
        self._truncation = truncation
        self._scorer = LateInteractionScorer(encoder, truncation, vector_bytes)
        self.revision = revision

    @property
    def kept(self) -> KeptVectors:
        """The documents' vectors that requests find."""
        return self._scorer.kept

    def run(self, task: Task[object]) -> LateResult | EncodeResult | tuple[LateResult | str, ...]:
        """Scores documents, or encodes them ahead of time."""
        match task:
            case ScoreLate():
                return self._scorer.score(task.query, task.documents)
            case ScoreTogether():
                return _together(self._scorer.score_lists, [part for part in task.parts if isinstance(part, ScoreLate)])
            case Encode():
                return self._scorer.encode(task.documents)
            case _:
                raise TypeError(f"late interaction cannot run {type(task).__name__}")

    def warm_up(self) -> list[Sample]:
        """All shapes, cold; then kept documents."""
        return [self.rehearse(step) for step in range(len(SHAPES) + len(WARM_DOCUMENTS))]

    def rehearse(self, step: int) -> Sample:
        """One of them twice: the first run does not count. Nothing of it stays in the store that requests use."""
        if step < len(SHAPES):
            documents, words = SHAPES[step]
            task = tuple((bytes([position]), _filler(words)) for position in range(documents))
            self._throwaway().score(QUERY, task)
            result, elapsed_ms = _timed(self._throwaway().score, QUERY, task)
            return result.tokens, elapsed_ms
        documents = WARM_DOCUMENTS[step - len(SHAPES)]
        scorer = self._throwaway()
        kept = ((b"kept", _filler(100)),) * documents
        scorer.score(QUERY, kept)
        _, elapsed_ms = _timed(scorer.score, QUERY, kept)
        return kept_tokens(documents), elapsed_ms

    def _throwaway(self) -> LateInteractionScorer:
        return LateInteractionScorer(self._encoder, self._truncation, vector_bytes=1 << 20)


def load(message: Load) -> Model:
    """Loads the model, and what a file has kept for it. Raises ModelError when the model's files cannot be used."""
    model = _loaded(message)
    if message.vector_file is not None and isinstance(model, LateInteractionModel):
        spec = message.spec
        revision = spec.manifest.revision(spec.truncation, spec.token_budget) if isinstance(spec, OnnxSpec) else ""
        model.kept.use_file(message.vector_file, revision or model.revision, message.vector_file_bytes)
    return model


def kept(model: Model) -> StoreChange:
    """What a model that was just loaded has kept from before, and the operator is to be told about it."""
    return model.kept.changed() if isinstance(model, LateInteractionModel) else StoreChange()


def _loaded(message: Load) -> Model:
    # Each engine's libraries are imported only in the process that runs it.
    match message.spec:
        case OnnxSpec() as spec:
            from sidecar.engines import onnx

            if spec.manifest.kind is Kind.CROSS_ENCODER:
                scorer = onnx.PairScorer(spec.manifest, message.threads, spec.token_budget, spec.provider)
                return CrossEncoderModel(scorer, spec.truncation)
            encoder = onnx.TokenEncoder(spec.manifest, message.threads, spec.token_budget, spec.provider)
            return LateInteractionModel(encoder, spec.truncation, message.vector_bytes)
        case TorchSpec():
            from sidecar.engines import sentence_transformers

            return sentence_transformers.load(message.spec, message.threads, message.vector_bytes)
        case IndexSpec() as spec:
            from sidecar.engines import plaid

            return plaid.load(spec, message.threads)
        case _:
            raise ModelError(f"no engine runs a {type(message.spec).__name__}")


def _together(run: Callable[[Sequence[PartT]], list[ResultT]], parts: Sequence[PartT]) -> tuple[ResultT | str, ...]:
    """One run for all. What fails in company is done alone: nobody is to pay for another one's texts."""

    def alone(part: PartT) -> ResultT | str:
        try:
            return run([part])[0]
        except Exception as error:  # noqa: BLE001 - said to whom it belongs
            return failure(error)

    try:
        return tuple(run(parts))
    except Exception:  # noqa: BLE001 - whatever it was, it is seen again by whose fault it is
        return tuple(map(alone, parts))


def failure(error: Exception) -> str:
    """What may be said of it outside: the type and the place only, since a message may quote the text it is about."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"


def _filler(words: int) -> str:
    return " ".join(["word"] * words)


def _timed(function: Callable[..., ResultT], *arguments: object) -> tuple[ResultT, float]:
    started = time.perf_counter()
    result = function(*arguments)
    return result, (time.perf_counter() - started) * 1e3
