"""A configured model before it is loaded: what the worker process is to load, and what the parent knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.arms import Strategy
from sidecar.engines.manifest import Kind, ModelError, Truncation, read_manifest
from sidecar.engines.specs import IndexSpec, OnnxSpec, Spec, TorchSpec
from sidecar.engines.threads import default_threads
from sidecar.worker_messages import Load

KINDS = {Strategy.CROSS_ENCODER: Kind.CROSS_ENCODER, Strategy.LATE_INTERACTION: Kind.TOKEN_ENCODER}
# What models of the BERT family are trained with, where no manifest says it.
QUERY_TOKENS = 64
DOCUMENT_TOKENS = {Kind.CROSS_ENCODER: 512, Kind.TOKEN_ENCODER: 300}
UNAVAILABLE = "unavailable"
# How long a child may take to load: torch alone takes several seconds to import, a hub model may have to be downloaded.
ONNX_LOAD_S = 60.0
OTHER_LOAD_S = 900.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a local model is run.

    ``threads`` 0: every usable CPU but one, shared by the workers; ``max_tokens`` 0: the model's own limit; ``nice``:
    niceness of the child; ``hard_limit_s``: what one call may take before the child is killed; ``workers``: children
    that run the model; ``memory_bytes``: what each may allocate (0: anything); ``vector_bytes``: bound of the memory
    for vectors; ``vector_file``: where they are kept over a restart, if anywhere, and ``vector_file_bytes`` its bound.
    """

    threads: int = 0
    max_tokens: int = 0
    nice: int = 5
    hard_limit_s: float = 5.0
    workers: int = 1
    memory_bytes: int = 0
    vector_bytes: int = 0
    vector_file: Path | None = None
    vector_file_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Loadable:
    """``load`` is what the child gets, or why there is nothing to load.

    ``revision`` is '' where only the child can tell; ``truncation`` is where texts are cut; ``hard_limit_s`` and
    ``load_s`` are how long a call and the loading may take before the child is killed; ``workers`` children run it.
    """

    load: Load | ModelError
    truncation: Truncation
    revision: str
    hard_limit_s: float
    load_s: float = ONNX_LOAD_S
    workers: int = 1


def onnx_model(folder: Path | ModelError, strategy: Strategy, options: RunOptions, provider: str = "cpu") -> Loadable:
    """A model folder with model.json. One that can't be used does not raise: it carries the reason."""
    try:
        if isinstance(folder, ModelError):
            raise folder
        manifest = read_manifest(folder)
        if manifest.kind is not KINDS[strategy]:
            raise ModelError(f"{folder} holds a {manifest.kind}; this strategy needs a {KINDS[strategy]}")
        truncation = manifest.truncated(options.max_tokens or None)
    except ModelError as error:
        return Loadable(error, Truncation(0, 0), UNAVAILABLE, options.hard_limit_s)
    spec = OnnxSpec(manifest, truncation, manifest.batch_tokens, provider)
    revision = manifest.revision(truncation, manifest.batch_tokens)
    return _loadable(spec, truncation, revision, options)


def torch_model(
    model: str,
    strategy: Strategy,
    options: RunOptions,
    *,
    revision: str = "",
    backend: str = "torch",
    device: str = "cpu",
    dtype: str = "float32",
    batch_tokens: int = 0,
) -> Loadable:
    """A hub name or a Hugging Face folder for sentence-transformers; the child says whether it can be loaded."""
    kind = KINDS[strategy]
    truncation = Truncation(options.max_tokens or DOCUMENT_TOKENS[kind], QUERY_TOKENS)
    spec = TorchSpec(model, kind, truncation, revision, backend, device, dtype, batch_tokens)
    return _loadable(spec, truncation, "", options)


def index(collections: tuple[tuple[str, Path], ...], options: RunOptions) -> Loadable:
    """Indexes built by ``millirank index``."""
    truncation = Truncation(DOCUMENT_TOKENS[Kind.TOKEN_ENCODER], QUERY_TOKENS)
    return _loadable(IndexSpec(collections), truncation, "", options)


def _loadable(spec: Spec, truncation: Truncation, revision: str, options: RunOptions) -> Loadable:
    load = Load(
        spec,
        options.threads or max(1, default_threads() // options.workers),
        options.nice,
        options.vector_bytes,
        options.vector_file,
        options.vector_file_bytes,
        options.memory_bytes,
    )
    load_s = ONNX_LOAD_S if isinstance(spec, OnnxSpec) else OTHER_LOAD_S
    return Loadable(load, truncation, revision, options.hard_limit_s, load_s, options.workers)
