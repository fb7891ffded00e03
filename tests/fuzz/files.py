"""Files: settings, profiles, models, indexes, lines of documents and records."""

from __future__ import annotations

import functools
import json
import math
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from router.arms import Availability, State, Strategy, Work
from router.fusion import fuse
from router.latency import Pace
from router.policy import RerankerView, Routing, choose
from router.profile import Profile, ProfileError
from router.traits import extract
from sidecar import decision_log, profiles, replay, settings
from sidecar.calibrate import from_shadow
from sidecar.commands import candidates
from sidecar.engines import manifest as model_manifest
from sidecar.engines import vector_file
from sidecar.indexing import documents
from sidecar.indexing import manifest as index_manifest
from tests.fuzz.target import Target


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


_INDEX = {
    "format": index_manifest.FORMAT, "collection": "c", "checkpoint": "/c", "checkpoint_revision": "",
    "max_tokens": 300, "checkpoint_digest": "0" * 64, "documents": 2, "files": {"ivf.pid.pt": "0" * 64},
}  # fmt: skip
_MODEL = {
    "name": "m", "kind": "token_encoder", "files": {"model.onnx": "0" * 64, "tokenizer.json": "0" * 64},
    "max_tokens": 300, "query_max_tokens": 64, "token_dim": 8, "sentence_dim": 8, "maxsim_ratio": 1.5,
}  # fmt: skip

TARGETS = (
    Target("profile", _profile, (ProfileError,), (profiles.BUILT_IN.read_bytes(),)),
    Target("config", _config, (settings.SettingsError,), _CONFIG_SEEDS),
    Target("index", _index, (index_manifest.IndexFolderError,), (json.dumps(_INDEX).encode(),)),
    Target("index-ids", _index_ids, (index_manifest.IndexFolderError,), (b'{"0": "a", "1": "b"}',)),
    Target("model", _model, (model_manifest.ModelError,), (json.dumps(_MODEL).encode(),)),
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
