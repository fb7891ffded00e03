"""A small collection for tests, made by a rule, so that it is plain what has to be found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sidecar.calibrate.collection import Collection, Document, Sources, checked

SUBJECTS = ("bread", "timer", "socket", "thread", "river", "violin", "glacier", "comet", "lantern", "orchard")
SUBJECTS += ("pigeon", "saddle", "tunnel", "velvet", "walnut")
ASPECTS = ["history", "repair", "price", "colour"]


def collection(
    grades: Mapping[str, Mapping[str, int]] | None = None, ignored: Mapping[str, set[str]] | None = None
) -> Collection:
    """60 documents, each about one aspect of one subject; one query for each, whose best document is the exact one."""
    names = [f"{subject}-{aspect}" for subject in SUBJECTS for aspect in ASPECTS]
    documents = [
        Document(name, "On the {1} of the {0}: everything about {0} {1}.".format(*name.split("-"))) for name in names
    ]
    exact = {
        f"q-{name}": {other: 2 if other == name else 1 for other in names if other.split("-")[0] == name.split("-")[0]}
        for name in names
    }
    return checked(
        "subjects",
        documents,
        {f"q-{name}": name.replace("-", " ") for name in names},
        grades or exact,
        labels="made",
        sources=Sources("documents", "queries", "grades", "ignored"),
        ignored=ignored,
    )


def whole_collection(folder: Path, own: Collection) -> Path:
    """A run file that ranks every document for every query."""
    file = folder / "all.trec"
    file.write_text(
        "".join(
            f"{query} Q0 {document.id} {rank} {100 - rank} all\n"
            for query in own.queries
            for rank, document in enumerate(own.documents)
        )
    )
    return file
