"""Writes docs/configuration.md from the settings themselves: `make docs`.

python docs/make_configuration.py > docs/configuration.md
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from sidecar.reranker_settings import KINDS, Section, kind_tag
from sidecar.settings import Settings

_INTRODUCTION = """# Configuration

Made from the settings themselves by `make docs`; do not edit.

Settings come from a TOML file (`millirank serve --config FILE`, or `$MILLIRANK_CONFIG`) and from variables, which win.
A variable is `MILLIRANK_` and the setting's name in capitals, with `__` for each dot:
`MILLIRANK_LISTEN__TCP=127.0.0.1:6000`; lists and tables are written as JSON. A name that does not exist is
refused with the nearest one that does. `millirank serve --print-config` prints what is in force.
"""


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, *_section("General", Settings, ""), "## Rerankers\n"]
    parts.append(
        "One table `[rerankers.NAME]` for each; NAME is what answers, logs and profiles call it. `strategy` and "
        "`engine` say which of these it is.\n"
    )
    for kind in KINDS:
        tag = (kind_tag(kind) or "").replace("/", "`, engine `")
        parts += _section(f"strategy `{tag}`", kind, "rerankers.NAME.", level=3)
    return "\n".join(parts)


def _section(title: str, model: type[Section], prefix: str, level: int = 2) -> Iterator[str]:
    """A heading, what the section is for, its settings as a table, and the sections within it."""
    rows, inner = [], []
    for name, field in model.model_fields.items():
        if name == "rerankers":
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            inner.append((name, kind))
        elif name not in ("strategy", "engine"):
            rows.append(f"| `{prefix}{name}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |")
    yield f"{'#' * level} {title}\n"
    yield f"{_cell(inspect.getdoc(model) or '')}\n"
    if rows:
        yield "\n".join(["| setting | type | default | |", "|---|---|---|---|", *rows, ""])
    for name, kind in inner:
        yield from _section(f"{prefix}{name}", kind, f"{prefix}{name}.", level)


def _type(field: FieldInfo) -> str:
    """The type and its bounds, in words."""
    bounds = []
    for rule in field.metadata:
        for word, key in (("at least", "ge"), ("more than", "gt"), ("at most", "le"), ("less than", "lt")):
            bound = getattr(rule, key, None)
            if bound is not None:
                bounds.append(f"{word} {bound:,}")
    return ", ".join([_name(field.annotation), *bounds])


def _name(kind: Any) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    origin = get_origin(kind)
    if kind in names:
        return names[kind]
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(f"`{value.value}`" for value in kind)
    if origin in (Union, UnionType):
        return " or ".join(_name(part) for part in get_args(kind) if part is not NoneType)
    if origin is tuple:
        return f"list of {_name(get_args(kind)[0])}"
    if origin is dict:
        return "table"
    raise TypeError(f"no words for {kind}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be set"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    """One line, with what Markdown would take for the end of a cell written out."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
