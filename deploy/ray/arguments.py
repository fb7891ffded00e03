"""What a Serve configuration says of a pool, beside the settings of its sidecar: how its models are scaled."""

from __future__ import annotations

from pydantic import Field

from sidecar.reranker_settings import Section


class Replicas(Section):
    """How one deployment is scaled. Ray Serve's own words for it: `deployments` in a Serve configuration wins."""

    min_replicas: int = Field(1, ge=0, description="2 or more, so that one serves while another is replaced")
    max_replicas: int = Field(1, ge=1, description="as many as the cluster can hold")
    target_ongoing_requests: float = Field(
        2.0, gt=0, description="requests at one replica, running or waiting, that the autoscaler aims at"
    )
    max_ongoing_requests: int = Field(16, ge=1, description="requests at one replica; more wait before it")
    max_queued_requests: int = Field(
        256,
        ge=-1,
        description="requests that wait at one ingress for this; more are OVERLOADED at once; -1: any number",
    )
    upscale_delay_s: float = Field(5.0, ge=0, description="how long it must be too few before there are more")
    downscale_delay_s: float = Field(300.0, ge=0, description="how long it must be too many before there are fewer")
    cpus: float = Field(1.0, ge=0, description="CPUs of one replica; a model computes with as many threads")
    gpus: float = Field(0.0, ge=0, description="GPUs of one replica, such as 0.25: four replicas share one")


class Arguments(Section):
    """`args` of the application in a Serve configuration."""

    config: str = Field("", description="the pool's settings, as TOML of `millirank serve --config`; '': the defaults")
    ingress: Replicas = Replicas(cpus=0.5, max_ongoing_requests=128, target_ongoing_requests=16.0)
    models: dict[str, Replicas] = Field(default_factory=dict, description="reranker -> how it is scaled")
    default: Replicas = Field(Replicas(), description="how models are scaled that `models` does not name")
