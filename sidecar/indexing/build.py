"""Building an index, adding to it and deleting from it: always beside the old one, which is replaced at the end."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sidecar.indexing import colbert_library, extensions, plaid_files
from sidecar.indexing.checkpoint import Checkpoint, of_index
from sidecar.indexing.documents import TextDocument
from sidecar.indexing.encoder import DocumentEncoder
from sidecar.indexing.manifest import (
    MANIFEST_FILE,
    IndexFolderError,
    IndexManifest,
    digests,
    read_ids,
    read_manifest,
    verify,
    write_manifest,
)

# What is encoded before it is written: 8,192 documents of 180 tokens are 760 MB of vectors.
BLOCK_DOCUMENTS = 8_192


class Report(Protocol):
    """Where progress goes."""

    def stage(self, description: str, total: int = 0) -> None:
        """Something begins that takes a while; ``total`` steps, 0 where they can't be counted."""
        ...

    def advance(self, steps: int) -> None:
        """So many more of them are done."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an index. ``unknown`` are ids to be deleted that it did not have."""

    manifest: IndexManifest
    added: int = 0
    replaced: int = 0
    deleted: int = 0
    unknown: int = 0


def create(
    target: Path,
    collection: str,
    checkpoint: Checkpoint,
    documents: Sequence[TextDocument],
    max_tokens: int,
    report: Report,
) -> Change:
    """Builds an index with RAGatouille; ``max_tokens`` 0 cuts documents where the checkpoint says.

    An index that is there is replaced. Raises IndexFolderError, also where ``target`` is something else than an index.
    """
    if target.exists() and not (target / MANIFEST_FILE).is_file():
        raise IndexFolderError(f"{target} is there and is no index: choose another folder")
    _prepare(report)
    with _beside(target) as workshop:
        report.stage("loading the checkpoint")
        # RAGatouille finds an index again only in a folder of the name that it was built under.
        name = target.resolve().name
        built, max_tokens = _build(workshop, name, checkpoint, documents, max_tokens, report)
        report.stage("writing")
        manifest = IndexManifest(
            collection=collection,
            checkpoint=checkpoint.name,
            checkpoint_revision=checkpoint.revision,
            checkpoint_digest=checkpoint.digest,
            max_tokens=max_tokens,
            documents=len(documents),
            files=digests(built),
        )
        write_manifest(built, manifest)
        _put(built, target, workshop)
    return Change(manifest, added=len(documents))


def add(target: Path, documents: Sequence[TextDocument], report: Report) -> Change:
    """Encodes documents and adds them; one whose id is in the index replaces that document.

    Raises IndexFolderError: the index is damaged or stale, or somebody else has changed it meanwhile.
    """
    manifest, checkpoint = _checked(target, report)
    _prepare(report)
    with _beside(target) as workshop:
        changed = _copy(target, workshop)
        before = read_ids(changed)
        replaced = [document.id for document in documents if document.id in before]
        report.stage("loading the checkpoint")
        with colbert_library.quiet():
            encoder = DocumentEncoder(colbert_library.load_model(checkpoint.folder, target), report.advance)
            report.stage("encoding", len(documents))
            if replaced:
                plaid_files.erase(changed, replaced)
            for first in range(0, len(documents), BLOCK_DOCUMENTS):
                block = documents[first : first + BLOCK_DOCUMENTS]
                vectors, lengths = encoder.encode_passages([document.text for document in block])
                plaid_files.append(changed, block, vectors, lengths)
        manifest = _finish(target, changed, workshop, manifest, report)
    return Change(manifest, added=len(documents) - len(replaced), replaced=len(replaced))


def delete(target: Path, ids: Sequence[str], report: Report) -> Change:
    """Takes documents out. Raises IndexFolderError; also where none of the ids is in the index, or nothing is left."""
    manifest, _ = _checked(target, report)
    known = read_ids(target)
    gone = [identifier for identifier in ids if identifier in known]
    if not gone:
        raise IndexFolderError(f"none of the {len(ids)} ids is in {target}")
    if len(gone) == len(known):
        raise IndexFolderError(f"nothing would be left in {target}: remove the folder instead")
    colbert_library.require()
    with _beside(target) as workshop:
        changed = _copy(target, workshop)
        report.stage("deleting")
        with colbert_library.quiet():
            plaid_files.erase(changed, gone)
        manifest = _finish(target, changed, workshop, manifest, report)
    return Change(manifest, deleted=len(gone), unknown=len(ids) - len(gone))


def prepare_extensions(report: Report) -> bool:
    """Compiles what searching needs; False where it was all there. Raises IndexFolderError."""
    colbert_library.require()
    lacking = extensions.missing()
    if not lacking:
        return False
    report.stage("compiling the search extensions (2 to 3 minutes, once)", len(lacking))
    with colbert_library.quiet():
        extensions.compile_missing(report.advance)
    return True


def _prepare(report: Report) -> None:
    prepare_extensions(report)
    with colbert_library.quiet():
        extensions.load()


def _checked(target: Path, report: Report) -> tuple[IndexManifest, Checkpoint]:
    """What is changed must be whole: its files get new digests at the end."""
    report.stage("checking the index")
    manifest = read_manifest(target)
    verify(target, manifest)
    return manifest, of_index(target, manifest)


def _build(
    workshop: Path,
    name: str,
    checkpoint: Checkpoint,
    documents: Sequence[TextDocument],
    max_tokens: int,
    report: Report,
) -> tuple[Path, int]:
    """The folder of a new PLAID index, and where its documents were cut."""
    with colbert_library.quiet():
        from colbert.indexing import collection_indexer
        from ragatouille import RAGPretrainedModel

        colbert_library.adapt(checkpoint.folder)
        # Everything that the library encodes goes through this name.
        original = collection_indexer.CollectionEncoder
        collection_indexer.CollectionEncoder = lambda config, model: DocumentEncoder(model, report.advance)
        try:
            rag = RAGPretrainedModel.from_pretrained(str(checkpoint.folder), index_root=str(workshop), verbose=0)
            max_tokens = max_tokens or rag.model.config.doc_maxlen
            report.stage("encoding", _sampled(len(documents)) + len(documents))
            rag.index(
                collection=[document.text for document in documents],
                document_ids=[document.id for document in documents],
                index_name=name,
                max_document_length=max_tokens,
                split_documents=False,
                # Otherwise its second attempt, with another k-means, begins with a pause of 20 s.
                overwrite_index="force_silent_overwrite",
            )
        except Exception as error:  # whatever the libraries below it raise
            raise IndexFolderError(
                f"RAGatouille could not build the index: {type(error).__name__}: {error}; it can't find centroids in "
                "fewer than a few hundred tokens"
            ) from error
        finally:
            collection_indexer.CollectionEncoder = original
    return workshop / "colbert" / "indexes" / name, max_tokens


def _sampled(documents: int) -> int:
    """How many documents are encoded first, to find the centroids (``CollectionIndexer._sample_pids``)."""
    return min(documents, 1 + int(16 * math.sqrt(120 * documents)))


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder on the same file system, gone at the end whatever happens."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise IndexFolderError(f"{target.parent} cannot be written to: {error.strerror}") from error
    with workshop as path:
        try:
            yield Path(path)
        except OSError as error:  # the disk is full, most of the time
            raise IndexFolderError(
                f"{target} stays as it was, what was to replace it could not be written: {error.strerror or error}; "
                f"make room in {target.parent} and do it again"
            ) from error


def _copy(target: Path, workshop: Path) -> Path:
    """A copy that shares the files with the original, since they are only ever replaced."""
    return Path(shutil.copytree(target, workshop / "changed", copy_function=_link))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _finish(target: Path, changed: Path, workshop: Path, before: IndexManifest, report: Report) -> IndexManifest:
    report.stage("writing")
    manifest = replace(before, documents=len(read_ids(changed)), files=digests(changed))
    (changed / MANIFEST_FILE).unlink()  # it may be the original's own file
    write_manifest(changed, manifest)
    if read_manifest(target) != before:
        raise IndexFolderError(f"{target} was changed by somebody else meanwhile: nothing was written, do it again")
    _put(changed, target, workshop)
    return manifest


def _put(finished: Path, target: Path, workshop: Path) -> None:
    """Puts an index in its place; the old one goes with the workshop."""
    old = workshop / "old"
    try:
        if target.exists():
            target.rename(old)
        finished.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
