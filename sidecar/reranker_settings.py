"""Settings of one reranker: which strategy, which engine runs it, and what that engine needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from sidecar.pool_addresses import target_of

MIB = 1024 * 1024
DEFAULT_ENGINE = "onnx"
_TAGGED = ("strategy", "engine")


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )


class _Reranker(Section):
    enabled: bool = Field(True, description="false: as if it were not configured")
    expected_gain: float | None = Field(
        None, description="your own claim of the nDCG@10 gain, for a model that no calibration has measured"
    )


class _LocalModel(_Reranker):
    """A model that runs in a child process of the sidecar."""

    threads: int = Field(0, ge=0, description="compute threads; 0: the usable CPUs less one for the event loop")
    max_tokens: int = Field(0, ge=0, description="tokens of a document that are read; 0: the model's default")
    nice: int = Field(5, ge=0, le=19, description="niceness of the child process")
    memory_bytes: int = Field(
        0, ge=0, description="what the child process may allocate, model included; 0: as much as the container has"
    )
    chunk_hard_limit_s: float = Field(5.0, gt=0, description="a child that needs longer for one chunk is killed")


class _Workers(Section):
    workers: int = Field(1, ge=1, le=64, description="child processes that run the model side by side")


class _OnnxModel(_LocalModel):
    engine: Literal["onnx"] = "onnx"
    model: str = Field(
        description="'embedded:NAME', a folder with model.json, or the name of a model that `millirank models export` "
        "has prepared"
    )
    provider: str = Field("cpu", description="where ONNX Runtime computes: cpu, cuda, tensorrt, rocm, openvino, coreml")


class _TorchModel(_LocalModel):
    engine: Literal["sentence_transformers"]
    model: str = Field(description="a hub name, such as BAAI/bge-reranker-v2-m3, or a Hugging Face folder")
    revision: str = Field("", description="commit of a hub name; '': the newest one in the local cache or on the hub")
    backend: Literal["torch", "onnx", "openvino"] = Field("torch", description="what sentence-transformers runs on")
    device: str = Field("cpu", description="cpu, cuda, cuda:1, mps, ...")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of the weights")
    batch_tokens: int = Field(
        0,
        ge=0,
        description="most tokens in one run of the model, with padding; 0: 512 on a CPU, 16384 elsewhere; fewer take "
        "less memory",
    )


class _KeptVectors(Section):
    vector_bytes: int = Field(64 * MIB, ge=0, description="memory for kept token vectors")
    vector_file: str = Field(
        "", description="file that keeps token vectors over a restart, for one sidecar alone; '': memory only"
    )
    vector_file_bytes: int = Field(1024 * MIB, ge=0, description="size of that file; the oldest documents leave first")
    warm_idle: bool = Field(True, description="encode documents that were seen but not scored while nothing waits")


class OnnxCrossEncoder(_OnnxModel, _Workers):
    """A cross-encoder on ONNX Runtime: reads the query and each document together."""

    strategy: Literal["cross_encoder"] = "cross_encoder"


class TorchCrossEncoder(_TorchModel, _Workers):
    """Any Hugging Face cross-encoder, through sentence-transformers (extra ``torch``)."""

    strategy: Literal["cross_encoder"] = "cross_encoder"


class HttpCrossEncoder(_Reranker):
    """A rerank endpoint of the Cohere, Jina or Text Embeddings Inference kind: a model on a shared pool."""

    strategy: Literal["cross_encoder"] = "cross_encoder"
    engine: Literal["http"]
    url: str = Field(description="the endpoint itself, such as http://pool:8080/rerank")
    api: Literal["cohere", "jina", "tei"] = Field("cohere", description="whose request and answer it speaks")
    model: str = Field("", description="sent as the model's name; '': none is sent")
    api_key_env: str = Field("", description="the environment variable that holds the key; '': none is sent")
    micro_usd_per_1k_documents: float = Field(0.0, ge=0, description="price of 1,000 scored documents")
    max_documents: int = Field(100, ge=1, le=1000, description="documents in one call")
    timeout_s: float = Field(5.0, gt=0, description="longest call, whatever the budget")


class _Pool(_Reranker):
    """A model on a pool that serves `RerankService`: deploy/ray, or any sidecar."""

    engine: Literal["grpc"]
    addresses: tuple[str, ...] = Field(
        min_length=1, description="host:port of the pool; several IP addresses, or one DNS name for all of them"
    )
    reranker: str = Field("", description="the model's name in the pool; '': as it is named here")
    ca_file: str = Field("", description="PEM file of who has signed the pool's certificate; '' is plaintext")
    token_env: str = Field("", description="the environment variable that holds the pool's bearer token; '': none")
    max_documents: int = Field(1000, ge=1, le=10_000, description="documents in one call")
    max_tokens: int = Field(512, ge=8, description="tokens that the pool's model reads of a query with a document")
    timeout_s: float = Field(5.0, gt=0, description="longest call, whatever the budget")

    @field_validator("addresses")
    @classmethod
    def _can_be_called(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        target_of(addresses)
        return addresses


class PoolCrossEncoder(_Pool):
    """A cross-encoder on a pool."""

    strategy: Literal["cross_encoder"] = "cross_encoder"


class PoolLateInteraction(_Pool):
    """Late interaction on a pool, which keeps the documents' vectors."""

    strategy: Literal["late_interaction"] = "late_interaction"


class OnnxLateInteraction(_OnnxModel, _KeptVectors):
    """Late interaction: one vector per token, kept for documents that were seen before."""

    strategy: Literal["late_interaction"] = "late_interaction"


class TorchLateInteraction(_TorchModel, _KeptVectors):
    """Any ColBERT checkpoint, through sentence-transformers (extra ``torch``)."""

    strategy: Literal["late_interaction"] = "late_interaction"


class IndexedLateInteraction(_LocalModel):
    """Late interaction over indexes that ``millirank index`` has built (extra ``ragatouille``)."""

    strategy: Literal["late_interaction"] = "late_interaction"
    engine: Literal["ragatouille"]
    collections: dict[str, str] = Field(min_length=1, description="name in `indexed_ref.collection` -> index folder")


LocalModelSettings: TypeAlias = (
    OnnxCrossEncoder | OnnxLateInteraction | TorchCrossEncoder | TorchLateInteraction | IndexedLateInteraction
)


class LlmSettings(_Reranker):
    """An LLM behind an OpenAI-compatible API. Off until base_url and model are set."""

    strategy: Literal["llm"] = "llm"
    base_url: str = Field("", description="such as https://api.openai.com/v1; '' switches the arm off")
    model: str = Field("", description="such as gpt-4o-mini")
    api_key_env: str = Field("OPENAI_API_KEY", description="the environment variable that holds the key")
    prompting: Literal["listwise", "pointwise"] = Field(
        "listwise", description="all candidates in one call, or, for texts you do not trust, one call for each"
    )
    max_parallel: int = Field(8, ge=1, le=64, description="pointwise: calls at the same time")
    promotion_cap: int = Field(0, ge=0, description="places that a candidate may rise at most; 0: any number")
    prompt_micro_usd_per_1k: float = Field(0.0, ge=0, description="price of 1,000 prompt tokens")
    completion_micro_usd_per_1k: float = Field(0.0, ge=0, description="price of 1,000 completion tokens")
    max_document_tokens: int = Field(200, ge=8, description="tokens of a document that are sent")
    timeout_s: float = Field(10.0, gt=0, description="longest call, whatever the budget")


class CascadeSettings(_Reranker):
    """One reranker over all candidates, another one over the best of them."""

    strategy: Literal["cascade"] = "cascade"
    first: str = Field(description="name of the reranker that sees all candidates")
    second: str = Field(description="name of the reranker that sees the best of them")
    second_k: int = Field(16, ge=2, description="candidates that the second one sees")


def _tag(value: Any) -> str | None:
    """Which of the classes above a table is: by its strategy and engine, for pydantic."""
    get = value.get if isinstance(value, Mapping) else lambda key, default=None: getattr(value, key, default)
    strategy = get("strategy")
    if strategy in ("cross_encoder", "late_interaction"):
        return f"{strategy}/{get('engine', DEFAULT_ENGINE)}"
    return None if strategy is None else str(strategy)


RerankerSettings: TypeAlias = Annotated[
    Annotated[OnnxCrossEncoder, Tag("cross_encoder/onnx")]
    | Annotated[TorchCrossEncoder, Tag("cross_encoder/sentence_transformers")]
    | Annotated[HttpCrossEncoder, Tag("cross_encoder/http")]
    | Annotated[PoolCrossEncoder, Tag("cross_encoder/grpc")]
    | Annotated[PoolLateInteraction, Tag("late_interaction/grpc")]
    | Annotated[OnnxLateInteraction, Tag("late_interaction/onnx")]
    | Annotated[TorchLateInteraction, Tag("late_interaction/sentence_transformers")]
    | Annotated[IndexedLateInteraction, Tag("late_interaction/ragatouille")]
    | Annotated[LlmSettings, Tag("llm")]
    | Annotated[CascadeSettings, Tag("cascade")],
    Discriminator(_tag),
]
KINDS: tuple[type[_Reranker], ...] = tuple(get_args(tagged)[0] for tagged in get_args(get_args(RerankerSettings)[0]))


def kind_tag(kind: type[Section]) -> str | None:
    """The tag of one of `KINDS`: its strategy, and its engine where it has one."""
    literals = {name: get_args(kind.model_fields[name].annotation)[0] for name in _TAGGED if name in kind.model_fields}
    return _tag(literals)


CHOICES = (
    "cross_encoder (engine onnx, sentence_transformers, http or grpc), late_interaction (engine onnx, "
    "sentence_transformers, ragatouille or grpc), llm, cascade"
)


def default_rerankers() -> dict[str, RerankerSettings]:
    """What runs without a configuration: the embedded models, and an LLM that is off until it has an address."""
    return {
        "minilm-l6": OnnxLateInteraction(model="embedded:minilm-l6"),
        "tiny-cross-encoder": OnnxCrossEncoder(model="embedded:tiny-cross-encoder"),
        "llm": LlmSettings(),
    }
