"""A Hugging Face checkpoint on disk, before anything of it is loaded: where it is, whether it may be used, what it is.

Nothing here needs torch: a model that can't be used is told apart in milliseconds, with the file and the fix.
"""

from __future__ import annotations

import hashlib
import struct
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sidecar import json_text
from sidecar.engines.manifest import Kind, ModelError

# What a checkpoint consists of. Pickled weights are not among it: unpickling runs whatever the file says.
PARTS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "artifact.metadata")
EXPORTS = {"torch": (), "onnx": ("*.onnx", "*.onnx_data"), "openvino": ("*.xml", "*.bin")}
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
HEADER = struct.Struct("<Q")  # safetensors: length of the JSON header that follows
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
COLBERT_TYPES = ("MultiVectorEncoder", "ColBERT")


def locate(model: str, revision: str, backend: str) -> Path:
    """The folder of a checkpoint; a hub name is downloaded first unless it is in the local cache.

    ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to every Hugging Face library.
    Raises ModelError.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise ModelError(f"{model} is not a folder: correct `model`, or use a hub name such as BAAI/bge-reranker-v2-m3")
    import huggingface_hub.constants
    from huggingface_hub import errors

    at = f"{model} at revision {revision}" if revision else model
    patterns = [*PARTS, *(f"{backend}/{part}" for part in EXPORTS[backend])]
    try:
        # What other backends need lies in folders of these names and may be gigabytes.
        others = [f"{name}/*" for name in ("onnx", "openvino") if name != backend]
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision or None, allow_patterns=patterns, ignore_patterns=others
            )
        )
    except errors.HFValidationError:
        raise ModelError(f"{model!r} is neither a folder nor a hub name: correct `model`") from None
    except errors.GatedRepoError:
        raise ModelError(f"{model} is gated: accept its terms on the hub, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"the hub has no model {model} (or it is private: set HF_TOKEN)") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"the hub has no {at}: correct `revision`") from None
    except errors.LocalEntryNotFoundError:
        offline = huggingface_hub.constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise ModelError(
            f"{at} is neither a folder nor complete in the local cache, and {why}: run `hf download {model}` where "
            "there is a network, or name a folder"
        ) from None
    except OSError as error:
        raise ModelError(f"{at} cannot be downloaded: {first_line(error)}") from error


def check(folder: Path, kind: Kind, backend: str) -> None:
    """Raises ModelError unless the folder holds a checkpoint of this kind: whole, unpickled weights and a tokenizer."""
    config = _read_json(folder / "config.json")
    _check_kind(folder, config, kind)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise ModelError(f"{folder} holds no tokenizer: add {TOKENIZERS[0]}, or {TOKENIZERS[1]} of an older model")
    if backend == "torch":
        _check_weights(folder)
    elif not any(folder.rglob(EXPORTS[backend][0])):
        # Without one the library would make one, from whatever weights there are.
        raise ModelError(f"{folder} holds no {EXPORTS[backend][0]}: export the model first, or use backend torch")


def digests(folder: Path, backend: str) -> tuple[tuple[str, str], ...]:
    """(path in the folder, SHA-256 in hex) of every file that a score could depend on, sorted."""
    found = []
    for path in _files(folder):
        if any(fnmatch(path.name, part) for part in (*PARTS, *EXPORTS[backend])):
            with path.open("rb") as file:
                found.append((path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()))
    return tuple(sorted(found))


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its message: the libraries' own run over whole screens."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _files(folder: Path) -> list[Path]:
    """Every file, without hidden folders: the hub's client keeps bookkeeping there."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json_text.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path.parent} holds no {path.name}: it is no Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return data


def _check_kind(folder: Path, config: dict[str, Any], kind: Kind) -> None:
    """A bare encoder would get a head of random numbers, with a warning that nobody reads."""
    architectures = [str(name) for name in config.get("architectures") or ()]
    stated = folder / "config_sentence_transformers.json"
    model_type = _read_json(stated).get("model_type") if stated.is_file() else None
    if kind is Kind.CROSS_ENCODER:
        fits = model_type == "CrossEncoder" or any(name.endswith("ForSequenceClassification") for name in architectures)
        needed = "a cross-encoder has a classification head (...ForSequenceClassification)"
    else:
        fits = model_type in COLBERT_TYPES or any(
            name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures
        )
        needed = "late interaction needs a ColBERT checkpoint (HF_ColBERT, PyLate or MultiVectorEncoder)"
    if not fits:
        holds = ", ".join(architectures) or "a model without `architectures`"
        raise ModelError(f"{folder} holds {holds}; {needed}")


def _check_weights(folder: Path) -> None:
    files = _files(folder)
    weights = [path for path in files if path.suffix == ".safetensors"]
    with_weights = {path.parent for path in weights}
    for path in files:
        if path.parent not in with_weights and any(fnmatch(path.name, pattern) for pattern in PICKLES):
            raise ModelError(
                f"{path} is a pickle, and loading one runs whatever code it holds: convert it to safetensors, or use "
                "a revision that has them"
            )
    if not weights:
        raise ModelError(f"{folder} holds no weights: no *.safetensors (pickled weights are not loaded)")
    for path in weights:
        _check_safetensors(path)
    for index in (path for path in files if path.name.endswith(".safetensors.index.json")):
        shards = _read_json(index).get("weight_map")
        for name in sorted(set(shards.values() if isinstance(shards, dict) else ())):
            if not (index.parent / name).is_file():
                raise ModelError(f"{index} names {name}, which is not there: download the model again")


def _check_safetensors(path: Path) -> None:
    """Whether the file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER.size)
        length = HEADER.unpack(start)[0] if len(start) == HEADER.size else size
        if length > min(size - HEADER.size, LONGEST_HEADER):
            raise ModelError(f"{path} is no complete safetensors file ({size:,} bytes): download it again")
        try:
            header = json_text.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = HEADER.size + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(f"{path} has no safetensors header: download it again") from error
    if size != expected:
        raise ModelError(f"{path} has {size:,} bytes and should have {expected:,}: it was cut off; download it again")
