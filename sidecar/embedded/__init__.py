"""The small models that come with the package, each in a folder with its card.

This module only knows where they are; `make` makes them, the engines run them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["model_dir", "names"]

_NAMES = ("minilm-l6", "tiny-cross-encoder")


def names() -> tuple[str, ...]:
    """The names of the models that come with the package."""
    return _NAMES


def model_dir(name: str) -> Path:
    """The folder with `model.onnx`, `tokenizer.json`, `model.json` and `CARD.md` of one embedded model.

    Raises ValueError for a name that is not in `names()`.
    """
    if name not in _NAMES:
        raise ValueError(f"unknown embedded model {name!r}: choose one of {', '.join(_NAMES)}")
    return Path(__file__).parent / name
