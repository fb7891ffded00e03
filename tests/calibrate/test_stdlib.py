"""The built-in collection: what it holds, that it is reproducible, and that its cache is safe."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sidecar.calibrate import stdlib
from sidecar.calibrate.stdlib import Question, StdlibDocument

# Right answers that older versions do not have; everything else must exist on every supported version.
NEWER_ANSWERS = {"itertools.batched": (3, 12), "datetime.date.strptime": (3, 14)}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def collection(cache_dir: Path) -> tuple[StdlibDocument, ...]:
    return stdlib.documents(cache_dir, progress=False)


@pytest.fixture(scope="module")
def by_id(collection: tuple[StdlibDocument, ...]) -> dict[str, StdlibDocument]:
    return {document.id: document for document in collection}


# --- the documents ---


def test_collection_has_thousands_of_documents(collection: tuple[StdlibDocument, ...]) -> None:
    """The whole library is there: over 5,000 documents even where tkinter is not installed."""
    assert len(collection) > 5_000


def test_every_public_name_belongs_to_one_document(collection: tuple[StdlibDocument, ...]) -> None:
    """Ids and aliases together never repeat, so an answer cannot mean two documents."""
    names = Counter(name for document in collection for name in (document.id, *document.aliases))
    assert [name for name, count in names.items() if count > 1] == []


def test_documents_come_in_the_order_of_their_ids(collection: tuple[StdlibDocument, ...]) -> None:
    """The order is that of the ids, whatever order the library was imported in."""
    ids = [document.id for document in collection]
    assert ids == sorted(ids)


def test_no_private_name_is_documented(collection: tuple[StdlibDocument, ...]) -> None:
    """No part of an id or alias starts with an underscore."""
    names = [name for document in collection for name in (document.id, *document.aliases)]
    assert [name for name in names if any(part.startswith("_") for part in name.split("."))] == []


@pytest.mark.parametrize("module", ["antigravity", "this", "idlelib", "turtledemo", "test", "posixpath", "ntpath"])
def test_unwanted_modules_are_left_out(by_id: dict[str, StdlibDocument], module: str) -> None:
    """Jokes, applications, tests and implementations of other modules give no documents."""
    assert [name for name in by_id if name == module or name.startswith(f"{module}.")] == []


@pytest.mark.parametrize(
    ("name", "first_line"),
    [
        ("threading.Timer", "threading.Timer(interval, function, args=None, kwargs=None)"),
        ("collections.Counter.most_common", "collections.Counter.most_common(n=None)"),
        ("os.path.relpath", "os.path.relpath(path, start=None)"),
        ("str.split", "str.split(sep=None, maxsplit=-1)"),
        ("dict.fromkeys", "dict.fromkeys(iterable, value=None, /)"),
        ("pathlib.PurePath.stem", "pathlib.PurePath.stem"),
        ("bisect", "bisect"),
    ],
)
def test_first_line_is_name_and_signature(by_id: dict[str, StdlibDocument], name: str, first_line: str) -> None:
    """Functions, methods (as called: no self or cls), properties and modules start with their public name."""
    head, _, docstring = by_id[name].text.partition("\n")
    assert head == first_line
    assert docstring == docstring.strip() != ""


@pytest.mark.parametrize(
    ("best", "alias"),
    [
        ("open", "io.open"),
        ("OSError", "IOError"),
        ("OSError.errno", "IOError.errno"),
        ("asyncio.Queue", "asyncio.queues.Queue"),
        ("bisect.insort_right", "bisect.insort"),
        ("random.randint", "random.Random.randint"),
        ("random.random", "random.Random.random"),
        ("ipaddress.IPv4Network.subnets", "ipaddress.IPv6Network.subnets"),
    ],
)
def test_one_object_under_several_names_is_one_document(
    by_id: dict[str, StdlibDocument], best: str, alias: str
) -> None:
    """The best public name is the id, the others are aliases without documents of their own."""
    assert alias in by_id[best].aliases
    assert alias not in by_id


def test_inherited_method_is_not_repeated(by_id: dict[str, StdlibDocument]) -> None:
    """A method of a public base is documented there only."""
    assert "datetime.date.weekday" in by_id
    assert "datetime.datetime.weekday" not in by_id


def test_no_text_shows_a_memory_address_or_this_installation(collection: tuple[StdlibDocument, ...]) -> None:
    """First lines hold nothing that differs between runs or machines."""
    heads = [document.text.partition("\n")[0] for document in collection]
    assert [head for head in heads if " at 0x" in head or sys.executable in head] == []


# --- the build and its cache ---


def test_two_builds_are_identical(
    collection: tuple[StdlibDocument, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Working directory, home, hash seed and a shadowing module on PYTHONPATH change nothing."""
    (tmp_path / "bisect.py").write_text('"""Not the library."""\n')
    monkeypatch.chdir(tmp_path)
    for name, value in (("HOME", str(tmp_path)), ("PYTHONHASHSEED", "7"), ("PYTHONPATH", str(tmp_path))):
        monkeypatch.setenv(name, value)
    assert stdlib.documents(tmp_path / "other", progress=False) == collection


def test_building_imports_nothing_here(cache_dir: Path, collection: tuple[StdlibDocument, ...]) -> None:
    """The library is imported in a child: our process does not gain its modules, cached or not."""
    script = (
        "import sys; from pathlib import Path; from sidecar.calibrate import stdlib;"
        "stdlib.documents(Path(sys.argv[1]), progress=False);"
        "print(sorted({'tkinter', 'turtle', 'ftplib', 'xmlrpc.server'} & set(sys.modules)))"
    )
    for directory in (cache_dir, cache_dir / "fresh"):
        shown = subprocess.run(
            [sys.executable, "-c", script, str(directory)], capture_output=True, text=True, check=True
        )
        assert shown.stdout == "[]\n"


def test_second_call_reads_the_cache(
    cache_dir: Path, collection: tuple[StdlibDocument, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a good cache no child is started: an interpreter that cannot run is not noticed."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert stdlib.documents(cache_dir, progress=False) == collection


@pytest.mark.parametrize("damage", ["truncated", "empty", "edited", "binary"])
def test_damaged_cache_is_rebuilt(
    cache_dir: Path, collection: tuple[StdlibDocument, ...], tmp_path: Path, damage: str
) -> None:
    """Whatever happened to the file, the documents are right and the file is good again afterwards."""
    (good,) = cache_dir.glob("*.jsonl")
    content = good.read_bytes()
    broken = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "edited": content.replace(b"threading.Timer", b"threading.Later"),
        "binary": os.urandom(1000),
    }[damage]
    (tmp_path / good.name).write_bytes(broken)
    assert stdlib.documents(tmp_path, progress=False) == collection
    assert (tmp_path / good.name).read_bytes() == content


def test_a_user_without_a_home_has_a_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a user whom the system does not know; the sidecar looks there for models, and starts."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("MILLIRANK_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert stdlib.default_cache_dir() == Path("/var/cache/millirank")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MILLIRANK_CACHE_DIR": "own", "XDG_CACHE_HOME": "xdg", "HOME": "home"}, "own"),
        ({"XDG_CACHE_HOME": "xdg", "HOME": "home"}, "xdg/millirank"),
        ({"HOME": "home"}, "home/.cache/millirank"),
    ],
)
def test_default_cache_directory(
    cache_dir: Path,
    collection: tuple[StdlibDocument, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    expected: str,
) -> None:
    """MILLIRANK_CACHE_DIR, then XDG_CACHE_HOME, then the home directory say where the cache is."""
    (good,) = cache_dir.glob("*.jsonl")
    place = tmp_path / expected
    place.mkdir(parents=True)
    (place / good.name).write_bytes(good.read_bytes())
    for name in ("MILLIRANK_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")  # a miss would have to start it
    assert stdlib.documents(progress=False) == collection


def test_unwritable_cache_directory_names_the_setting(tmp_path: Path) -> None:
    """The error says which directory failed and what to set."""
    blocker = tmp_path / "file"
    blocker.write_text("not a directory")
    with pytest.raises(OSError, match=r"file/cache .*MILLIRANK_CACHE_DIR"):
        stdlib.documents(blocker / "cache", progress=False)


def test_failed_build_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies is an error with its exit code and last words, and no file stays behind."""
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    cache = tmp_path / "cache"
    with pytest.raises(RuntimeError, match=r"\(3\): out of luck"):
        stdlib.documents(cache, progress=False)
    assert list(cache.iterdir()) == []


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C during the build leaves neither a half-written cache nor a temporary file."""
    script = (
        "import sys; from pathlib import Path; from sidecar.calibrate import stdlib;"
        "stdlib.documents(Path(sys.argv[1]), progress=False)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE) as builder:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        builder.send_signal(signal.SIGINT)
        _, complaints = builder.communicate(timeout=30)
    assert b"KeyboardInterrupt" in complaints
    assert list(tmp_path.iterdir()) == []


# --- the questions ---


def test_there_are_sixty_different_questions_of_natural_length() -> None:
    """60 questions, no id or text twice, 3 to 20 words each, 1 to 5 answers each."""
    questions = stdlib.questions()
    assert len(questions) == len({q.id for q in questions}) == len({q.text for q in questions}) == 60
    assert all(3 <= len(q.text.split()) <= 20 and 1 <= len(set(q.answers)) <= 5 for q in questions)


def test_every_answer_exists_unless_this_python_is_too_old(collection: tuple[StdlibDocument, ...]) -> None:
    """No answer is a typing error: only those of newer versions may be missing."""
    known = {name for document in collection for name in (document.id, *document.aliases)}
    missing = {answer for q in stdlib.questions() for answer in q.answers} - known
    assert missing == {answer for answer, since in NEWER_ANSWERS.items() if sys.version_info < since}


def test_every_question_has_a_relevant_document(
    collection: tuple[StdlibDocument, ...], by_id: dict[str, StdlibDocument]
) -> None:
    """The judgements cover all questions and name documents of the collection only."""
    judged = stdlib.qrels(collection, stdlib.questions())
    assert list(judged) == [question.id for question in stdlib.questions()]
    assert all(relevant and relevant.keys() <= by_id.keys() for relevant in judged.values())


def test_an_alias_is_judged_as_its_document() -> None:
    """Two names of one object are one relevant document."""
    document = StdlibDocument("bisect.insort_right", "text", ("bisect.insort",))
    question = Question("q", "keep sorted", ("bisect.insort", "bisect.insort_right"))
    assert stdlib.qrels([document], [question]) == {"q": {"bisect.insort_right": 1}}


def test_an_answer_of_another_version_is_left_out() -> None:
    """A missing answer is no error as long as the question has one that exists."""
    question = Question("q", "pieces of n", ("itertools.batched", "itertools.islice"))
    judged = stdlib.qrels([StdlibDocument("itertools.islice", "text", ())], [question])
    assert judged == {"q": {"itertools.islice": 1}}


def test_a_question_without_any_answer_is_refused() -> None:
    """The error names the question and the answers that were looked for."""
    question = Question("q07", "pieces of n", ("itertools.chunks", "itertools.pieces"))
    with pytest.raises(ValueError, match=r"q07 .*itertools\.chunks, itertools\.pieces"):
        stdlib.qrels([StdlibDocument("itertools.islice", "text", ())], [question])


@pytest.mark.parametrize(
    "lines",
    [
        ["not json"],
        ['{"id": "q1", "answers": ["a"]}'],
        ['{"id": "q1", "question": "?", "answers": []}'],
        [json.dumps({"id": "q1", "question": "?", "answers": ["a"]})] * 2,
    ],
)
def test_malformed_questions_name_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A bad line of the question file is refused with its position."""
    bad = tmp_path / "questions.jsonl"
    bad.write_text("\n".join(lines))
    monkeypatch.setattr(stdlib, "_QUESTIONS_FILE", bad)
    with pytest.raises(ValueError, match=rf"questions\.jsonl, line {len(lines)}"):
        stdlib.questions()
