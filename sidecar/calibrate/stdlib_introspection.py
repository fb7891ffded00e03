"""Reads the standard library's documentation by introspection; run as a script, in a process of its own.

It imports hundreds of modules, which must not pollute ours, and nothing but the standard library itself: neither
site-packages nor this package are on its path. `sidecar.calibrate.stdlib` starts it and reads what it writes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

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


class Row(NamedTuple):
    """One documented object: its best public name, its text, its other public names."""

    id: str
    text: str
    aliases: tuple[str, ...]


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

    def document(self) -> Row:
        best = min(self.sightings.values(), key=lambda sighting: sighting.rank)
        name = best.rank.name
        aliases = tuple(sorted(self.sightings.keys() - {name}))
        return Row(name, f"{name}{_signature(best)}\n{self.doc}", aliases)


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

    def documents(self) -> list[Row]:
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
            rank = self._add(f"{owner.name}.{attribute}", raw, owner.imported, owner.undeclared, cls, owner.renamed)
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


def _collect(report: IO[str]) -> list[Row]:
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


def _write(path: Path, built: Iterable[Row]) -> None:
    """A header line with the digest of the rest, then one document a line."""
    body = "".join(json.dumps(document._asdict(), ensure_ascii=True) + "\n" for document in built)
    header = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest()})
    path.write_text(f"{header}\n{body}", encoding="ascii", newline="\n")


def _main(target: Path) -> None:
    """What the child does: build, report `done total` lines on the real standard output, write `target`."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as report:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # an imported module may print
        _write(target, _collect(report))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
