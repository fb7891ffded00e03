"""From the settings to what is kept on record: decisions, and what a reference thinks of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from opentelemetry.trace import Tracer

from router.arms import Strategy
from sidecar.decision_log import DecisionLog
from sidecar.metrics import Metrics
from sidecar.profiles import Profiles
from sidecar.rerankers.base import Reranker
from sidecar.settings import DecisionLogSettings, SettingsError, ShadowSettings
from sidecar.shadow import Evaluation, Shadow
from sidecar.shadow_log import ShadowLog

_Log = TypeVar("_Log", DecisionLog, ShadowLog)


def decision_log(
    configured: DecisionLogSettings, profiles: Callable[[], Profiles], metrics: Metrics
) -> DecisionLog | None:
    """None where no file is set. Raises SettingsError."""

    def make(path: Path) -> DecisionLog:
        return DecisionLog(path, configured.max_bytes, profiles, lambda: metrics.record_dropped("decision"))

    return _opened("decision_log.file", configured.file, make)


def shadow(
    configured: ShadowSettings, rerankers: Mapping[str, Reranker], tracer: Tracer, metrics: Metrics
) -> tuple[Shadow | None, ShadowLog | None]:
    """The evaluation, and its file where one is set; neither where the share is 0. Raises SettingsError."""
    if configured.share == 0.0:
        return None, None
    reference = rerankers.get(configured.reranker)
    # A cascade can't be interrupted: nothing would give way to requests.
    if reference is None or reference.identity.strategy is Strategy.CASCADE:
        able = (name for name, each in rerankers.items() if each.identity.strategy is not Strategy.CASCADE)
        raise SettingsError(
            f"shadow.reranker is {configured.reranker!r}; it must name an enabled reranker that is no cascade: "
            f"{', '.join(able) or 'none'}"
        )

    def make(path: Path) -> ShadowLog:
        return ShadowLog(path, configured.max_bytes, lambda: metrics.record_dropped("shadow"))

    log = _opened("shadow.file", configured.file, make)

    def evaluated(evaluation: Evaluation) -> None:
        metrics.shadow_evaluated(evaluation.strategy, evaluation.rbo, evaluation.ndcg, evaluation.first_stage_ndcg)
        if log is not None:
            log.record(evaluation)

    evaluation = Shadow(
        rerankers=rerankers,
        reference=configured.reranker,
        share=configured.share,
        k=configured.k,
        tracer=tracer,
        on_evaluated=evaluated,
        on_dropped=lambda reason: metrics.shadow_dropped(reason.value),
    )
    return evaluation, log


def _opened(setting: str, file: str, make: Callable[[Path], _Log]) -> _Log | None:
    try:
        return make(Path(file).expanduser()) if file else None
    except OSError as error:
        raise SettingsError(f"{setting}: {file} can't be written: {error.strerror}") from None
