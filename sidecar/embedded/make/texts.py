"""Training texts: only text whose terms are clear, and never a collection that measures anything.

Three sources, all found on the machine that makes the models:

- Debian package descriptions (the apt lists `*Translation-en*`);
- docstrings of installed Python packages under MIT, BSD, Apache, ISC or Zlib terms, read with `ast`, not imported;
- the bodies of those packages' functions, as documents for code search.

The standard library is left out on purpose: its documentation is the collection that measures the demo.
A pair is a heading (synopsis, summary line) and a body from which the heading has been taken away, so that a query
made from the heading cannot be found by copying.
"""

from __future__ import annotations

import ast
import glob
import inspect
import json
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

APT_LISTS = "/var/lib/apt/lists/*Translation-en*"
APT_HELPER = "/usr/lib/apt/apt-helper"
APT_FIX = "run `apt-get update -o Acquire::Languages=en` (Debian or Ubuntu) and try again"
MIN_BODY_CHARACTERS = 80
MAX_BODY_CHARACTERS = 1200
KEEP_HEADING = 0.1  # share of documents that keep their heading: real collections have titles too
PERMISSIVE = re.compile(r"\b(mit|bsd|0bsd|apache|isc|zlib)\b", re.IGNORECASE)
NOT_PERMISSIVE = re.compile(r"\b(a?l?gpl|mpl|psf|cddl|epl|eupl|cc-by|proprietary|gnu|mozilla)\b", re.IGNORECASE)
SKIPPED_FOLDERS = re.compile(r"(^|/)(tests?|testing|_vendor|vendor|_vendored|externals?|third_party|extern)/")


class MissingTextsError(RuntimeError):
    """A source of training text is not on this machine; the message names the fix."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A heading and the body it belongs to; `source` is `debian`, `docstring` or `code`."""

    source: str
    heading: str
    body: str


def collect(limits: dict[str, int], seed: int) -> list[Pair]:
    """Up to `limits[source]` pairs of each source, shuffled with `seed`.

    Raises MissingTextsError when there are no Debian descriptions, because the other two sources alone are about
    programming only.
    """
    rng = random.Random(seed)
    docstrings, code = _python_pairs()
    found = {"debian": list(_debian_pairs()), "docstring": docstrings, "code": code}
    pairs: list[Pair] = []
    for source, limit in limits.items():
        unique = list({pair.body[:200]: pair for pair in found[source]}.values())
        rng.shuffle(unique)
        pairs += unique[:limit]
    rng.shuffle(pairs)
    return [_with_heading(pair) if rng.random() < KEEP_HEADING else pair for pair in pairs]


def _with_heading(pair: Pair) -> Pair:
    return Pair(pair.source, pair.heading, f"{pair.heading}. {pair.body}")


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _debian_pairs() -> Iterator[Pair]:
    """Synopsis and long description of every package in the apt lists.

    Raises MissingTextsError when there is no list or no tool to unpack it.
    """
    lists = sorted(glob.glob(APT_LISTS))
    if not lists:
        raise MissingTextsError(f"no package descriptions at {APT_LISTS}: {APT_FIX}")
    for path in lists:
        yield from _parse_descriptions(_read_list(path))


def _read_list(path: str) -> str:
    if Path(path).suffix not in {".lz4", ".xz", ".gz", ".bz2", ".zst"}:
        return Path(path).read_text("utf-8", "replace")
    # apt unpacks whatever it packed itself; the Python standard library has no lz4, its default.
    if not Path(APT_HELPER).exists():
        raise MissingTextsError(f"{path} is compressed and {APT_HELPER} is missing: install the package apt")
    command = [APT_HELPER, "cat-file", path]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - apt's own tool on apt's own file
    if done.returncode != 0:
        detail = done.stderr.decode("utf-8", "replace").strip()
        raise MissingTextsError(f"{APT_HELPER} cannot read {path}: {detail}; {APT_FIX}")
    return done.stdout.decode("utf-8", "replace")


def _parse_descriptions(text: str) -> Iterator[Pair]:
    for stanza in text.split("\n\n"):
        match = re.search(r"^Description-en: (.+)\n((?: .*\n?)+)", stanza, re.MULTILINE)
        if match is None:
            continue
        # Families of packages share their first paragraphs and end with one of their own ("This package contains ...").
        body = _squeeze(re.sub(r"^ \.$", "", match[2], flags=re.MULTILINE))[:MAX_BODY_CHARACTERS]
        if len(body) >= MIN_BODY_CHARACTERS:
            yield Pair("debian", match[1].strip(), body)


def permissive_distributions() -> list[metadata.Distribution]:
    """Installed distributions whose metadata state permissive terms and nothing else, by name."""
    chosen = {}
    for distribution in metadata.distributions():
        fields = distribution.metadata
        stated = fields.get_all("License-Expression") or []
        # Some put the whole text there; what follows its title names the terms of others too.
        stated += [text[:200] for text in fields.get_all("License") or []]
        stated += [text for text in fields.get_all("Classifier") or [] if text.startswith("License ::")]
        terms = " ".join(stated)
        if PERMISSIVE.search(terms) and not NOT_PERMISSIVE.search(terms):
            chosen[fields["Name"]] = distribution
    return [chosen[name] for name in sorted(chosen)]


def _python_pairs() -> tuple[list[Pair], list[Pair]]:
    """Docstring pairs and code pairs of the permissive distributions."""
    docstrings: list[Pair] = []
    code: list[Pair] = []
    for distribution in permissive_distributions():
        for file in distribution.files or []:
            name = str(file)
            if not name.endswith(".py") or SKIPPED_FOLDERS.search(name) or name.startswith(("..", "millirank")):
                continue
            path = Path(str(distribution.locate_file(file)))
            try:
                source = path.read_text("utf-8")
                tree = ast.parse(source)
            except (OSError, UnicodeDecodeError, SyntaxError, RecursionError):
                continue  # templates and files for other Python versions; there are thousands of good ones
            _collect_definitions(tree, source, docstrings, code)
    return docstrings, code


def _collect_definitions(tree: ast.Module, source: str, docstrings: list[Pair], code: list[Pair]) -> None:
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        raw = ast.get_docstring(node, clean=False)
        if raw is None or (node.name.startswith("_") and not node.name.startswith("__init__")):
            continue
        heading, _, rest = inspect.cleandoc(raw).partition("\n\n")
        heading, rest = _squeeze(heading), _squeeze(re.sub(r"[-=~*`]{3,}", " ", rest))
        if not 12 <= len(heading) <= 300:
            continue
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", node.name).replace("_", " ").strip()
        if len(rest) >= MIN_BODY_CHARACTERS:
            docstrings.append(Pair("docstring", heading, f"{name}: {rest}"[:MAX_BODY_CHARACTERS]))
        if isinstance(node, ast.ClassDef) or node.end_lineno is None:
            continue
        first = node.body[1].lineno if len(node.body) > 1 else node.end_lineno
        head = "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])
        tail = "\n".join(lines[first - 1 : node.end_lineno])
        body = _squeeze(f"{head}\n{tail}")
        if len(tail) >= MIN_BODY_CHARACTERS:
            code.append(Pair("code", heading, body[:MAX_BODY_CHARACTERS]))


def load_or_collect(path: Path, limits: dict[str, int], seed: int) -> list[Pair]:
    """`collect`, kept as JSON lines at `path`: reading every installed package takes minutes."""
    if path.exists():
        return [Pair(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    pairs = collect(limits, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), "utf-8")
    partial.rename(path)
    return pairs
