"""Adding documents to the files of a PLAID index, and taking documents out of them.

colbert-ai has an ``IndexUpdater``, but what 0.2.22 writes cannot be relied on: it counts old vectors twice, and refuses
an inverted list with padding. The format itself is simple. For each chunk n: ``n.codes.pt`` int32 [tokens] (the nearest
centroid), ``n.residuals.pt`` uint8 [tokens, dim * bits / 8], ``doclens.n.json`` (tokens of each document) and
``n.metadata.json``; for the whole index ``metadata.json`` and ``ivf.pid.pt`` (centroid -> documents). A document's
number is its position over all chunks; one that is taken out keeps its number and has no tokens from then on.
RAGatouille adds ``pid_docid_map.json`` (number -> id) and ``collection.json`` (the texts, by number).

Every file is replaced, never written into: the folder may share its files with the index that it was copied from.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.indexing.documents import TextDocument
from sidecar.indexing.manifest import IDS_FILE, read_ids

METADATA = "metadata.json"
TEXTS = "collection.json"
INVERTED_LISTS = "ivf.pid.pt"


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int
    first_document: int
    lengths: list[int]


def append(folder: Path, documents: Sequence[TextDocument], vectors: Any, lengths: Sequence[int]) -> None:
    """Adds documents as a new chunk. None of their ids may be in the index.

    ``vectors`` float32 [all tokens, dim] one document after the other, ``lengths`` how many tokens each has. They are
    compressed with the centroids that the index has.
    """
    from colbert.indexing.codecs.residual import ResidualCodec

    chunks = list(_chunks(folder))
    first = sum(len(chunk.lengths) for chunk in chunks)
    # Half precision in between, as when an index is built: the same document gets the same codes.
    compressed = ResidualCodec.load(index_path=str(folder)).compress(vectors.half())
    number = len(chunks)
    _save_tensor(folder / f"{number}.codes.pt", compressed.codes)
    _save_tensor(folder / f"{number}.residuals.pt", compressed.residuals)
    _write_json(folder / f"doclens.{number}.json", list(lengths))
    _write_json(folder / f"{number}.metadata.json", {"passage_offset": first, "num_passages": len(lengths)})
    ids = _read_json(folder / IDS_FILE) | {str(first + place): each.id for place, each in enumerate(documents)}
    _write_json(folder / IDS_FILE, ids)
    _write_json(folder / TEXTS, _read_json(folder / TEXTS) + [document.text for document in documents])
    _refresh(folder)


def erase(folder: Path, ids: Collection[str]) -> None:
    """Takes these documents out: vectors, texts and ids. Ids that the index does not have are ignored."""
    import torch

    numbers = read_ids(folder)
    gone = frozenset(numbers[identifier] for identifier in ids if identifier in numbers)
    for chunk in _chunks(folder):
        documents = range(chunk.first_document, chunk.first_document + len(chunk.lengths))
        if gone.isdisjoint(documents):
            continue
        stays = torch.tensor([document not in gone for document in documents])
        tokens = stays.repeat_interleave(torch.tensor(chunk.lengths))
        for kind in ("codes", "residuals"):
            path = folder / f"{chunk.number}.{kind}.pt"
            _save_tensor(path, torch.load(path, map_location="cpu", weights_only=True)[tokens])
        left = [length if stay else 0 for length, stay in zip(chunk.lengths, stays.tolist(), strict=True)]
        _write_json(folder / f"doclens.{chunk.number}.json", left)
    _write_json(folder / IDS_FILE, {str(number): name for name, number in numbers.items() if number not in gone})
    texts = _read_json(folder / TEXTS)
    _write_json(folder / TEXTS, ["" if number in gone else text for number, text in enumerate(texts)])
    _refresh(folder)


def _chunks(folder: Path) -> Iterator[_Chunk]:
    first = 0
    for number in range(_read_json(folder / METADATA)["num_chunks"]):
        lengths = _read_json(folder / f"doclens.{number}.json")
        yield _Chunk(number, first, lengths)
        first += len(lengths)


def _refresh(folder: Path) -> None:
    """Brings everything that follows from the chunks up to date: counts, offsets and the inverted lists."""
    import torch
    from colbert.indexing.utils import optimize_ivf

    metadata = _read_json(folder / METADATA)
    metadata["num_chunks"] = len(list(folder.glob("doclens.*.json")))
    _write_json(folder / METADATA, metadata)
    tokens = documents = 0
    codes = []
    for chunk in _chunks(folder):
        path = folder / f"{chunk.number}.metadata.json"
        counts = {"num_embeddings": sum(chunk.lengths), "embedding_offset": tokens}
        _write_json(path, _read_json(path) | counts)
        codes.append(torch.load(folder / f"{chunk.number}.codes.pt", map_location="cpu", weights_only=True).long())
        tokens += counts["num_embeddings"]
        documents += sum(length > 0 for length in chunk.lengths)
    metadata |= {"num_embeddings": tokens, "avg_doclen": tokens / max(1, documents)}
    _write_json(folder / METADATA, metadata)
    by_centroid = torch.cat(codes).sort()
    counts_by_centroid = torch.bincount(by_centroid.values, minlength=metadata["num_partitions"])
    (folder / INVERTED_LISTS).unlink()  # it is written in place
    optimize_ivf(by_centroid.indices, counts_by_centroid, str(folder), verbose=0)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _write_json(path: Path, data: object) -> None:
    _replace(path, lambda target: target.write_text(json.dumps(data), encoding="utf-8"))


def _save_tensor(path: Path, tensor: Any) -> None:
    import torch

    data = io.BytesIO()  # into a file torch writes by itself, and a full disk is an error of its own then
    torch.save(tensor, data)
    _replace(path, lambda target: target.write_bytes(data.getbuffer()))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    write(unfinished)
    unfinished.replace(path)
