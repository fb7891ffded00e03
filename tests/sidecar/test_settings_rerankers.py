"""Rerankers in the configuration: every strategy and engine, from the file, from the environment, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.reranker_settings import (
    CHOICES,
    KINDS,
    CascadeSettings,
    HttpCrossEncoder,
    IndexedLateInteraction,
    LlmSettings,
    OnnxCrossEncoder,
    OnnxLateInteraction,
    PoolCrossEncoder,
    PoolLateInteraction,
    TorchCrossEncoder,
    TorchLateInteraction,
)
from sidecar.settings import Settings, SettingsError, load, to_toml

# The least that a table of each kind needs, its class, and a key of it misspelt with what was meant.
TABLES = [
    ("strategy = 'cross_encoder'\nmodel = 'm'", OnnxCrossEncoder, "provder", "provider"),
    ("strategy = 'cross_encoder'\nengine = 'onnx'\nmodel = 'm'", OnnxCrossEncoder, "max_token", "max_tokens"),
    ("strategy = 'cross_encoder'\nengine = 'sentence_transformers'\nmodel = 'm'", TorchCrossEncoder, "devce", "device"),
    (
        "strategy = 'cross_encoder'\nengine = 'http'\nurl = 'http://p/rerank'",
        HttpCrossEncoder,
        "api_key_evn",
        "api_key_env",
    ),
    (
        "strategy = 'cross_encoder'\nengine = 'grpc'\naddresses = ['10.0.0.7:9000']",
        PoolCrossEncoder,
        "adresses",
        "addresses",
    ),
    (
        "strategy = 'late_interaction'\nengine = 'grpc'\naddresses = ['pool:9000']",
        PoolLateInteraction,
        "ca_fil",
        "ca_file",
    ),
    ("strategy = 'late_interaction'\nmodel = 'm'", OnnxLateInteraction, "vector_byte", "vector_bytes"),
    (
        "strategy = 'late_interaction'\nengine = 'sentence_transformers'\nmodel = 'm'",
        TorchLateInteraction,
        "revison",
        "revision",
    ),
    (
        "strategy = 'late_interaction'\nengine = 'ragatouille'\ncollections = {docs = '/x'}",
        IndexedLateInteraction,
        "thread",
        "threads",
    ),
    ("strategy = 'llm'", LlmSettings, "promting", "prompting"),
    ("strategy = 'cascade'\nfirst = 'a'\nsecond = 'b'", CascadeSettings, "secnd_k", "second_k"),
]


def in_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "millirank.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mine(path: Path | None, environment: dict[str, str] | None = None) -> Any:
    """The settings of the reranker ``mine``."""
    return load(path, environment or {}).rerankers["mine"]


def refused(path: Path | None, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, environment or {})
    return str(caught.value)


@pytest.mark.parametrize(("table", "kind", "_misspelt", "_meant"), TABLES)
def test_strategy_and_engine_choose_the_class(
    table: str, kind: type, _misspelt: str, _meant: str, tmp_path: Path
) -> None:
    """A table with the least that it needs becomes settings of its own class; without an engine, onnx runs it."""
    assert type(mine(in_file(tmp_path, f"[rerankers.mine]\n{table}\n"))) is kind


def test_every_kind_has_its_table_here() -> None:
    """A kind that is added to the configuration has to be added to these tests."""
    assert {kind for _, kind, _, _ in TABLES} == set(KINDS)


@pytest.mark.parametrize(("table", "_kind", "misspelt", "meant"), TABLES)
def test_misspelt_key_of_a_table(table: str, _kind: type, misspelt: str, meant: str, tmp_path: Path) -> None:
    """Whatever the engine: the reranker, the key and the nearest known one."""
    message = refused(in_file(tmp_path, f"[rerankers.mine]\n{table}\n{misspelt} = 1\n"))
    assert f"unknown setting rerankers.mine.{misspelt}; did you mean rerankers.mine.{meant}?" in message


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("strategy = 'cross_encoder'\nengine = 'vllm'\nmodel = 'm'", "cross_encoder/vllm"),
        ("strategy = 'cross_encoder'\nengine = 'ragatouille'\ncollections = {a = 'b'}", "cross_encoder/ragatouille"),
        ("strategy = 'late_interaction'\nengine = 'http'\nurl = 'u'", "late_interaction/http"),
        ("strategy = 'late_interaction'\nengine = ''\nmodel = 'm'", "late_interaction/"),
        ("strategy = 'colbert'\nmodel = 'm'", "colbert"),
    ],
)
def test_strategy_or_engine_that_is_not_there(table: str, named: str, tmp_path: Path) -> None:
    """What was asked for, and every choice that there is."""
    message = refused(in_file(tmp_path, f"[rerankers.mine]\n{table}\n"))
    assert f"rerankers.mine: no such strategy or engine ({named}); choose {CHOICES}" in message


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("strategy = 'cross_encoder'\nengine = 'http'", "rerankers.mine.url"),
        ("strategy = 'cross_encoder'\nengine = 'sentence_transformers'", "rerankers.mine.model"),
        ("strategy = 'late_interaction'\nengine = 'ragatouille'", "rerankers.mine.collections"),
        ("strategy = 'late_interaction'\nengine = 'ragatouille'\ncollections = {}", "rerankers.mine.collections"),
        ("strategy = 'cascade'\nfirst = 'a'", "rerankers.mine.second"),
        ("strategy = 'cascade'\nfirst = 'a'\nsecond = 'b'\nsecond_k = 1", "rerankers.mine.second_k"),
        ("strategy = 'llm'\nprompting = 'setwise'", "rerankers.mine.prompting"),
        ("strategy = 'llm'\nmax_parallel = 0", "rerankers.mine.max_parallel"),
        ("strategy = 'llm'\npromotion_cap = -1", "rerankers.mine.promotion_cap"),
        ("strategy = 'cross_encoder'\nengine = 'http'\nurl = 'u'\napi = 'voyage'", "rerankers.mine.api"),
        ("strategy = 'late_interaction'\nmodel = 'm'\nvector_bytes = -1", "rerankers.mine.vector_bytes"),
    ],
)
def test_value_that_an_engine_lacks_or_can_not_use(table: str, setting: str, tmp_path: Path) -> None:
    """The setting is named as it stands in the file, without the class that it was read as."""
    assert f": {setting}: " in refused(in_file(tmp_path, f"[rerankers.mine]\n{table}\n"))


def test_print_config_of_every_kind_reads_back(tmp_path: Path) -> None:
    """What --print-config prints of a configuration with every kind, none of it at its default, means the same."""
    rerankers = {
        "a": OnnxCrossEncoder(model="/m", provider="cuda", threads=2, max_tokens=128, expected_gain=0.1),
        "b": TorchCrossEncoder(engine="sentence_transformers", model="x/y", revision="abc", dtype="float16"),
        "c-1": HttpCrossEncoder(engine="http", url="http://p/rerank", api="tei", micro_usd_per_1k_documents=2.5),
        "d": OnnxLateInteraction(model="d", vector_file='/a "quoted" \\ path', vector_bytes=0, warm_idle=False),
        "e": TorchLateInteraction(engine="sentence_transformers", model="x/z", device="cuda:1", vector_file_bytes=7),
        "f": IndexedLateInteraction(engine="ragatouille", collections={"docs": "/i/1", "a b.c": "/i/2"}, nice=0),
        "g": LlmSettings(base_url="http://l/v1", model="4", prompting="pointwise", promotion_cap=5, max_parallel=3),
        "p": PoolCrossEncoder(engine="grpc", addresses=("10.0.0.7:9000", "10.0.0.8:9000"), reranker="bge"),
        "q": PoolLateInteraction(engine="grpc", addresses=("pool:9000",), ca_file="/ca.pem", max_tokens=300),
        "h": CascadeSettings(first="d", second="a", second_k=8, enabled=False),
    }
    assert {type(each) for each in rerankers.values()} == set(KINDS)
    settings = Settings(rerankers={**Settings().rerankers, **rerankers})
    read = load(in_file(tmp_path, to_toml(settings)), {})
    assert read == settings
    assert {name: type(each) for name, each in read.rerankers.items()} == {
        name: type(each) for name, each in settings.rerankers.items()
    }
    assert list(read.rerankers) == list(settings.rerankers)  # the order decides between equal arms


def test_new_reranker_from_the_environment_alone() -> None:
    """Strategy, engine and model of a reranker that no file knows; the built-in ones stay."""
    settings = load(
        None,
        {
            "MILLIRANK_RERANKERS__BGE__STRATEGY": "cross_encoder",
            "MILLIRANK_RERANKERS__BGE__ENGINE": "sentence_transformers",
            "MILLIRANK_RERANKERS__BGE__MODEL": "BAAI/bge-reranker-v2-m3",
            "MILLIRANK_RERANKERS__BGE__DTYPE": "bfloat16",
            "MILLIRANK_RERANKERS__BGE__THREADS": "3",
        },
    )
    assert settings.rerankers["bge"] == TorchCrossEncoder(
        engine="sentence_transformers", model="BAAI/bge-reranker-v2-m3", dtype="bfloat16", threads=3
    )
    assert set(settings.rerankers) == {*Settings().rerankers, "bge"}


def test_tables_and_paths_from_the_environment() -> None:
    """A table within a table is JSON, or one variable for each of its keys."""
    common = {
        "MILLIRANK_RERANKERS__MINE__STRATEGY": "late_interaction",
        "MILLIRANK_RERANKERS__MINE__ENGINE": "ragatouille",
    }
    as_json = mine(None, {**common, "MILLIRANK_RERANKERS__MINE__COLLECTIONS": '{"Docs": "/i/1"}'})
    by_key = mine(None, {**common, "MILLIRANK_RERANKERS__MINE__COLLECTIONS__DOCS": "/i/1"})
    assert (as_json.collections, by_key.collections) == ({"Docs": "/i/1"}, {"docs": "/i/1"})


def test_environment_changes_a_reranker_of_the_file(tmp_path: Path) -> None:
    """One variable changes one key; a name with a hyphen is written with an underscore."""
    path = in_file(
        tmp_path,
        "[rerankers.my-pool]\nstrategy = 'cross_encoder'\nengine = 'http'\nurl = 'http://p/rerank'\napi = 'jina'\n",
    )
    pool = load(path, {"MILLIRANK_RERANKERS__MY_POOL__URL": "http://q/rerank"}).rerankers["my-pool"]
    assert pool == HttpCrossEncoder(engine="http", url="http://q/rerank", api="jina")


def test_key_of_another_engine(tmp_path: Path) -> None:
    """A key that only another engine has is refused with the keys that this one has."""
    message = refused(in_file(tmp_path, "[rerankers.mine]\nstrategy = 'cross_encoder'\nmodel = 'm'\ncollections = 3\n"))
    assert "unknown setting rerankers.mine.collections; cross_encoder/onnx has " in message


@pytest.mark.parametrize("engine", ["http", "vllm"])
def test_secrets_are_not_repeated(engine: str, tmp_path: Path) -> None:
    """A key that was put where its variable's name belongs does not end up on the terminal."""
    table = f"strategy = 'cross_encoder'\nengine = '{engine}'\napi_key = 'sk-secret'\n"
    message = refused(in_file(tmp_path, f"[rerankers.mine]\n{table}"))
    assert "sk-secret" not in message


def test_another_engine_for_a_built_in_name(tmp_path: Path) -> None:
    """Only the name stays: no default of the engine that it had before is left in the way."""
    table = "[rerankers.minilm-l6]\nengine = 'sentence_transformers'\nmodel = 'x/y'\nvector_bytes = 9\n"
    own = load(in_file(tmp_path, table), {}).rerankers["minilm-l6"]
    assert own == TorchLateInteraction(engine="sentence_transformers", model="x/y", vector_bytes=9)
