"""``millirank serve`` with a configuration that can't be used, and --print-config.

Run in this process, from the command line's own entry on: nothing here gets as far as opening a listener.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar import cli
from sidecar.settings import Settings, load
from tests.e2e.sidecar_process import clean_environment, millirank
from tests.helpers import profile_data

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of the machine; and logging as it was, because `serve` takes it over."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: str, **variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["serve", *arguments]) == 2
        written = capsys.readouterr()
        assert written.out == ""
        assert written.err.startswith("millirank serve: ")
        return written.err

    return run


def test_unknown_variable_ends_a_process_with_2() -> None:
    """A misspelt variable: exit code 2, one line on stderr, no traceback. In a real process, once."""
    ended = millirank("serve", variables={"MILLIRANK_BUDGET__DEFUALT_MS": "5"})
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert "unknown setting budget.defualt_ms; did you mean budget.default_ms?" in line


def test_unknown_setting_in_a_file(tmp_path: Path, refused: Refused) -> None:
    """The same in a file, which is named."""
    path = tmp_path / "m.toml"
    path.write_text("mod = 'on'\n")
    message = refused("--config", str(path))
    assert str(path) in message
    assert "did you mean mode?" in message


def test_missing_configuration_file(refused: Refused) -> None:
    """A file that is not there, by option and by MILLIRANK_CONFIG."""
    assert "/nowhere/m.toml does not exist" in refused("--config", "/nowhere/m.toml")
    assert "/nowhere/n.toml does not exist" in refused(MILLIRANK_CONFIG="/nowhere/n.toml")


def test_missing_profile(refused: Refused) -> None:
    """A profile that is not there names its path and the setting."""
    message = refused(MILLIRANK_PROFILES='["/nowhere/profile.json"]')
    assert "/nowhere/profile.json does not exist; correct `profiles`" in message


def test_broken_profile(tmp_path: Path, refused: Refused) -> None:
    """A profile that can't be used names file, place and what is expected."""
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**profile_data(), "rerank_ks": [10, 5]}))
    assert f"profile {path}: $.rerank_ks: must ascend" in refused(MILLIRANK_PROFILES=json.dumps([str(path)]))


def test_exporter_that_is_not_there(refused: Refused) -> None:
    """A wrong OTEL_* variable is a configuration mistake like any other."""
    assert "OTEL_TRACES_EXPORTER is 'jaeger'" in refused(OTEL_TRACES_EXPORTER="jaeger")


def test_no_listener_at_all(refused: Refused) -> None:
    """A sidecar that nobody could reach does not start."""
    assert "listen.tcp and listen.unix are both empty" in refused(MILLIRANK_LISTEN__TCP="")


def test_print_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the effective settings, of the file that MILLIRANK_CONFIG names too, as a file that means the same,
    and does not serve."""
    path = tmp_path / "m.toml"
    path.write_text("[budget]\ndefault_ms = 33\n")
    monkeypatch.setenv("MILLIRANK_LISTEN__UNIX", str(tmp_path / "m.sock"))
    printed = []
    assert cli.main(["serve", "--config", str(path), "--print-config"]) == 0
    printed.append(capsys.readouterr().out)
    monkeypatch.setenv("MILLIRANK_CONFIG", str(path))
    assert cli.main(["serve", "--print-config"]) == 0
    printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    again = tmp_path / "printed.toml"
    again.write_text(printed[0])
    loaded = load(again, {})
    assert loaded == load(path, {"MILLIRANK_LISTEN__UNIX": str(tmp_path / "m.sock")}) != Settings()
    assert not (tmp_path / "m.sock").exists()
