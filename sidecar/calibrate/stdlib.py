"""The built-in collection: the documentation of the Python standard library, read by introspection.

Every calibration needs a corpus with questions and judgements. This one comes with the interpreter: nothing
is downloaded, and it is real technical prose. A child process (`stdlib_introspection.py`) imports the library and
writes one JSON line per documented object; the result is cached per interpreter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

_LOG = logging.getLogger(__name__)
_INTROSPECTION = Path(__file__).with_name("stdlib_introspection.py")
_QUESTIONS_FILE = Path(__file__).with_name("stdlib_questions.jsonl")


@dataclass(frozen=True, slots=True)
class StdlibDocument:
    """One documented object of the standard library.

    `id` is its best public name, `text` that name with the signature on the first line and then the
    docstring, `aliases` the other public names of the same object, sorted.
    """

    id: str
    text: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What a programmer would ask, with the public names that answer it (all equally right)."""

    id: str
    text: str
    answers: tuple[str, ...]


def documents(cache_dir: Path | None = None, progress: bool = True) -> tuple[StdlibDocument, ...]:
    """All documents of the running interpreter, sorted by id; built on first use (seconds), then cached.

    `cache_dir` defaults to `$MILLIRANK_CACHE_DIR`, `$XDG_CACHE_HOME/millirank` or `~/.cache/millirank`, the
    first that is set. `progress` shows a bar on standard error while building. A damaged cache is rebuilt.
    Raises OSError when the cache directory cannot be written, RuntimeError when the build fails.
    """
    directory = cache_dir if cache_dir is not None else default_cache_dir()
    path = directory / _cache_name()
    try:
        return _read_cache(path)
    except OSError as error:
        _LOG.debug("no documentation cache yet: %s", error)
    except ValueError as error:
        _LOG.warning("rebuilding the damaged documentation cache %s: %s", path, error)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=directory)
    except OSError as error:
        raise OSError(f"cannot write to cache directory {directory} ({error}); set MILLIRANK_CACHE_DIR") from error
    os.close(handle)
    unfinished = Path(name)
    try:
        _build_in_child(unfinished, progress)
        built = _read_cache(unfinished)
        unfinished.replace(path)  # atomic: a reader sees the old file or the whole new one
    finally:
        unfinished.unlink(missing_ok=True)
    return built


def questions() -> tuple[Question, ...]:
    """The questions that come with the collection, in file order. Raises ValueError on a malformed line."""
    found: dict[str, Question] = {}
    for number, line in enumerate(_QUESTIONS_FILE.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{_QUESTIONS_FILE.name}, line {number}"
        try:
            row = json.loads(line)
            question = Question(row["id"], row["question"], tuple(row["answers"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{where}: expected {{"id", "question", "answers"}}, got {error!r}') from error
        if not question.answers or question.id in found:
            raise ValueError(f"{where}: question {question.id!r} is repeated or has no answers")
        found[question.id] = question
    return tuple(found.values())


def qrels(documents: Iterable[StdlibDocument], questions: Iterable[Question]) -> dict[str, dict[str, int]]:
    """Relevance judgements: question id -> document id -> 1, matching answers by id or alias.

    An answer that this Python version does not have is left out as long as the question has another one.
    Raises ValueError naming the question and its answers when none of them is in the collection.
    """
    known = {name: document.id for document in documents for name in (document.id, *document.aliases)}
    judged: dict[str, dict[str, int]] = {}
    for question in questions:
        judged[question.id] = {known[answer]: 1 for answer in question.answers if answer in known}
        if not judged[question.id]:
            wanted = ", ".join(question.answers)
            raise ValueError(
                f"question {question.id} ({question.text!r}): not in the collection of "
                f"Python {sys.version_info.major}.{sys.version_info.minor}: {wanted}"
            )
    return judged


def default_cache_dir() -> Path:
    """Where caches go: `$MILLIRANK_CACHE_DIR`, `$XDG_CACHE_HOME/millirank` or `~/.cache/millirank`; for a user without
    a home, as a container may have, `/var/cache/millirank`."""
    if own := os.environ.get("MILLIRANK_CACHE_DIR"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "millirank"
    try:
        return Path.home() / ".cache" / "millirank"
    except RuntimeError:
        return Path("/var/cache/millirank")


def _cache_name() -> str:
    """One cache per interpreter and builder: editing it or changing the installation renames it."""
    builder = hashlib.sha256(_INTROSPECTION.read_bytes())
    builder.update(f"{sys.version}\n{sys.base_prefix}".encode())
    return f"stdlib-{sys.implementation.cache_tag}-{builder.hexdigest()[:16]}.jsonl"


def _read_cache(path: Path) -> tuple[StdlibDocument, ...]:
    """Raises OSError when there is none to read, ValueError when the content is not what was written."""
    header, _, body = path.read_bytes().partition(b"\n")
    try:
        expected = json.loads(header)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"unreadable header: {error!r}") from error
    if hashlib.sha256(body).hexdigest() != expected:
        raise ValueError("the content does not match its digest")
    rows = (json.loads(line) for line in body.splitlines())
    return tuple(StdlibDocument(row["id"], row["text"], tuple(row["aliases"])) for row in rows)


def _build_in_child(target: Path, progress: bool) -> None:
    # -P and -S: neither our own directory nor site-packages may shadow a library module. A fixed hash seed
    # fixes the order of sets in reprs; no TERM, because readline prints escape codes when it is imported.
    kept = {k: v for k, v in os.environ.items() if k == "PYTHONHOME" or not k.startswith(("PYTHON", "TERM"))}
    command = [sys.executable, "-P", "-S", "-W", "ignore", str(_INTROSPECTION), str(target)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
        subprocess.Popen(  # noqa: S603 - our own interpreter on our own script
            command,
            env=kept | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
        ) as child,
    ):
        task = bar.add_task("Reading the standard library's documentation", total=None)
        try:
            for line in child.stdout or ():
                done, total = line.split()
                bar.update(task, completed=int(done), total=int(total))
        except BaseException:
            child.kill()  # Ctrl-C included: leaving the `with` block waits for the child
            raise
        child.wait()
        complaints.seek(0)
        said = complaints.read().strip()
        if child.returncode != 0:
            raise RuntimeError(f"reading the standard library failed ({child.returncode}): {said[-2000:]}")
        _LOG.debug("built the documentation collection; %s", said)
