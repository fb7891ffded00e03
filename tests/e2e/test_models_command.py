"""``millirank models``: what a user sees, from a checkpoint to a model that the settings can name."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.commands import model_pairs, models
from sidecar.embedded import model_dir
from sidecar.engines.manifest import ModelError, read_manifest
from sidecar.model_store import ModelStore, Pulled
from tests.rerankers import tiny_checkpoints

PAIRS = [
    {"query": "reads rows of a csv file", "texts": [*tiny_checkpoints.SENTENCES, "short"]},
    {"query": "a timer", "texts": tiny_checkpoints.SENTENCES},
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """The store that the command uses, empty."""
    monkeypatch.setenv("MILLIRANK_CACHE_DIR", str(tmp_path / "cache"))
    return ModelStore()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs to measure on, which spare the tests reading the whole documentation."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    """The command's exit code."""
    parser = argparse.ArgumentParser()
    models.add_arguments(parser)
    return models.run(parser.parse_args([str(argument) for argument in arguments]))


def put_exported(store: ModelStore, name: str) -> Path:
    """A model folder in the store, without the time that an export takes."""
    folder = store.folder(name)
    folder.mkdir(parents=True)
    for file in model_dir("tiny-cross-encoder").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_export_list_verify(store: ModelStore, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint becomes a model under its name, with figures; the list has it and its digests hold."""
    pytest.importorskip("onnx", reason="the extra export is not installed")
    checkpoint = tiny_checkpoints.make("xlm-roberta", tmp_path / "tiny-xlm")
    assert run("export", checkpoint, "--name", "acme/tiny", "--precision", "fp32", "--pairs", pairs) == 0
    said = capsys.readouterr().out
    assert "Kendall tau 1.000, over 7 pairs" in said
    assert 'model = "acme/tiny"' in said
    assert "pairs/s on this machine" in said
    assert read_manifest(store.resolve("acme/tiny")).source == "tiny-xlm"
    assert run("list") == 0
    assert "acme/tiny" in capsys.readouterr().out
    assert run("verify") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "acme/tiny: ok"
    assert run("export", checkpoint, "--name", "acme/tiny", "--pairs", pairs) == 1
    assert "exists" in capsys.readouterr().err


def test_the_command_line_knows_it() -> None:
    """`python -m sidecar models --help` names the four actions."""
    said = subprocess.run(
        [sys.executable, "-m", "sidecar", "models", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for action in ("list", "pull", "export", "verify"):
        assert action in said


def test_verify_finds_a_damaged_file(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped byte, one missing file: exit 1 and the file's name."""
    folder = put_exported(store, "acme/tiny")
    assert run("verify", "acme/tiny") == 0
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    (folder / "tokenizer.json").unlink()
    capsys.readouterr()
    assert run("verify") == 1
    assert "acme/tiny: damaged: model.onnx, tokenizer.json; install the model again" in capsys.readouterr().out
    assert run("verify", "embedded:minilm-l6") == 0, "only what was asked for counts"
    assert run("verify", "acme/other") == 1
    assert "there is no model acme/other" in capsys.readouterr().err


def test_a_pulled_checkpoint_is_listed_verified_and_exported(
    store: ModelStore, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record of a pull keeps commit and digests; the hub name is enough from then on."""
    pytest.importorskip("onnx", reason="the extra export is not installed")
    from sidecar.engines.checkpoint import digests

    folder = tiny_checkpoints.make("distilbert", tmp_path / "snapshot")
    store.remember(Pulled("acme/distil", COMMIT, str(folder), dict(digests(folder, "torch"))))
    with pytest.raises(ModelError, match="pulled, but not exported: run `millirank models export acme/distil`"):
        store.resolve("acme/distil")
    assert run("verify") == 0
    assert run("export", "acme/distil", "--precision", "int8", "--pairs", pairs) == 0
    assert read_manifest(store.resolve("acme/distil")).source == f"acme/distil at commit {COMMIT}"
    (folder / "config.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert run("verify") == 1
    assert "acme/distil: damaged: config.json" in capsys.readouterr().out


def test_pull_offline_says_so_in_one_line(tmp_path: Path) -> None:
    """Without a network: exit 1, one clear line, no traceback, nothing recorded."""
    program = (
        "import argparse, sys; from sidecar.commands import models; parser = argparse.ArgumentParser();"
        "models.add_arguments(parser); sys.exit(models.run(parser.parse_args(sys.argv[1:])))"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "MILLIRANK_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, "pull", "acme/reranker"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("millirank models pull: acme/reranker")
    assert "HF_HUB_OFFLINE is set" in line
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "../../etc"], "is no name of a model"),
        (["export", "acme/unknown"], "neither a folder nor pulled: run `millirank models pull acme/unknown` first"),
        (["export", "/nowhere/at/all"], "/nowhere/at/all is not a folder"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: list[str], said: str, store: ModelStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 with the fix, nothing created."""
    assert run(*arguments) == 1
    assert said in capsys.readouterr().err
    assert store.exported() == []


@pytest.mark.parametrize(
    "line", ["{", '{"query": "x"}', '{"query": "x", "texts": ["one"]}', '{"query": 1, "texts": []}']
)
def test_a_bad_line_of_pairs_is_named(line: str, tmp_path: Path) -> None:
    """File, line and what was expected."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n" + line, encoding="utf-8")
    with pytest.raises(ModelError, match=r'pairs\.jsonl, line 2: expected \{"query"'):
        model_pairs.from_file(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ModelError, match="has no lines"):
        model_pairs.from_file(path)


def test_what_a_name_means(store: ModelStore, tmp_path: Path) -> None:
    """An embedded model, a folder, an exported model; anything else says what to run."""
    assert store.resolve("embedded:minilm-l6") == model_dir("minilm-l6")
    assert store.resolve(str(model_dir("minilm-l6"))) == model_dir("minilm-l6")
    folder = put_exported(store, "acme/tiny")
    assert store.resolve("acme/tiny") == folder
    assert store.exported() == [folder]
    (folder.parent / ".acme--other.x1").mkdir()
    assert store.exported() == [folder], "an export under way is no model yet"
    for model, said in (
        ("embedded:other", "unknown embedded model 'other'"),
        (str(tmp_path), r"has no model\.json: for a Hugging Face checkpoint, run `millirank models export"),
        ("/no/such/folder", "is not a folder"),
        ("acme/other", "run `millirank models pull acme/other`"),
    ):
        with pytest.raises(ModelError, match=said):
            store.resolve(model)


def test_a_damaged_record_is_named(store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that cannot be read says which file to remove."""
    store.remember(Pulled("acme/x", COMMIT, str(tmp_path), {}))
    (tmp_path / "cache" / "pulled" / "acme--x.json").write_text("[]", encoding="utf-8")
    assert run("list") == 1
    assert "acme--x.json cannot be read" in capsys.readouterr().err
