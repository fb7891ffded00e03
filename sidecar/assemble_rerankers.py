"""From a reranker's settings to the reranker."""

from __future__ import annotations

from collections.abc import Mapping

from router.arms import Strategy
from sidecar.engines.manifest import ModelError
from sidecar.model_store import ModelStore
from sidecar.reranker_settings import (
    LlmSettings,
    OnnxCrossEncoder,
    OnnxLateInteraction,
    RerankerSettings,
    TorchCrossEncoder,
    TorchLateInteraction,
)
from sidecar.rerankers.base import Reranker
from sidecar.rerankers.cross_encoder import CrossEncoder
from sidecar.rerankers.late_interaction import LateInteraction
from sidecar.rerankers.llm import LlmReranker
from sidecar.rerankers.loadable import Loadable, RunOptions, onnx_model, torch_model


def build(configured: Mapping[str, RerankerSettings], environment: Mapping[str, str]) -> dict[str, Reranker]:
    """Every enabled reranker, in the configured order; none of them has started."""
    return {name: _reranker(name, settings, environment) for name, settings in configured.items() if settings.enabled}


def _reranker(name: str, settings: RerankerSettings, environment: Mapping[str, str]) -> Reranker:
    match settings:
        case OnnxCrossEncoder() | TorchCrossEncoder():
            return CrossEncoder(name, _local(settings))
        case OnnxLateInteraction() | TorchLateInteraction():
            return LateInteraction(name, _local(settings), warm_idle=settings.warm_idle)
        case LlmSettings():
            return LlmReranker(
                name,
                settings.base_url,
                settings.model,
                environment.get(settings.api_key_env, ""),
                prompting=settings.prompting,
                max_parallel=settings.max_parallel,
                promotion_cap=settings.promotion_cap,
                prompt_price_micro_usd_per_1k=settings.prompt_micro_usd_per_1k,
                completion_price_micro_usd_per_1k=settings.completion_micro_usd_per_1k,
                max_document_tokens=settings.max_document_tokens,
                timeout_s=settings.timeout_s,
            )
        case _:
            raise NotImplementedError(name)


def _local(settings: OnnxCrossEncoder | OnnxLateInteraction | TorchCrossEncoder | TorchLateInteraction) -> Loadable:
    strategy = Strategy(settings.strategy)
    options = RunOptions(
        threads=settings.threads,
        max_tokens=settings.max_tokens,
        nice=settings.nice,
        hard_limit_s=settings.chunk_hard_limit_s,
        vector_bytes=settings.vector_bytes if isinstance(settings, OnnxLateInteraction | TorchLateInteraction) else 0,
    )
    if isinstance(settings, TorchCrossEncoder | TorchLateInteraction):
        return torch_model(
            settings.model,
            strategy,
            options,
            revision=settings.revision,
            backend=settings.backend,
            device=settings.device,
            dtype=settings.dtype,
        )
    try:
        folder = ModelStore().resolve(settings.model)
    except ModelError as error:
        return onnx_model(error, strategy, options)
    return onnx_model(folder, strategy, options, settings.provider)
