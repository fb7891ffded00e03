"""Every setting, typed and frozen: defaults, then a TOML file, then ``MILLIRANK_*`` environment variables.

An environment variable names a setting with double underscores between levels:
``MILLIRANK_LISTEN__TCP=127.0.0.1:6000``, ``MILLIRANK_RERANKERS__LLM__BASE_URL=http://...``. Anything unknown, in the
file or in the environment, is refused with the nearest known name: a typo must not silently mean the default.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from router.admission import Order
from router.profile import SIGNALS_ARM
from sidecar import json_text
from sidecar.reranker_settings import (
    CHOICES,
    DEFAULT_ENGINE,
    KINDS,
    MIB,
    RerankerSettings,
    Section,
    default_rerankers,
    kind_tag,
)

ENV_PREFIX = "MILLIRANK_"
# Read by other parts, not settings: where caches go, and which file holds the settings.
ENV_NOT_SETTINGS = frozenset({"MILLIRANK_CACHE_DIR", "MILLIRANK_CONFIG"})
# Kubernetes gives every container such variables for each Service of its namespace; here, of one that is called
# millirank or millirank-something. None of them can be a setting.
_SERVICE_LINK = re.compile(
    r"MILLIRANK_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class SettingsError(Exception):
    """The configuration can't be used. The message names the setting and the fix."""


class Mode(StrEnum):
    """What the sidecar as a whole is allowed to do."""

    OFF = "off"
    OBSERVE = "observe"
    ON = "on"


class Tls(Section):
    """TLS of the TCP and HTTP listeners. All are paths of PEM files, read again when they change, so that certificates
    rotate."""

    certificate: str = Field("", description="PEM file of the server's certificate chain; '' is plaintext")
    key: str = Field("", description="PEM file of the certificate's private key")
    client_ca: str = Field(
        "", description="PEM file of the authorities whose clients may connect (mTLS); '' asks no client for one"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together; set both, or neither")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca needs certificate and key: clients are only asked for theirs over TLS")
        return self


class Listen(Section):
    """Where the service is reachable, and for whom."""

    tcp: str = Field("127.0.0.1:50051", description="host:port, loopback by default; port 0 picks one; '' is off")
    unix: str = Field("", description="path of a Unix socket, created private; '' is off")
    http: str = Field(
        "", description="host:port of a rerank endpoint as Cohere and Jina have it, POST /v2/rerank; '' is off"
    )
    health: str = Field(
        "", description="host:port that answers gRPC health in plaintext and nothing else, for probes; '' is off"
    )
    metrics: str = Field(
        "", description="host:port where Prometheus reads GET /metrics; it asks nobody who they are; '' is off"
    )
    tls: Tls = Tls()
    token_file: str = Field(
        "", description="file of a bearer token that every call but health checks has to carry; '' asks for none"
    )
    page: str = Field(
        "", description="loopback host:port of a web page that shows the last decisions, without texts; '' is off"
    )
    # Off by default: whoever opens it can switch reranking off, and a fixed port would be in the way of a second
    # sidecar. Profiles are reloaded without it too.
    admin: str = Field("", description="AdminService: loopback host:port, or unix:/path; '' is off")


class Limits(Section):
    """What one request may ask for. Above these it is refused before it costs anything."""

    wire_bytes: int = Field(4 * MIB, ge=1024, description="largest message; gRPC itself refuses larger ones")
    concurrent_requests: int = Field(512, ge=1, description="more at the same time get RESOURCE_EXHAUSTED")
    pending_bytes: int = Field(
        256 * MIB, ge=1024, description="size of all requests under way; more get RESOURCE_EXHAUSTED: the memory bound"
    )
    documents: int = Field(1000, ge=1, le=10_000, description="candidates in one request")
    document_characters: int = Field(8192, ge=1, description="characters of a document that are used")
    query_characters: int = Field(2048, ge=1, description="longest query")
    instruction_characters: int = Field(2048, ge=0, description="longest instruction")
    id_characters: int = Field(512, ge=1, description="longest document id")
    signals_per_document: int = Field(16, ge=0, description="signals that one document may carry")


class BudgetSettings(Section):
    """What a request may spend when it does not say, and what is kept back."""

    default_ms: float = Field(100.0, ge=0, description="budget of a request that names none and has no deadline")
    reserve_ms: float = Field(
        2.0, ge=0, description="kept back from every budget for encoding the answer and sending it"
    )
    max_cost_micro_usd: int = Field(
        10_000, ge=0, description="price limit of a request that names none, in millionths of a US dollar"
    )


class SchedulingSettings(Section):
    """Who computes first when more is asked for than local models can compute."""

    order: Order = Field(
        Order.MANDATORY_FIRST,
        description="mandatory_first: everybody's first candidates, then the rest; edf (earliest deadline first) and "
        "fifo are what one would do without it, to compare with",
    )
    mandatory_documents: int = Field(16, ge=1, description="a request's first candidates, scored before others' rest")
    requests_per_call: int = Field(
        8,
        ge=1,
        le=64,
        description="how many small requests that wait for a local model may be computed in one call of it, where that "
        "pays and all are in time; 1: each alone",
    )


class CacheSettings(Section):
    """Complete answers, kept for equal requests, and scores of single pairs, kept for requests that overlap."""

    results_bytes: int = Field(16 * MIB, ge=0, description="memory for kept answers; 0 keeps none")
    ttl_s: float = Field(300.0, gt=0, description="how long an answer is kept")
    pairs_bytes: int = Field(16 * MIB, ge=0, description="memory for kept pair scores of each reranker; 0 keeps none")
    pairs_ttl_s: float = Field(3600.0, gt=0, description="how long a pair's score is kept")


class DecisionLogSettings(Section):
    """Every decision with all that led to it, for `millirank replay`. Numbers and configured names, never any text."""

    file: str = Field("", description="JSON lines, for one sidecar alone; '' keeps none")
    max_bytes: int = Field(
        64 * MIB, ge=64 * 1024, description="the file is then renamed to FILE.1, over the one before"
    )


class ShadowSettings(Section):
    """What a reference reranker thinks of answers that are out; for metrics and `millirank calibrate`."""

    share: float = Field(0.0, ge=0, le=1, description="part of the requests that are looked at, while idle; 0 is off")
    reranker: str = Field("", description="the reference: an enabled reranker, but no cascade")
    k: int = Field(50, ge=2, le=1000, description="candidates that the reference scores")
    file: str = Field("", description="JSON lines, numbers only, for one sidecar alone; '' keeps none")
    max_bytes: int = Field(
        64 * MIB, ge=64 * 1024, description="the file is then renamed to FILE.1, over the one before"
    )


class Settings(Section):
    """The whole configuration of one sidecar."""

    mode: Mode = Field(Mode.ON, description="off: first-stage order; observe: rerank behind it; on")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least that is logged")
    drain_s: float = Field(5.0, ge=0, description="how long accepted calls may take after SIGTERM")
    linger_s: float = Field(
        0.5,
        ge=0,
        description="after SIGTERM, how long new calls still get their first-stage order (DRAINING); up to half of "
        "drain_s longer where the process does not get the CPU",
    )
    profiles: tuple[str, ...] = Field(
        (),
        description="profile files, one per corpus, or folders of them, beside the built-in default; read again when "
        "they change",
    )
    listen: Listen = Listen()
    limits: Limits = Limits()
    budget: BudgetSettings = BudgetSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    cache: CacheSettings = CacheSettings()
    decision_log: DecisionLogSettings = DecisionLogSettings()
    shadow: ShadowSettings = ShadowSettings()
    rerankers: dict[str, RerankerSettings] = Field(default_factory=default_rerankers)

    @field_validator("rerankers")
    @classmethod
    def _names_are_free(cls, rerankers: dict[str, Any]) -> dict[str, Any]:
        # Profiles keep the fusion without a model under this name.
        if SIGNALS_ARM in rerankers:
            raise ValueError(f"a reranker can't be named {SIGNALS_ARM!r}: that is a strategy; choose another name")
        return rerankers


def load(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Settings from a TOML file (or none) and the environment, which wins.

    Raises SettingsError naming the file or variable, the setting and the fix.
    """
    wanted: dict[str, Any] = {} if path is None else _read_toml(path)
    values: dict[str, Any] = Settings().model_dump(mode="json", exclude_none=True)
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name not in ENV_NOT_SETTINGS and not _SERVICE_LINK.fullmatch(name):
            keys = [key.lower() for key in name.removeprefix(ENV_PREFIX).split("__")]
            rerankers = {**_table(values, "rerankers"), **_table(wanted, "rerankers")}
            _merge(wanted, _nested(_match_names(keys, rerankers), _decode(environment[name])))
    _forget_other_kinds(values["rerankers"], _table(wanted, "rerankers"))
    _merge(values, wanted)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from None


def known_keys() -> tuple[str, ...]:
    """Every setting's dotted name; a configured reranker's name stands as ``NAME``."""
    return tuple(sorted(set(_keys(Settings, ""))))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == "rerankers":
            for kind in KINDS:
                yield from _keys(kind, "rerankers.NAME.")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"configuration file {path} does not exist; create it or drop --config") from None
    except OSError as error:
        raise SettingsError(f"configuration file {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"configuration file {path} is not valid TOML: {error}") from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Later values win; tables are merged key by key. A table does not hide a value that should have been one."""
    for key, value in values.items():
        if not isinstance(value, Mapping) or key not in into:
            into[key] = value
        elif isinstance(into[key], dict):
            _merge(into[key], value)


def _nested(keys: list[str], value: object) -> dict[str, Any]:
    result: Any = value
    for key in reversed(keys):
        result = {key: result}
    return dict(result)


def _match_names(keys: list[str], rerankers: Mapping[str, Any]) -> list[str]:
    """Environment names can't hold '-': ``RERANKERS__TINY_CROSS_ENCODER`` means ``tiny-cross-encoder``."""
    if len(keys) > 1 and keys[0] == "rerankers":
        for name in rerankers:
            if name.replace("-", "_").lower() == keys[1]:
                return [keys[0], name, *keys[2:]]
    return keys


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One table of the configuration, empty where it is none: what is wrong with it is said later."""
    table = values.get(name)
    return table if isinstance(table, Mapping) else {}


def _forget_other_kinds(defaults: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """A built-in reranker that is given another strategy or engine shares only its name with what it was."""
    for name, table in wanted.items():
        known = defaults.get(name, {})
        if isinstance(table, Mapping) and any(
            key in table and table[key] != known.get(key, DEFAULT_ENGINE) for key in ("strategy", "engine")
        ):
            defaults[name] = {"strategy": known["strategy"]} if name in defaults else {}


def _decode(text: str) -> object:
    """Numbers, booleans and lists are written as JSON; everything else is taken as it stands."""
    try:
        return json_text.loads(text)
    except ValueError:
        return text


def _explain(error: ValidationError, path: Path | None) -> str:
    lines = []
    for item in error.errors():
        # pydantic puts the union's tag into the location: rerankers.llm.llm.base_url
        parts = [str(part) for part in item["loc"]]
        if len(parts) > 3 and parts[0] == "rerankers":
            del parts[2]
        name = ".".join(parts)
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}{_hint(item['loc'], name)}")
        elif item["type"] == "missing":
            # Without what was given in its place: that is the whole table, and may hold a key.
            lines.append(f"{name}: is missing; add it")
        elif item["type"] == "union_tag_not_found":
            lines.append(f"{name}: says no strategy; add one: {CHOICES}")
        elif item["type"] == "union_tag_invalid":
            lines.append(f"{name}: no such strategy or engine ({item['ctx']['tag']}); choose {CHOICES}")
        else:
            lines.append(f"{name}: {item['msg']} (it is {item['input']!r})")
    source = f"in {path} or a {ENV_PREFIX}* variable" if path else f"in a {ENV_PREFIX}* variable"
    return f"configuration ({source}): " + "; ".join(lines)


def _hint(where: Sequence[int | str], name: str) -> str:
    """What may have been meant by a setting that is not there."""
    if where[0] == "rerankers" and len(where) > 3:
        # Another engine's settings are no settings of this one.
        fields = [field for kind in KINDS if kind_tag(kind) == where[2] for field in kind.model_fields]
        near = difflib.get_close_matches(str(where[3]), fields, n=1)
        return f"; did you mean {where[0]}.{where[1]}.{near[0]}?" if near else f"; {where[2]} has {', '.join(fields)}"
    near = difflib.get_close_matches(name, known_keys(), n=1)
    return f"; did you mean {near[0]}?" if near else "; see `millirank serve --print-config` for all settings"


def to_toml(settings: Settings) -> str:
    """The effective settings as a TOML file that `load` reads back to the same settings."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))
