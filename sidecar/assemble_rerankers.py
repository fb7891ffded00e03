"""From the rerankers' settings to the rerankers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from opentelemetry.trace import Tracer

from router.arms import Strategy
from router.profile import Profile
from sidecar.engines.manifest import ModelError
from sidecar.model_store import ModelStore
from sidecar.pool_channel import PoolChannel
from sidecar.reranker_settings import (
    CascadeSettings,
    HttpCrossEncoder,
    IndexedLateInteraction,
    LlmSettings,
    LocalModelSettings,
    OnnxCrossEncoder,
    OnnxLateInteraction,
    PoolCrossEncoder,
    PoolLateInteraction,
    TorchCrossEncoder,
    TorchLateInteraction,
)
from sidecar.rerankers.base import Reranker
from sidecar.rerankers.cascade import CascadeReranker
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.indexed import IndexedReranker
from sidecar.rerankers.kept_scores import KeptScores
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.llm import LlmReranker
from sidecar.rerankers.loadable import Loadable, RunOptions, index, onnx_model, torch_model
from sidecar.rerankers.pool import PoolReranker
from sidecar.rerankers.remote import HttpReranker
from sidecar.scheduler import Scheduling
from sidecar.settings import CacheSettings, Settings, SettingsError

_Simple: TypeAlias = (
    OnnxCrossEncoder
    | TorchCrossEncoder
    | HttpCrossEncoder
    | OnnxLateInteraction
    | TorchLateInteraction
    | IndexedLateInteraction
    | PoolCrossEncoder
    | PoolLateInteraction
    | LlmSettings
)


def build(
    settings: Settings,
    environment: Mapping[str, str],
    profile: Profile,
    tracer: Tracer,
    elsewhere: Mapping[str, Reranker],
) -> dict[str, Reranker]:
    """Every enabled reranker, in the configured order; none of them has started.

    Those in ``elsewhere`` take the place of what is configured under their names.
    Raises SettingsError for a cascade whose stages are not there.
    """
    enabled = {name: configured for name, configured in settings.rerankers.items() if configured.enabled}
    scheduling = scheduling_of(settings)
    stages = {
        name: _kept(
            elsewhere.get(name) or simple(name, configured, scheduling, environment, tracer), configured, settings.cache
        )
        for name, configured in enabled.items()
        if not isinstance(configured, CascadeSettings)
    }
    # Its stages are ready made here, and may stand behind it in the configuration.
    return {
        name: _cascade(name, configured, stages, profile, tracer)
        if isinstance(configured, CascadeSettings)
        else stages[name]
        for name, configured in enabled.items()
    }


def scheduling_of(settings: Settings) -> Scheduling:
    """How local models share out their work."""
    configured = settings.scheduling
    return Scheduling(configured.order, configured.mandatory_documents, configured.requests_per_call)


def simple(
    name: str, configured: _Simple, scheduling: Scheduling, environment: Mapping[str, str], tracer: Tracer
) -> Reranker:
    """One reranker that needs no other, not started, and whose scores nobody keeps."""
    match configured:
        case OnnxCrossEncoder() | TorchCrossEncoder():
            return CrossEncoder(name, _loadable(configured), scheduling)
        case OnnxLateInteraction() | TorchLateInteraction():
            return LateInteraction(name, _loadable(configured), scheduling, warm_idle=configured.warm_idle)
        case IndexedLateInteraction():
            return IndexedReranker(name, _loadable(configured), scheduling)
        case HttpCrossEncoder():
            return HttpReranker(
                name,
                configured.url,
                environment.get(configured.api_key_env, "") if configured.api_key_env else "",
                api=configured.api,
                model=configured.model,
                micro_usd_per_1k_documents=configured.micro_usd_per_1k_documents,
                max_documents=configured.max_documents,
                timeout_s=configured.timeout_s,
                tracer=tracer,
            )
        case PoolCrossEncoder() | PoolLateInteraction():
            return _pool(name, configured, environment)
        case LlmSettings():
            return LlmReranker(
                name,
                configured.base_url,
                configured.model,
                environment.get(configured.api_key_env, ""),
                prompting=configured.prompting,
                max_parallel=configured.max_parallel,
                promotion_cap=configured.promotion_cap,
                prompt_price_micro_usd_per_1k=configured.prompt_micro_usd_per_1k,
                completion_price_micro_usd_per_1k=configured.completion_micro_usd_per_1k,
                max_document_tokens=configured.max_document_tokens,
                timeout_s=configured.timeout_s,
                tracer=tracer,
            )


def _pool(
    name: str, configured: PoolCrossEncoder | PoolLateInteraction, environment: Mapping[str, str]
) -> PoolReranker:
    strategy = Strategy(configured.strategy)

    def connect() -> PoolChannel:
        return PoolChannel(
            configured.addresses,
            configured.reranker or name,
            strategy,
            ca_file=configured.ca_file,
            token=environment.get(configured.token_env, "") if configured.token_env else "",
        )

    return PoolReranker(
        name,
        strategy,
        connect,
        max_documents=configured.max_documents,
        max_tokens=configured.max_tokens,
        timeout_s=configured.timeout_s,
    )


def _kept(reranker: Reranker, configured: _Simple, cache: CacheSettings) -> Reranker:
    """Pair scores are kept where a pair's score does not depend on the other candidates."""
    by_pair = isinstance(configured, OnnxCrossEncoder | TorchCrossEncoder | HttpCrossEncoder | PoolCrossEncoder) or (
        isinstance(configured, LlmSettings) and configured.prompting == "pointwise"
    )
    return KeptScores(reranker, cache.pairs_bytes, cache.pairs_ttl_s) if by_pair and cache.pairs_bytes else reranker


def _cascade(
    name: str, configured: CascadeSettings, stages: Mapping[str, Reranker], profile: Profile, tracer: Tracer
) -> Reranker:
    for field in ("first", "second"):
        stage = getattr(configured, field)
        if stage not in stages:
            known = ", ".join(stages) or "none"
            raise SettingsError(
                f"rerankers.{name}.{field} is {stage!r}; it must name an enabled reranker that is no cascade: {known}"
            )
    try:
        return CascadeReranker(
            name,
            stages[configured.first],
            stages[configured.second],
            configured.second_k,
            profile=profile,
            tracer=tracer,
        )
    except ValueError as error:
        raise SettingsError(f"rerankers.{name}: {error}") from None


def _loadable(configured: LocalModelSettings) -> Loadable:
    strategy = Strategy(configured.strategy)
    options = _options(configured)
    match configured:
        case IndexedLateInteraction():
            folders = tuple((name, Path(folder).expanduser()) for name, folder in configured.collections.items())
            return index(folders, options)
        case TorchCrossEncoder() | TorchLateInteraction():
            return torch_model(
                configured.model,
                strategy,
                options,
                revision=configured.revision,
                backend=configured.backend,
                device=configured.device,
                dtype=configured.dtype,
                batch_tokens=configured.batch_tokens,
            )
        case OnnxCrossEncoder() | OnnxLateInteraction():
            try:
                folder = ModelStore().resolve(configured.model)
            except ModelError as error:
                return onnx_model(error, strategy, options)
            return onnx_model(folder, strategy, options, configured.provider)


def _options(configured: LocalModelSettings) -> RunOptions:
    options = RunOptions(
        threads=configured.threads,
        max_tokens=configured.max_tokens,
        nice=configured.nice,
        hard_limit_s=configured.chunk_hard_limit_s,
        memory_bytes=configured.memory_bytes,
        # Late interaction keeps vectors in its child: a second child would lack them.
        workers=configured.workers if isinstance(configured, OnnxCrossEncoder | TorchCrossEncoder) else 1,
    )
    if not isinstance(configured, OnnxLateInteraction | TorchLateInteraction):
        return options
    return replace(
        options,
        vector_bytes=configured.vector_bytes,
        vector_file=Path(configured.vector_file).expanduser() if configured.vector_file else None,
        vector_file_bytes=configured.vector_file_bytes,
    )
