"""Where models live, and what a configured model's name means."""

from __future__ import annotations

from pathlib import Path

from sidecar.embedded import model_dir

EMBEDDED_PREFIX = "embedded:"


def resolve(model: str) -> Path:
    """The folder of 'embedded:NAME' or of a path. Raises ModelError."""
    if model.startswith(EMBEDDED_PREFIX):
        return model_dir(model.removeprefix(EMBEDDED_PREFIX))
    return Path(model).expanduser()
