"""A checkpoint folder of the Hugging Face hub: its configuration and its weights, which stay on disk until needed.

The safetensors format (https://huggingface.co/docs/safetensors) is read here, not by its library: a view into the file
needs no copy, and NumPy has no bfloat16. A file is 8 bytes of header length (little endian), a JSON header that maps a
tensor's name to type, shape and place, and then the tensors' bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidecar import json_text
from sidecar.engines.export.tensors import Array, Tensor
from sidecar.engines.manifest import TOKENIZER_FILE, ModelError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
FLOAT_TYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``config`` is config.json; ``tensors`` maps the checkpoint's own names to float32 tensors."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def tokenizer(self) -> Path:
        """The fast tokenizer's file."""
        return self.folder / TOKENIZER_FILE


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads configuration and weight headers, and checks that the weight files are whole.

    Raises ModelError, which names the file, what is wrong and what to do.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder: give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    config = _json_object(folder / CONFIG_FILE, "a Hugging Face checkpoint has one; download the model again")
    if not (folder / TOKENIZER_FILE).is_file():
        raise ModelError(
            f"{folder / TOKENIZER_FILE} is missing: save the fast tokenizer with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_safetensors(path)
    return Checkpoint(folder, config, tensors)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The floating-point tensors of one file, as float32; others (such as position ids) are left out.

    Raises ModelError when the file is not safetensors or ends too early.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MOST_HEADER_BYTES, size - 8):
                raise ValueError("its header is longer than the file")
            header = json_text.loads(file.read(length))
        start = 8 + length
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = start + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size:,} bytes, and its header announces {end:,}")
        return {name: _tensor(path, start, entry) for name, entry in entries.items() if entry["dtype"] in FLOAT_TYPES}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}; download it again") from error


def _tensor(path: Path, start: int, entry: Mapping[str, Any]) -> Tensor:
    kind, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
    first, last = (int(offset) for offset in entry["data_offsets"])
    stored = np.dtype(FLOAT_TYPES[kind])
    if first < 0 or last - first != stored.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"a tensor of shape {shape} does not take {last - first:,} bytes")

    def load() -> Array:
        view = np.memmap(path, stored, "r", offset=start + first, shape=shape) if last > first else np.empty(shape)
        if kind == "BF16":  # the upper half of a float32
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.astype(np.float32, copy=False)

    return Tensor(shape, np.dtype(np.float32), load)


def _weight_files(folder: Path) -> list[Path]:
    """One file, or the parts that the index names."""
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if index.exists():
        parts = _json_object(index, "download the model again").get("weight_map")
        if not isinstance(parts, dict) or not parts or any(Path(str(p)).name != p for p in parts.values()):
            raise ModelError(f"{index} has no usable 'weight_map': download the model again")
        return [folder / str(name) for name in sorted(set(parts.values()))]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} has its weights only as {pickled[0]}, a pickle, which can run code when it is opened; "
            f"convert it where you trust it: transformers' save_pretrained writes {WEIGHTS_FILE}"
        )
    raise ModelError(f"{folder} has no {WEIGHTS_FILE} and no {INDEX_FILE}: download the model again")


def _json_object(path: Path, fix: str) -> dict[str, Any]:
    try:
        data = json_text.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: {fix}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return data
