"""From a pool's settings to a Ray Serve application: `import_path: deploy.ray.app:build`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import serve

from deploy.ray.arguments import Arguments, Replicas
from deploy.ray.ingress import Ingress
from deploy.ray.replica import ModelReplica
from sidecar.reranker_settings import LocalModelSettings
from sidecar.settings import SettingsError, load

INGRESS = "ingress"
_GRACE_S = 5.0  # accepted requests of a replica that is replaced; their budgets are far shorter


def build(arguments: Arguments) -> serve.Application:
    """One deployment for every enabled reranker with a model of its own, and the ingress over them.

    All other rerankers (an LLM's API, a cascade of those) are the ingress's own. Raises SettingsError.
    """
    settings = load(Path(arguments.config) if arguments.config else None, os.environ)
    heavy = {
        name: configured
        for name, configured in settings.rerankers.items()
        if configured.enabled and isinstance(configured, LocalModelSettings)
    }
    unknown = [name for name in arguments.models if name not in heavy]
    if unknown or INGRESS in heavy:
        known = ", ".join(heavy) or "none"
        raise SettingsError(
            f"models.{unknown[0]} is no enabled reranker with a model of its own; there are: {known}"
            if unknown
            else f"a reranker of a pool can't be named {INGRESS!r}; choose another name"
        )
    for name, configured in heavy.items():
        _check_gpus(name, configured, arguments.models.get(name, arguments.default))
    models = {
        name: _deployment(ModelReplica, name, arguments.models.get(name, arguments.default)).bind(
            name, _with_threads(configured, arguments.models.get(name, arguments.default)), settings
        )
        for name, configured in heavy.items()
    }
    return _deployment(Ingress, INGRESS, arguments.ingress).bind(settings, models)


def _deployment(kind: type[Any], name: str, replicas: Replicas) -> serve.Deployment:
    return serve.deployment(
        kind,
        name=name,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=replicas.max_ongoing_requests,
        max_queued_requests=replicas.max_queued_requests,
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "initial_replicas": max(1, replicas.min_replicas),
            "max_replicas": max(replicas.min_replicas, replicas.max_replicas),
            "target_ongoing_requests": replicas.target_ongoing_requests,
            "upscale_delay_s": replicas.upscale_delay_s,
            "downscale_delay_s": replicas.downscale_delay_s,
        },
        # Ray asks a replica how it is; one that does not answer for so long is replaced.
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=_GRACE_S,
        graceful_shutdown_wait_loop_s=0.2,
    )


def _check_gpus(name: str, configured: LocalModelSettings, replicas: Replicas) -> None:
    """Ray hides no GPU from a replica that asks for none: all of a node would crowd on its first one, uncounted."""
    device = getattr(configured, "device", "")
    if device.startswith("cuda") and not replicas.gpus:
        raise SettingsError(
            f"rerankers.{name}.device is {device!r}, but its replicas ask for no GPU: set models.{name}.gpus, such as "
            "0.5"
        )


def _with_threads(configured: LocalModelSettings, replicas: Replicas) -> LocalModelSettings:
    """A replica has the CPUs that Ray has given it, not those of its machine."""
    return configured.model_copy(update={"threads": configured.threads or max(1, int(replicas.cpus))})
