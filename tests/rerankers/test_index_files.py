"""What of an index or a checkpoint is refused before anything heavy is loaded: each with the file and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sidecar.indexing.checkpoint import of_index, resolve
from sidecar.indexing.documents import InputError, TextDocument, read_documents, read_ids
from sidecar.indexing.manifest import (
    IndexFolderError,
    IndexManifest,
    digests,
    read_manifest,
    verify,
    write_manifest,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The smallest folder that is a checkpoint in Stanford's format, as far as can be told without loading it."""
    save_file = pytest.importorskip("safetensors.numpy", reason="needs safetensors (extra torch)").save_file
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "artifact.metadata").write_text('{"doc_maxlen": 180}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file({"linear.weight": np.eye(4, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def index(tmp_path: Path, checkpoint: Path) -> Path:
    """A folder with a manifest that fits it and the checkpoint."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "0.codes.pt").write_bytes(b"codes")
    resolved = resolve(str(checkpoint), download=False)
    write_manifest(
        folder, IndexManifest("docs", resolved.name, resolved.revision, resolved.digest, 180, 1, digests(folder))
    )
    return folder


def test_whole_index_passes(index: Path) -> None:
    """Manifest, files and checkpoint as they were written are taken."""
    manifest = read_manifest(index)
    verify(index, manifest)
    assert of_index(index, manifest).digest == manifest.checkpoint_digest
    assert (manifest.collection, manifest.max_tokens, manifest.documents) == ("docs", 180, 1)


def test_digest_follows_the_files(index: Path) -> None:
    """Two indexes of the same files have the same digest; another file or checkpoint makes another one."""
    before = read_manifest(index)
    assert read_manifest(index).digest == before.digest
    (index / "0.codes.pt").write_bytes(b"other")
    after = IndexManifest("docs", before.checkpoint, "", before.checkpoint_digest, 180, 1, digests(index))
    assert after.digest != before.digest


def test_damaged_file_is_named(index: Path) -> None:
    """A changed file and one that is gone are each named."""
    manifest = read_manifest(index)
    (index / "0.codes.pt").write_bytes(b"cod")
    with pytest.raises(IndexFolderError, match=r"0\.codes\.pt is damaged: SHA-256 .* build the index again"):
        verify(index, manifest)
    (index / "0.codes.pt").unlink()
    with pytest.raises(IndexFolderError, match=r"0\.codes\.pt cannot be read \(No such file"):
        verify(index, manifest)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing: build the index with `millirank index`"),
        ("{", "cannot be read"),
        ("[]", "is stale: its format is None"),
        ('{"format": "millirank.index/0"}', "is stale: its format is 'millirank.index/0', not 'millirank.index/1'"),
        ('{"format": "millirank.index/1"}', "is damaged ('collection')"),
    ],
)
def test_manifest_that_can_not_be_used(index: Path, content: str | None, words: str) -> None:
    """Missing, unreadable, of another version, or incomplete: said as such."""
    (index / "index.json").unlink()
    if content is not None:
        (index / "index.json").write_text(content)
    with pytest.raises(IndexFolderError) as caught:
        read_manifest(index)
    assert str(caught.value).startswith(f"{index / 'index.json'} ")
    assert words in str(caught.value)


def test_changed_checkpoint_makes_the_index_stale(index: Path, checkpoint: Path) -> None:
    """Query vectors of another checkpoint would not fit the index: it is not used."""
    (checkpoint / "artifact.metadata").write_text('{"doc_maxlen": 200}')
    with pytest.raises(IndexFolderError, match=r"is stale: the checkpoint .* has changed since"):
        of_index(index, read_manifest(index))


def test_unrelated_files_do_not_make_it_stale(index: Path, checkpoint: Path) -> None:
    """What can't change a vector is not part of the digest."""
    (checkpoint / "README.md").write_text("words")
    of_index(index, read_manifest(index))


def test_checkpoint_of_another_format(checkpoint: Path) -> None:
    """Without artifact.metadata it is no checkpoint in Stanford's format."""
    (checkpoint / "artifact.metadata").unlink()
    with pytest.raises(IndexFolderError, match=r"has no artifact\.metadata: it is not in Stanford's ColBERT format"):
        resolve(str(checkpoint), download=False)


def test_checkpoint_with_code_of_its_own(checkpoint: Path) -> None:
    """No remote code: auto_map is refused."""
    (checkpoint / "config.json").write_text('{"auto_map": {"AutoModel": "code.Model"}}')
    with pytest.raises(IndexFolderError, match=r"code of its own \(auto_map\), which is never run"):
        resolve(str(checkpoint), download=False)


def test_pickled_checkpoint(checkpoint: Path) -> None:
    """Safetensors only."""
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(IndexFolderError, match="pickled weights are never loaded"):
        resolve(str(checkpoint), download=False)


def test_checkpoint_cut_in_half(checkpoint: Path) -> None:
    """A truncated weights file is named."""
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(IndexFolderError, match=r"model\.safetensors cannot be read"):
        resolve(str(checkpoint), download=False)


def test_encoder_without_projection(checkpoint: Path) -> None:
    """A plain encoder would get a random projection: refused."""
    from safetensors.numpy import save_file

    save_file({"bert.weight": np.eye(4, dtype=np.float32)}, checkpoint / "model.safetensors")
    with pytest.raises(IndexFolderError, match=r"has no linear\.weight"):
        resolve(str(checkpoint), download=False)


def test_checkpoint_that_is_nowhere() -> None:
    """A name that is no folder and not in the hub's cache."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (extra torch)")
    with pytest.raises(IndexFolderError, match="'nobody/nothing' is no folder and not in the hub's local cache"):
        resolve("nobody/nothing", download=False)


def test_documents_in_order(tmp_path: Path) -> None:
    """One object a line; blank lines are skipped, numbers are ids too, other keys are ignored."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 7, "text": "ä"}\n\n{"id": "b", "text": "c", "title": "t"}\n', encoding="utf-8")
    assert read_documents(path) == [TextDocument("7", "ä"), TextDocument("b", "c")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no documents"),
        (b'{"id": "1", "text": "a"}\n{"id": ', "line 2 is not JSON"),
        (b'["a"]', "line 1: write an object"),
        (b'{"text": "a"}', "line 1: 'id' is missing or empty"),
        (b'{"id": " ", "text": "a"}', "line 1: 'id' is missing or empty"),
        (b'{"id": true, "text": "a"}', "line 1: 'id' is missing or empty"),
        (json.dumps({"id": "x" * 513, "text": "a"}).encode(), "line 1: 'id' has 513 characters; at most 512"),
        (b'{"id": "1"}', "line 1: 'text' is missing or empty"),
        (b'{"id": "1", "text": ""}', "line 1: 'text' is missing or empty"),
        (b'{"id": "1", "text": "a"}\n\n{"id": 1, "text": "b"}', "line 3: id '1' is already that of line 1"),
        (b'{"id": "1", "text": "\xff"}', "is not UTF-8"),
    ],
)
def test_documents_that_can_not_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    """The file, the line, and what would be right."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_documents(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_ids_once_each(tmp_path: Path) -> None:
    """One id a line, in order; an empty file is a mistake."""
    path = tmp_path / "ids.txt"
    path.write_text("b\n\na\nb\n")
    assert read_ids(path) == ["b", "a"]
    path.write_text("\n")
    with pytest.raises(InputError, match="holds no ids"):
        read_ids(path)
