"""One Ray for all tests of this folder: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ray.cluster import Cluster


@pytest.fixture(scope="session")
def ray() -> Iterator[Cluster]:
    """A running Ray without a pool. It believes in one GPU."""
    from tests.ray.cluster import running

    with running(gpus=1) as cluster:
        yield cluster


def write_config(path: Path, max_tokens: int = 128) -> Path:
    """Settings of a pool with the embedded cross-encoder alone; another truncation is another revision of it."""
    path.write_text(
        "[rerankers.minilm-l6]\nenabled = false\n[rerankers.llm]\nenabled = false\n"
        f"[rerankers.tiny-cross-encoder]\nmax_tokens = {max_tokens}\n"
        "[budget]\nreserve_ms = 5.0\n",
        encoding="utf-8",
    )
    return path
