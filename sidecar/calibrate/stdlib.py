"""The built-in collection: the documentation of the Python standard library, read by introspection.

Every calibration needs a corpus with questions and judgements. This one comes with the interpreter: nothing
is downloaded, and it is real technical prose. A child process imports the library (hundreds of modules must
not pollute ours) and writes one JSON line per documented object; the result is cached per interpreter.

This file is also the script that the child runs, so it imports only the standard library at the top.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

_LOG = logging.getLogger(__name__)
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
    directory = cache_dir if cache_dir is not None else _default_cache_dir()
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
        raise OSError(
            f"cannot write to cache directory {directory} ({error}); set MILLIRANK_CACHE_DIR"
        ) from error
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


# --- cache ----------------------------------------------------------------------------------------


def _default_cache_dir() -> Path:
    if own := os.environ.get("MILLIRANK_CACHE_DIR"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "millirank"
    return Path.home() / ".cache" / "millirank"


def _cache_name() -> str:
    """One cache per interpreter and builder: editing this file or changing the installation renames it."""
    builder = hashlib.sha256(Path(__file__).read_bytes())
    builder.update(f"{sys.version}\n{sys.base_prefix}".encode())
    return f"stdlib-{sys.implementation.cache_tag}-{builder.hexdigest()[:16]}.jsonl"


def _write_cache(path: Path, built: Iterable[StdlibDocument]) -> None:
    """A header line with the digest of the rest, then one document a line."""
    body = "".join(json.dumps(asdict(document), ensure_ascii=True) + "\n" for document in built)
    header = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest()})
    path.write_text(f"{header}\n{body}", encoding="ascii", newline="\n")


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


# --- the child process ----------------------------------------------------------------------------


def _build_in_child(target: Path, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    # -P and -S: neither our own directory nor site-packages may shadow a library module. A fixed hash seed
    # fixes the order of sets in reprs; no TERM, because readline prints escape codes when it is imported.
    kept = {k: v for k, v in os.environ.items() if k == "PYTHONHOME" or not k.startswith(("PYTHON", "TERM"))}
    command = [sys.executable, "-P", "-S", "-W", "ignore", __file__, str(target)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
        subprocess.Popen(  # noqa: S603 - our own interpreter on this very file
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


def _main(target: Path) -> None:
    """What the child does: build, report `done total` lines on the real standard output, write `target`."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as report:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # an imported module may print
        _write_cache(target, _collect(report))


# --- introspection --------------------------------------------------------------------------------

# Jokes, applications, examples, tests, and modules that only implement others: `os` and `os.path` are the
# public faces of the system and path modules.
_SKIPPED_ROOTS = frozenset(
    {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "pydoc_data", "test"}
    | {"ntpath", "posixpath", "genericpath", "nt", "posix", "nturl2path"}
    | {"sre_compile", "sre_constants", "sre_parse", "xxlimited", "xxlimited_35", "xxsubtype"}
)
_SKIPPED_PARTS = frozenset({"test", "tests"})
_FLAT_PACKAGES = frozenset({"encodings"})  # one undocumented module per codec
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_MAX_DEFAULT_CHARACTERS = 60
_GENERATED_DOC = re.compile(r"\w+\(.*\)|Alias for field number \d+|An enumeration\.")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_WRAPPERS = (staticmethod, classmethod, types.ClassMethodDescriptorType)
_UNBOUND = (*_WRAPPERS, type, types.BuiltinFunctionType)  # their first parameter is not `self`


@dataclass(frozen=True, slots=True, order=True)
class _Rank:
    """How good a public name is; the smallest names the document."""

    imported: bool  # False for builtins, which need no import
    undeclared: bool  # neither `__all__` nor `__module__` says that the module offers it
    renamed: int  # 0: the object's own name, 1: contains it, 2: another name; a member adds its class's
    depth: int
    length: int
    name: str


@dataclass(frozen=True, slots=True)
class _Sighting:
    """An object under one public name; `bound` when its first parameter is `self`."""

    rank: _Rank
    value: object
    bound: bool


@dataclass(slots=True)
class _Entry:
    """One object (or one undocumented class: its methods may be documented) and where it was found."""

    identity: object  # keeps the object alive, so that no other gets its id()
    doc: str
    sightings: dict[str, _Sighting] = field(default_factory=dict)

    def document(self) -> StdlibDocument:
        best = min(self.sightings.values(), key=lambda sighting: sighting.rank)
        name = best.rank.name
        aliases = tuple(sorted(self.sightings.keys() - {name}))
        return StdlibDocument(name, f"{name}{_signature(best)}\n{self.doc}", aliases)


class _Elided:
    """Shown instead of a default value that describes this machine."""

    def __repr__(self) -> str:
        return "..."


class _Collector:
    """Finds every documented public object of the modules that it is shown, then its members."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def add_module(self, name: str, module: types.ModuleType) -> None:
        package, _, last = name.rpartition(".")
        if getattr(sys.modules.get(package), last, module) is not module:
            return  # hidden: `unittest.main` means the class of that name
        self._add(name, module, imported=True, undeclared=False)
        exported = getattr(module, "__all__", None)
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or isinstance(value, types.ModuleType):
                continue
            home = getattr(value, "__module__", None)
            home = home if isinstance(home, str) else ""
            if exported is not None:
                declared = public = attribute in exported
            else:
                declared = name == "builtins" or home == name or home.startswith(f"{name}.")
                public = declared or _is_reexported(home, name)
            if public and name == "builtins":
                self._add(attribute, value, imported=False, undeclared=False)
            elif public:
                self._add(f"{name}.{attribute}", value, imported=True, undeclared=not declared)

    def documents(self) -> list[StdlibDocument]:
        """Everything seen so far and its members, sorted by id."""
        classes = [(e.identity, e) for e in self._entries.values() if isinstance(e.identity, type)]
        public = frozenset(cls for cls, _ in classes)
        for cls, entry in classes:
            for sighting in list(entry.sightings.values()):
                self._add_members(cls, sighting.rank, public)
        found = (entry.document() for entry in self._entries.values() if entry.doc)
        return sorted(found, key=lambda document: document.id)

    def _add_members(self, cls: type, owner: _Rank, public: frozenset[type]) -> None:
        for attribute, raw in _documented_members(cls, public):
            rank = self._add(
                f"{owner.name}.{attribute}", raw, owner.imported, owner.undeclared, cls, owner.renamed
            )
            if isinstance(raw, type):
                self._add_members(raw, rank, public)

    def _add(
        self, name: str, raw: Any, imported: bool, undeclared: bool, cls: type | None = None, renamed: int = 0
    ) -> _Rank:
        value = raw.__get__(None, cls) if cls is not None and isinstance(raw, _WRAPPERS) else raw
        bound = cls is not None and callable(raw) and not isinstance(raw, _UNBOUND)
        own = str(getattr(value, "__name__", "")).casefold()
        last = name.rpartition(".")[2].casefold()
        renamed += 0 if own == last else 1 if own and own in last else 2
        rank = _Rank(imported, undeclared, renamed, name.count("."), len(name), name)
        doc = _own_doc(raw)
        if doc or isinstance(raw, type):
            identity = _identity(raw)
            entry = self._entries.setdefault(id(identity), _Entry(identity, doc))
            entry.sightings[name] = _Sighting(rank, value, bound)
        return rank


def _collect(report: IO[str]) -> list[StdlibDocument]:
    collector = _Collector()
    for name, module in _import_modules(report):
        collector.add_module(name, module)
    return collector.documents()


def _import_modules(report: IO[str]) -> Iterator[tuple[str, types.ModuleType]]:
    """Every public module that can be imported here; what cannot is named on standard error."""
    names = sorted(n for n in sys.stdlib_module_names if not n.startswith("_") and n not in _SKIPPED_ROOTS)
    names.append("os.path")
    for done, name in enumerate(names, start=1):  # grows while packages are found
        report.write(f"{done} {len(names)}\n")
        report.flush()
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - modules of other platforms raise anything
            sys.stderr.write(f"left out {name}: {error!r}\n")
            continue
        yield name, module
        if name not in _FLAT_PACKAGES:
            inside = sorted(found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ())))
            names += [f"{name}.{n}" for n in inside if not n.startswith("_") and n not in _SKIPPED_PARTS]


def _is_reexported(home: str, module: str) -> bool:
    """Whether `home`, an object's `__module__`, is private, so that `module` is a public place of the object.

    `_sqlite3` may be re-exported anywhere, `pathlib._local` only by pathlib: elsewhere it is a mere import.
    """
    parts = home.split(".")
    private = [position for position, part in enumerate(parts) if part.startswith("_")]
    if private:
        return module.split(".")[: private[0]] == parts[: private[0]]
    return not home or home in _SKIPPED_ROOTS


def _documented_members(cls: type, public: frozenset[type]) -> Iterator[tuple[str, Any]]:
    """The class's own public members and those of its private bases, as stored in `vars()`.

    Members of public bases are documented there; an override that only repeats their docstring is left out.
    """
    seen: set[str] = set()
    bases = [base for base in cls.__mro__[1:] if base in public]
    for owner in cls.__mro__:
        documented_there = owner is not cls and any(owner in base.__mro__ for base in bases)
        for attribute, raw in vars(owner).items():
            if attribute.startswith("_") or attribute in seen:
                continue
            seen.add(attribute)
            if documented_there:
                continue
            if isinstance(raw, type) and raw.__qualname__ != f"{owner.__qualname__}.{attribute}":
                continue  # a class kept as a setting, such as TestCase.failureException
            doc = _own_doc(raw)
            inherited = [_own_doc(vars(base)[attribute]) for base in bases if attribute in vars(base)]
            if doc and doc not in inherited:
                yield attribute, raw


def _own_doc(value: object) -> str:
    """The cleaned docstring of the object itself, "" when it has none or only shows that of its type."""
    value = _identity(value)
    doc = getattr(value, "__doc__", None)
    if not isinstance(doc, str):
        return ""
    if not isinstance(value, (type, types.ModuleType)) and doc == type(value).__doc__:
        return ""
    doc = inspect.cleandoc(doc).strip()
    return "" if _GENERATED_DOC.fullmatch(doc) else doc


def _identity(value: object) -> object:
    """What stays the same when a function is reached through a class, an instance or a wrapper."""
    if isinstance(value, types.BuiltinMethodType):
        owner = value.__self__
        if owner is None or isinstance(owner, (type, types.ModuleType)):
            return value
        return getattr(type(owner), value.__name__, value)  # random.random is bound to a hidden instance
    return getattr(value, "__func__", value)


def _signature(sighting: _Sighting) -> str:
    """`(parameters) -> result` as a caller sees it (no `self`), "" when there is none to be had."""
    value: Any = sighting.value
    if not (inspect.isroutine(value) or isinstance(value, (type, functools._lru_cache_wrapper))):
        return ""
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError, NameError, AttributeError):  # C code without one, unresolvable annotations
        return ""
    parameters = list(signature.parameters.values())
    if sighting.bound and parameters and parameters[0].kind in _POSITIONAL:
        del parameters[0]
    shown = [p.replace(default=_Elided()) if _is_local(repr(p.default)) else p for p in parameters]
    return _ADDRESS.sub("", str(signature.replace(parameters=shown)))


def _is_local(default: str) -> bool:
    """Whether the repr of a default value is the state of this machine rather than documentation."""
    return len(default) > _MAX_DEFAULT_CHARACTERS or sys.base_prefix in default or sys.executable in default


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
