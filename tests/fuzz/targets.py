"""What reads bytes from outside, and what may come of it: a value that keeps its promises, or one kind of error."""

from __future__ import annotations

import functools
import json
import math
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from millirank import _wire as client_wire
from millirank.v1 import decision_pb2 as dpb
from millirank.v1 import rerank_service_pb2 as pb

from router.arms import Availability, State, Strategy, Work
from router.fusion import fuse, order
from router.latency import Pace
from router.policy import RerankerView, Routing, choose
from router.profile import FusionWeights, Profile, ProfileError
from router.traits import extract
from sidecar import decision_log, profiles, replay, settings, wire
from sidecar.calibrate import from_shadow
from sidecar.commands import candidates
from sidecar.engines import manifest as model_manifest
from sidecar.engines import vector_file
from sidecar.errors import InvalidFieldError, to_failure
from sidecar.http_shapes import BUDGET_HEADER, CORPUS_HEADER, TENANT_HEADER, read_request
from sidecar.indexing import documents
from sidecar.indexing import manifest as index_manifest
from sidecar.messages import Request
from sidecar.rerankers import prompts, remote_shapes
from sidecar.rerankers.base import Document, ScoreRequest

LIMITS = settings.Limits()
_COUNT = 3  # documents that a backend was asked about


@dataclass(frozen=True, slots=True)
class Target:
    """``read`` takes any bytes; ``refused`` are the only exceptions that may come of them. ``seeds`` are good input."""

    name: str
    read: Callable[[bytes], None]
    refused: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def probe(self, data: bytes) -> bool:
        """Whether the bytes were taken; raises where they break the promise."""
        try:
            self.read(data)
        except self.refused as error:
            refusal = error
        else:
            return True
        message = str(refusal)
        assert message, "an error says something"
        assert len(message) <= 4 * len(data) + 4096, "an error does not repeat everything"
        message.encode()  # no half of a surrogate pair: it could not be sent, logged or printed
        if isinstance(refusal, InvalidFieldError):
            assert refusal.field
            to_failure(refusal, "id")
        return False


# --- requests --------------------------------------------------------------------------------------------------------


def _wire(data: bytes) -> None:
    _check_request(wire.parse_rerank(data, LIMITS))


def _explain(data: bytes) -> None:
    _check_request(wire.parse_explain(data, LIMITS))


def _http(data: bytes) -> None:
    """Three lines of headers as aiohttp decodes them (budget, corpus, tenant), then the body."""
    *lines, body = data.split(b"\n", 3)
    names = (BUDGET_HEADER, CORPUS_HEADER, TENANT_HEADER)
    headers = {name: line.decode("utf-8", "surrogateescape") for name, line in zip(names, lines, strict=False) if line}
    message, _ = read_request(body, headers, ("scripted",), LIMITS.documents)
    _check_request(wire.parse_rerank(message.SerializeToString(), LIMITS))


def _check_request(request: Request) -> None:
    """Limits hold, and what the router and the fusion make of the request is sound."""
    assert len(request.candidates) <= LIMITS.documents
    assert all(len(each.text) <= LIMITS.document_characters for each in request.candidates)
    assert request.budget_ms is None or 0.0 <= request.budget_ms < math.inf
    signals = [each.signals for each in request.candidates]
    traits = extract(request.query, [len(each.text) for each in request.candidates], signals)
    assert math.isfinite(traits.margin)
    positions = range(len(signals))
    weights = FusionWeights(0.0, dict.fromkeys((*traits.signals, "rank"), 1.0))
    fused = fuse(None, signals, positions, weights)
    assert all(map(math.isfinite, fused))
    assert sorted(order(fused, positions, len(signals))) == list(positions)


def _request_seeds() -> Iterator[pb.RerankRequest]:
    yield pb.RerankRequest(query="red", documents=[pb.Document(id="a", text="red"), pb.Document(id="b", text="blue")])
    full = pb.RerankRequest(
        request_id="r", corpus="c", query="q\u00e9", top_n=1, instruction="i", min_score=0.5, tenant="t",
        cache_control=pb.CACHE_CONTROL_BYPASS,
        routing=pb.Routing(strategy=dpb.STRATEGY_LLM, reranker="llm", allowed=[dpb.STRATEGY_NONE], rerank_k=10),
        budget=pb.Budget(max_cost_micro_usd=7, overrun_policy=pb.OVERRUN_POLICY_FAIL),
    )  # fmt: skip
    full.budget.latency.FromMilliseconds(100)
    for number, signal in enumerate((1.5, -1e308, 1e308)):
        full.documents.add(id=str(number), text="t", signals={"bm25": signal, "dense": 0.1})
    full.documents.add(indexed_ref=pb.IndexedRef(collection="c", id="7"))
    yield full
    yield pb.RerankRequest(query="q", documents=[pb.Document()], routing=pb.Routing(strategy=dpb.STRATEGY_NONE))


_HTTP_BODIES: tuple[dict[str, object], ...] = (
    {"model": "rerank-v3.5", "query": "red", "documents": ["red", {"text": "blue"}], "top_n": 1},
    {"model": "scripted", "query": "q", "documents": ["a"], "return_documents": True, "max_tokens_per_doc": 9},
)


# --- answers of backends and of the sidecar --------------------------------------------------------------------------


def _llm(data: bytes) -> None:
    prompt = _prompt()
    answer = prompts.read_answer(data, prompt)
    assert bool(answer.scores) != bool(answer.problem)
    assert 0 <= answer.usage.prompt <= 1 << 31
    assert 0 <= answer.usage.completion <= 1 << 31
    if answer.scores:
        assert len(answer.scores) == _COUNT
        assert set(answer.scores) <= set(map(float, range(prompts.LOWEST_SCORE, prompts.HIGHEST_SCORE + 1)))


@functools.cache
def _prompt() -> prompts.Prompt:
    texts = [Document(str(number), f"text {number}", bytes([number])) for number in range(_COUNT)]
    return prompts.build(ScoreRequest("query", "", texts), 100)


def _llm_seeds() -> Iterator[bytes]:
    grades = json.dumps({prompts.label(number): number for number in range(_COUNT)})
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    for choice in (
        {"finish_reason": "stop", "message": {"content": grades}},
        {"finish_reason": "length", "message": {"content": grades[:9]}},
        {"message": {"refusal": "no", "content": None}},
    ):
        yield json.dumps({"choices": [choice], "usage": usage}).encode()


def _remote(data: bytes) -> None:
    for api in remote_shapes.APIS:
        scores = remote_shapes.read_scores(api, data, _COUNT)
        if isinstance(scores, str):
            assert scores
        else:
            assert len(scores) == _COUNT
            assert all(map(math.isfinite, scores))


def _remote_seeds() -> Iterator[bytes]:
    places = (2, 0, 1)
    yield json.dumps({"results": [{"index": place, "relevance_score": 0.5} for place in places]}).encode()
    yield json.dumps([{"index": place, "score": -1e300} for place in places]).encode()


def _answer(data: bytes) -> None:
    """What the client library makes of a sidecar's answer."""
    try:
        response = pb.RerankResponse.FromString(data)
    except Exception:  # noqa: BLE001 - gRPC's own: the client never sees bytes that are no message
        return
    ranking = client_wire.ranking_from(response, ("a", "b", "c"), top_n=0, may_omit=False, elapsed_ms=1.0)
    assert sorted(ranked.index for ranked in ranking) == [0, 1, 2]
    assert all(math.isfinite(ranked.score or 0.0) for ranked in ranking)


def _answer_seeds() -> Iterator[bytes]:
    response = pb.RerankResponse(request_id="r", completeness=pb.COMPLETENESS_PARTIAL)
    for index in (1, 0, 2):
        response.results.add(id=str(index), index=index, score=0.5, raw_score=1.0)
    response.degradations.add(reason=pb.DEGRADATION_REASON_OVERLOADED, detail="d")
    response.decision.considered.add(reranker="r", verdict=dpb.VERDICT_CHOSEN)
    yield response.SerializeToString()


# --- files -----------------------------------------------------------------------------------------------------------


def _profile(data: bytes) -> None:
    """What is taken can be decided with."""
    profile = profiles.read(_file("profile.json", data))
    traits = extract("red green", [100] * 60, [dict.fromkeys(profile.known_signals, 1.0)] * 60)
    decision = choose(
        traits=traits,
        spendable_ms=100.0,
        max_micro_usd=None,
        routing=Routing(),
        profile=profile,
        rerankers=_views(profile, 60),
        signals_ms=0.1,
    )
    assert 0 <= decision.planned_k <= 60
    scores = [1.0, 3.0, 2.0]
    for arm in profile.arms.values():
        for weights in arm.weights.values():
            signals = [dict.fromkeys(weights.signals, score) for score in scores]
            assert all(map(math.isfinite, fuse(scores, signals, range(3), weights)))


def _views(profile: Profile, count: int) -> tuple[RerankerView, ...]:
    """A ready reranker for every arm of the profile."""
    return tuple(
        RerankerView(name, arm.strategy, Availability(State.READY), Work((10,) * count), Pace(0.0, 0.01, 0.0, 0.02))
        for name, arm in profile.arms.items()
        if arm.strategy is not Strategy.SIGNALS
    )


def _config(data: bytes) -> None:
    """A TOML file, then environment variables, between zeros; what is taken can be printed and read again."""
    text, *variables = data.split(b"\0")
    pairs = (each.decode("utf-8", "surrogateescape").partition("=") for each in variables)
    loaded = settings.load(_file("config.toml", text), {f"MILLIRANK_{name}": value for name, _, value in pairs})
    again = settings.load(_file("printed.toml", settings.to_toml(loaded).encode()), {})
    assert again == loaded


_CONFIG_SEEDS = (
    b'mode = "observe"\n[listen]\ntcp = "127.0.0.1:0"\n[limits]\ndocuments = 10\n\0BUDGET__DEFAULT_MS=50',
    b'[rerankers.llm]\nstrategy = "llm"\nbase_url = "http://127.0.0.1:1"\nmodel = "m"\n\0RERANKERS__LLM__ENABLED=true',
    b'[rerankers.pool]\nstrategy = "cross_encoder"\nengine = "remote"\nurl = "http://127.0.0.1:1"\napi = "tei"\n',
    b'\0LOG_LEVEL=debug\0RERANKERS__MINILM_L6__WORKERS=2\0PROFILES=["a.json"]',
)


def _index(data: bytes) -> None:
    _file(index_manifest.MANIFEST_FILE, data)
    found = index_manifest.read_manifest(_folder())
    assert len(found.digest) == 12


def _index_ids(data: bytes) -> None:
    _file(index_manifest.IDS_FILE, data)
    index_manifest.read_ids(_folder())


def _model(data: bytes) -> None:
    _file(model_manifest.MANIFEST_FILE, data)
    found = model_manifest.read_manifest(_folder())
    assert found.revision(found.truncation, 1)


def _vectors(data: bytes) -> None:
    """A record of the vector file, which its checksum protects against all but those who know of it."""
    entry = vector_file.unpack(data)
    assert vector_file.pack(entry) == data


def _vector_seeds() -> Iterator[bytes]:
    import zlib

    for tokens, dimensions, sentence in ((2, 3, 4), (0, 0, 0)):
        body = bytes(range(tokens * dimensions + 4 * tokens + 2 * sentence))
        yield struct.pack("<IHHH", zlib.crc32(body), tokens, dimensions, sentence) + body


def _documents(data: bytes) -> None:
    documents.read_documents(_file("documents.jsonl", data))


def _candidates(data: bytes) -> None:
    candidates.read(str(_file("candidates.jsonl", data)))


def _decisions(data: bytes) -> None:
    with _file("decisions.jsonl", data).open(encoding="utf-8", errors="surrogateescape") as file:
        for recorded in replay.read(file, "decisions.jsonl"):
            replay.differences(recorded, replay.again(recorded))


def _decision_seed() -> bytes:
    profile = profiles.read(profiles.BUILT_IN)
    asked = decision_log.Asked(
        traits=extract("red green", [100] * 20, [{"bm25": 1.0}] * 20),
        spendable_ms=100.0,
        max_micro_usd=None,
        routing=Routing(),
        rerankers=_views(profile, 20),
        signals_ms=0.1,
    )
    decision = choose(profile=profile, **{field.name: getattr(asked, field.name) for field in fields(asked)})
    known = {"format": decision_log.FORMAT, "revision": profile.revision}
    lines = (
        {**known, "profile": json.loads(profiles.BUILT_IN.read_bytes())},
        {"id": "5f", "at": 1.5, "revision": profile.revision, "asked": asked, "decided": decision_log.plain(decision)},
    )
    return "".join(decision_log.dumps(line) + "\n" for line in lines).encode()


def _shadow(data: bytes) -> None:
    from_shadow.judged_lists([_file("shadow.jsonl", data)])


_SHADOW = {
    "format": "millirank.shadow/1", "id": "5f", "at": 1.5, "corpus": "",
    "query": {"words": 2, "question": True, "identifiers": False}, "strategy": "late_interaction",
    "answer": None, "reference": {"name": "bge", "strategy": "cross_encoder", "revision": "r"},
    "rbo": 0.8, "ndcg": 0.9, "order": [1, 0], "lengths": [5, 6], "signals": {"bm25": [1.5, None]},
    "scores": {"bge": [0.7, 0.1]},
}  # fmt: skip


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


@functools.cache
def _folder() -> Path:
    keep = tempfile.TemporaryDirectory(prefix="millirank-fuzz-")
    _file_owner.append(keep)
    return Path(keep.name)


_file_owner: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _lines(*entries: object) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def _json(*entries: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(entry).encode() for entry in entries)


_INDEX = {
    "format": index_manifest.FORMAT, "collection": "c", "checkpoint": "/c", "checkpoint_revision": "",
    "max_tokens": 300, "checkpoint_digest": "0" * 64, "documents": 2, "files": {"ivf.pid.pt": "0" * 64},
}  # fmt: skip
_MODEL = {
    "name": "m", "kind": "token_encoder", "files": {"model.onnx": "0" * 64, "tokenizer.json": "0" * 64},
    "max_tokens": 300, "query_max_tokens": 64, "token_dim": 8, "sentence_dim": 8, "maxsim_ratio": 1.5,
}  # fmt: skip

TARGETS = {
    target.name: target
    for target in (
        Target("wire", _wire, (InvalidFieldError,), tuple(each.SerializeToString() for each in _request_seeds())),
        Target(
            "explain",
            _explain,
            (InvalidFieldError,),
            tuple(pb.ExplainRouteRequest(request=each).SerializeToString() for each in _request_seeds()),
        ),
        Target(
            "http",
            _http,
            (InvalidFieldError,),
            tuple(b"100\nlegal\ntenant\n" + body for body in _json(*_HTTP_BODIES)),
        ),
        Target("llm", _llm, (), tuple(_llm_seeds())),
        Target("remote", _remote, (), tuple(_remote_seeds())),
        Target("answer", _answer, (client_wire.UnusableAnswerError,), tuple(_answer_seeds())),
        Target("profile", _profile, (ProfileError,), (profiles.BUILT_IN.read_bytes(),)),
        Target("config", _config, (settings.SettingsError,), _CONFIG_SEEDS),
        Target("index", _index, (index_manifest.IndexFolderError,), _json(_INDEX)),
        Target("index-ids", _index_ids, (index_manifest.IndexFolderError,), _json({"0": "a", "1": "b"})),
        Target("model", _model, (model_manifest.ModelError,), _json(_MODEL)),
        Target("vectors", _vectors, (ValueError,), tuple(_vector_seeds())),
        Target("documents", _documents, (documents.InputError,), (_lines({"id": 7, "text": "t"}),)),
        Target(
            "candidates",
            _candidates,
            (candidates.InputError,),
            (_lines({"text": "t", "signals": {"bm25": 1}}, {"indexed_ref": {"collection": "c", "id": 7}}),),
        ),
        Target("decisions", _decisions, (replay.ReplayError,), (_decision_seed(),)),
        Target("shadow", _shadow, (from_shadow.ShadowError,), (_lines(_SHADOW),)),
    )
}
