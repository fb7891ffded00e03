"""Defaults, then a file, then the environment; whatever is wrong is refused by name, with the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.reranker_settings import LlmSettings, OnnxLateInteraction
from sidecar.settings import _SERVICE_LINK, Mode, Settings, SettingsError, known_keys, load, to_toml


def in_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "millirank.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, environment or {})
    return str(caught.value)


def test_defaults_without_file_and_environment() -> None:
    """Nothing configured is a working sidecar; TCP binds loopback only (invariant 14)."""
    settings = load(None, {"PATH": "/bin", "HOME": "/"})
    assert settings == Settings()
    assert settings.listen.tcp.startswith("127.0.0.1:")
    assert settings.mode is Mode.ON
    assert set(settings.rerankers) == {"minilm-l6", "tiny-cross-encoder", "llm"}


def test_environment_wins_over_file_wins_over_defaults(tmp_path: Path) -> None:
    """Each level changes only what it names."""
    path = in_file(tmp_path, 'mode = "observe"\n[budget]\ndefault_ms = 50\nreserve_ms = 1\n')
    settings = load(path, {"MILLIRANK_BUDGET__DEFAULT_MS": "70"})
    assert (settings.mode, settings.budget.default_ms, settings.budget.reserve_ms) == (Mode.OBSERVE, 70.0, 1.0)
    assert settings.budget.max_cost_micro_usd == Settings().budget.max_cost_micro_usd


def test_environment_values_have_types() -> None:
    """Numbers, booleans and lists are JSON; addresses, words and empty values are taken as they stand."""
    settings = load(
        None,
        {
            "MILLIRANK_LISTEN__TCP": "127.0.0.1:6000",
            "MILLIRANK_LISTEN__UNIX": "",
            "MILLIRANK_PROFILES": '["a.json", "b.json"]',
            "MILLIRANK_RERANKERS__LLM__MODEL": "4",
            "MILLIRANK_RERANKERS__LLM__BASE_URL": "http://127.0.0.1:1/v1",
            "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED": "false",
        },
    )
    assert settings.listen.tcp == "127.0.0.1:6000"
    assert settings.listen.unix == ""
    assert settings.profiles == ("a.json", "b.json")
    llm = settings.rerankers["llm"]
    assert isinstance(llm, LlmSettings)
    assert (llm.model, llm.base_url) == ("4", "http://127.0.0.1:1/v1")
    assert not settings.rerankers["tiny-cross-encoder"].enabled


def test_file_adds_and_changes_rerankers(tmp_path: Path) -> None:
    """A reranker of one's own stands beside the built-in ones; a built-in one is changed key by key."""
    path = in_file(
        tmp_path,
        """
        [rerankers.mine]
        strategy = "late_interaction"
        model = "/models/mine"
        [rerankers.minilm-l6]
        vector_bytes = 1000
        """,
    )
    rerankers = load(path, {}).rerankers
    assert isinstance(rerankers["mine"], OnnxLateInteraction)
    own = rerankers["minilm-l6"]
    assert isinstance(own, OnnxLateInteraction)
    assert (own.vector_bytes, own.model) == (1000, "embedded:minilm-l6")
    assert "llm" in rerankers


def test_variables_of_other_parts_are_no_settings() -> None:
    """MILLIRANK_CONFIG and MILLIRANK_CACHE_DIR are read elsewhere and do not count as unknown settings."""
    assert load(None, {"MILLIRANK_CONFIG": "x", "MILLIRANK_CACHE_DIR": "y"}) == Settings()


def test_what_kubernetes_puts_into_the_environment_is_no_setting() -> None:
    """A Service called millirank, or millirank-something, leaves such variables in every container of its namespace;
    the sidecar starts all the same."""
    links = {
        "MILLIRANK_SERVICE_HOST": "10.0.0.11",
        "MILLIRANK_SERVICE_PORT": "50051",
        "MILLIRANK_SERVICE_PORT_GRPC": "50051",
        "MILLIRANK_PORT": "tcp://10.0.0.11:50051",
        "MILLIRANK_PORT_50051_TCP": "tcp://10.0.0.11:50051",
        "MILLIRANK_PORT_50051_TCP_PROTO": "tcp",
        "MILLIRANK_PORT_50051_TCP_PORT": "50051",
        "MILLIRANK_PORT_50051_TCP_ADDR": "10.0.0.11",
        "MILLIRANK_GPU_POOL_SERVICE_HOST": "10.0.0.12",
        "MILLIRANK_GPU_POOL_PORT_50051_TCP_ADDR": "10.0.0.12",
    }
    assert load(None, links) == Settings()


def test_no_setting_looks_like_what_kubernetes_puts_there() -> None:
    """None of our own variables is mistaken for a Service's and left out without a word."""
    names = ["MILLIRANK_" + key.upper().replace(".", "__") for key in known_keys()]
    assert [name for name in names if _SERVICE_LINK.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("text", "unknown", "suggestion"),
    [
        ("[budget]\ndefualt_ms = 5\n", "budget.defualt_ms", "budget.default_ms"),
        ("mod = 'on'\n", "unknown setting mod", "mode"),
        ("[listen]\nunix_socket = '/x'\n", "listen.unix_socket", "listen.unix"),
        ("[rerankers.llm]\nbase_ulr = 'x'\n", "rerankers.llm.base_ulr", "rerankers.llm.base_url"),
    ],
)
def test_unknown_setting_in_file(tmp_path: Path, text: str, unknown: str, suggestion: str) -> None:
    """A misspelt key of the file is refused; the message has the file, the key and the nearest known one."""
    path = in_file(tmp_path, text)
    message = refused(path)
    assert str(path) in message
    assert unknown in message
    assert f"did you mean {suggestion}?" in message


def test_unknown_setting_in_environment() -> None:
    """A misspelt variable is refused the same way."""
    message = refused(None, {"MILLIRANK_BUDGET__DEFUALT_MS": "5"})
    assert "MILLIRANK_* variable" in message
    assert "unknown setting budget.defualt_ms; did you mean budget.default_ms?" in message


def test_unknown_setting_unlike_any_other() -> None:
    """Where nothing is near, the message says how to list what there is."""
    assert "--print-config" in refused(None, {"MILLIRANK_XYZZY": "5"})


def test_secret_of_a_misspelt_setting_is_not_repeated() -> None:
    """An API key that was put in the wrong place does not end up in the error."""
    message = refused(None, {"MILLIRANK_RERANKERS__LLM__API_KEY": "sk-zyzzyva"})
    assert "rerankers.llm.api_key" in message
    assert "zyzzyva" not in message


@pytest.mark.parametrize(
    ("environment", "setting"),
    [
        ({"MILLIRANK_MODE": "onn"}, "mode"),
        ({"MILLIRANK_BUDGET__DEFAULT_MS": "-1"}, "budget.default_ms"),
        ({"MILLIRANK_BUDGET__DEFAULT_MS": "soon"}, "budget.default_ms"),
        ({"MILLIRANK_BUDGET__DEFAULT_MS": "NaN"}, "budget.default_ms"),
        ({"MILLIRANK_BUDGET__DEFAULT_MS": "Infinity"}, "budget.default_ms"),
        ({"MILLIRANK_DRAIN_S": "Infinity"}, "drain_s"),
        ({"MILLIRANK_RERANKERS__LLM__EXPECTED_GAIN": "NaN"}, "rerankers.llm.expected_gain"),
        ({"MILLIRANK_LIMITS__DOCUMENTS": "10001"}, "limits.documents"),
        ({"MILLIRANK_LIMITS__DOCUMENTS": "1.5"}, "limits.documents"),
        ({"MILLIRANK_LISTEN": "nowhere"}, "listen"),
        ({"MILLIRANK_RERANKERS__NEW__STRATEGY": "llmm"}, "rerankers.new"),
        ({"MILLIRANK_RERANKERS__NEW__STRATEGY": "cross_encoder"}, "rerankers.new.model"),
    ],
)
def test_wrong_value_names_its_setting(environment: dict[str, str], setting: str) -> None:
    """A value of the wrong kind or out of range, NaN and infinity included, names the setting."""
    assert f": {setting}: " in refused(None, environment)


def test_reranker_without_strategy_says_what_to_add() -> None:
    """A new reranker has to say what it is."""
    message = refused(None, {"MILLIRANK_RERANKERS__NEW__MODEL": "x"})
    assert "rerankers.new" in message
    assert "says no strategy; add one: cross_encoder" in message


def test_rerankers_that_are_no_table(tmp_path: Path) -> None:
    """A file in which `rerankers` is a number is refused in words, also with variables that reach into it."""
    path = in_file(tmp_path, "rerankers = 3\n")
    assert "rerankers" in refused(path, {"MILLIRANK_RERANKERS__LLM__TIMEOUT_S": "1"})
    assert "rerankers" in refused(path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The path and the fix."""
    message = refused(tmp_path / "absent.toml")
    assert "absent.toml does not exist; create it or drop --config" in message


@pytest.mark.parametrize("content", [b"mode = ", b"\xff\xfe"])
def test_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    """Broken TOML and bytes that are no text are told as such, with the file."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    assert f"{path} is not valid TOML" in refused(path)


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder can't be read, and the message says why."""
    assert "can't be read: Is a directory" in refused(tmp_path)


def test_print_config_is_a_file_that_loads(tmp_path: Path) -> None:
    """What --print-config prints is a configuration file that means the same."""
    environment = {
        "MILLIRANK_PROFILES": '["a \\"quoted\\".json"]',
        "MILLIRANK_RERANKERS__LLM__EXPECTED_GAIN": "0.05",
        "MILLIRANK_LISTEN__UNIX": "/run/m/m.sock",
    }
    settings = load(None, environment)
    assert load(in_file(tmp_path, to_toml(settings)), {}) == settings


def test_a_reranker_can_not_take_the_name_of_the_fusion_without_a_model(tmp_path: Path) -> None:
    """'signals' is an arm of every profile; a model of that name would be taken for it."""
    path = tmp_path / "millirank.toml"
    path.write_text("[rerankers.signals]\nstrategy = 'llm'\n")
    with pytest.raises(SettingsError, match=r"rerankers: .*can't be named 'signals'.*choose another name"):
        load(path, {})
