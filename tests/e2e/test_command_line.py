"""The commands, against a running sidecar and on their own.

Run in this process, from the command line's own entry on, where a process of its own would only take longer.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar import cli
from tests.e2e.conftest import ModelSidecar, model_settings
from tests.e2e.sidecar_process import clean_environment, millirank

TEXTS = ("Threads share memory.", "sorted() takes a key function and sorts by it.", "An HTTP server listens.")
LINES = "".join(json.dumps({"id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(TEXTS))
BUDGET = ("--budget-ms", "30000")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command with `LINES` on standard input; gives exit code, stdout and stderr."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)

    def main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
        code = cli.main(arguments)
        written = capsys.readouterr()
        return code, written.out, written.err

    return main


def test_health_of_a_serving_sidecar(run: Run, model_sidecar: ModelSidecar) -> None:
    """Exit code 0 and SERVING, over TCP and the socket alike."""
    for target in (model_sidecar.tcp, model_sidecar.unix):
        assert run("health", "--target", target) == (0, f"{target}: SERVING\n", "")


def test_health_of_nothing() -> None:
    """Exit code 1 and the status, without a traceback, where nobody listens. As a process, as probes run it."""
    ended = millirank("health", "--target", "127.0.0.1:1", "--timeout", "5")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout == "127.0.0.1:1: UNAVAILABLE\n"


def test_rerank_through_a_running_sidecar(run: Run, model_sidecar: ModelSidecar) -> None:
    """Candidates from standard input, the order as JSON."""
    code, out, err = run("rerank", "sort by key", "--target", model_sidecar.tcp, "--json", *BUDGET)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["outcome"], answer["reranker"]) == ("ranked", "minilm-l6")
    assert answer["results"][0]["id"] == "d1"
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]


def test_rerank_with_a_private_sidecar_and_its_trace(tmp_path: Path) -> None:
    """Without --target a sidecar lives as long as the command; --trace shows one tree of client, server and steps."""
    path = tmp_path / "candidates.jsonl"
    path.write_text(LINES)
    ended = millirank(
        "rerank", "sort by key", "--documents", str(path), "--trace", *BUDGET, variables=model_settings(tmp_path)
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    table, _, tree = ended.stdout.partition("trace ")
    assert table.index("d1") < table.index("d0")
    assert "ranked: minilm-l6, 3 of 3 planned candidates scored" in table
    assert tree.count("millirank.v1.RerankService/Rerank") == 2
    assert tree.index("── millirank.v1.RerankService/Rerank") < tree.index("── route") < tree.index("── score")
    assert "minilm-l6@3: chosen: " in " ".join(tree.split())


def test_explain_through_a_running_sidecar(run: Run, model_sidecar: ModelSidecar) -> None:
    """Every arm with its verdict, as JSON."""
    code, out, err = run("explain", "sort by key", "--target", model_sidecar.tcp, "--json", *BUDGET)
    assert (code, err) == (0, "")
    decision = json.loads(out)
    assert decision["reranker"] == "minilm-l6", out
    verdicts = {arm["reranker"]: arm["verdict"] for arm in decision["considered"]}
    assert verdicts["minilm-l6"] == "chosen"
    assert verdicts["absent"] == "off"


def test_refused_request_ends_with_1(run: Run, model_sidecar: ModelSidecar) -> None:
    """What the sidecar refuses is one line on stderr, with what there is."""
    code, out, err = run("rerank", "q", "--target", model_sidecar.tcp, "--reranker", "nope")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("millirank rerank: ")
    assert "configured: minilm-l6" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rerank", "q", "--documents", "/nowhere/x.jsonl"), "millirank rerank: /nowhere/x.jsonl: No such file"),
        (("rerank", "q", "--target", "nowhere"), "millirank rerank: target 'nowhere' has no valid port"),
        (("explain", "q", "--target", "http://x:1"), "millirank explain: target 'http://x:1' looks like a URL"),
    ],
)
def test_input_that_can_not_be_used_ends_with_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    """One line on stderr that names the argument, no traceback."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(words)


def test_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`millirank --help` names every command, and each of these has a --help of its own with its options."""
    with pytest.raises(SystemExit) as listed:
        cli.main(["--help"])
    assert listed.value.code == 0
    listing = capsys.readouterr().out
    for command, option in (
        ("serve", "--print-config"),
        ("rerank", "--trace"),
        ("explain", "--json"),
        ("health", "--timeout"),
    ):
        assert f"\n    {command}" in listing
        with pytest.raises(SystemExit) as helped:
            cli.main([command, "--help"])
        assert helped.value.code == 0
        assert option in capsys.readouterr().out
