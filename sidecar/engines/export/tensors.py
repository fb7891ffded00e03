"""Arrays that are read when they are needed, so that a checkpoint never has to fit into memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of a known shape and type; ``load`` reads or computes it, anew every time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """An array that is there already."""
        return cls(array.shape, array.dtype, lambda: array)

    @property
    def size_bytes(self) -> int:
        """Bytes of the array once it is loaded."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def transposed(self) -> Tensor:
        """[a, b] -> [b, a]."""
        return Tensor(self.shape[::-1], self.dtype, lambda: self.load().T)


Weights = Mapping[str, Tensor]


def as_weights(arrays: Mapping[str, Floats]) -> Weights:
    """Weights that are in memory."""
    return {name: Tensor.of(array) for name, array in arrays.items()}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one type side by side, along the last axis."""
    shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    return Tensor(shape, parts[0].dtype, lambda: np.concatenate([part.load() for part in parts], axis=-1))


def blocks(rows: int, size: int = 8_192) -> Iterator[slice]:
    """Slices that cover ``rows`` rows."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
