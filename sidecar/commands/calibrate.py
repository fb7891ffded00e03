"""``millirank calibrate``: what reranking is worth on your documents and this machine, and the profile that says so."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from millirank import MillirankError
from rich.console import Console

from router.profile import ProfileError
from sidecar.calibrate import known_items, teacher
from sidecar.calibrate.collection import Collection, CollectionError
from sidecar.calibrate.first_stage import Mode
from sidecar.calibrate.load import WHAT, load_collection
from sidecar.calibrate.private_sidecar import PrivateSidecarError, orderly_end
from sidecar.calibrate.report import console as words
from sidecar.calibrate.report.files import Files
from sidecar.calibrate.report.gate import below, compare, read_earlier
from sidecar.calibrate.report.readout import ReadOutError
from sidecar.calibrate.stdlib import default_cache_dir
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.commands import calibrate_run, calibrate_shadow
from sidecar.engines.manifest import ModelError
from sidecar.replay import ReplayError
from sidecar.settings import Settings, SettingsError, load

EXIT_FAILURE = 1
EXIT_USAGE = 2
NEEDED = ("bm25s", "ir_measures", "kneed", "matplotlib")
"""Modules of the extra `calibrate` that are imported late: a missing one has to be noticed before minutes of work."""
_KS = (10, 25, 50, 100, 200)
_MOST_CANDIDATES = 1000
_TEACHING_SHARE = 1 / 3  # of the time
_OWN_FIRST_STAGES: Mapping[str, Mode] = {"bm25": "bm25", "hybrid": "hybrid"}
_EPILOG = """\
examples:
  millirank calibrate built-in                                  the standard library's documentation
  millirank calibrate path/to/collection                        a folder: corpus.jsonl, queries.jsonl, qrels/*.tsv
  millirank calibrate docs.jsonl                                no judgements: queries made of your own documents
  millirank calibrate docs.jsonl --queries log.jsonl --teacher bge       real queries, judged by a heavy reranker
  millirank calibrate path/to/collection --first-stage hybrid   BM25 and dense vectors instead of BM25
  millirank calibrate path/to/collection --first-stage bm25=run.trec --first-stage dense=dense.trec
                                                                your own search engine's rankings and scores
  millirank calibrate path/to/collection --sample 100 --minutes 5
  millirank calibrate path/to/collection --fail-below 0.02 --compare earlier/report.json      a gate for CI
  millirank calibrate --from-shadow shadow.jsonl --profile profile.json    what production says of this profile

Every reranker of the configuration is measured through a private sidecar, over gRPC: quality at every number of
candidates, latency with documents seen before and new ones. OUT then holds profile.json (for the sidecar's setting
`profiles`), report.html, report.md, report.json and two plots. Run it on the machine that will serve, with nothing
else running. An interrupted run goes on where it stopped; scores that are known are not computed again.

exit code: 0 done, whatever the verdict; 1 the gate is shut (--fail-below, or nDCG@10 fell beyond its interval since
--compare) or the sidecar failed; 2 the input can't be used; 130 interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    what = parser.add_argument_group("what to calibrate on")
    what.add_argument(
        "collection",
        nargs="?",
        default="",
        metavar="COLLECTION",
        help=WHAT,
    )
    what.add_argument(
        "--queries",
        type=Path,
        metavar="FILE",
        help="with a file of documents: real queries that nobody has judged, as JSON lines {'id': ..., 'text': ...}; "
        "--teacher judges them",
    )
    what.add_argument(
        "--teacher",
        default="",
        metavar="RERANKER",
        help="the reranker of the configuration whose opinion stands in for judgements of --queries",
    )
    what.add_argument("--split", default="", help="which judgements of a folder (default: test, else dev, else train)")
    what.add_argument(
        "--corpus", default="", metavar="NAME", help="what requests call it (default: the collection's name)"
    )
    what.add_argument(
        "--first-stage",
        action="append",
        default=[],
        metavar="STAGE",
        help="bm25 (default), hybrid, or SIGNAL=FILE with a ranking in TREC format; several files are several signals, "
        "the first one gives the candidates and their order",
    )
    what.add_argument(
        "--fusion", choices=("rrf", "zscore"), default="rrf", help="how hybrid joins its lists (default: %(default)s)"
    )
    how = parser.add_argument_group("how much to measure")
    how.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("MILLIRANK_CONFIG"),
        metavar="FILE",
        help="the sidecar's settings as TOML (default: $MILLIRANK_CONFIG, or none); MILLIRANK_* variables win over it",
    )
    how.add_argument(
        "--ks",
        type=_candidate_counts,
        default=_KS,
        metavar="K,K,...",
        help="numbers of candidates to measure at (default: 10,25,50,100,200)",
    )
    how.add_argument(
        "--sample", type=_positive, default=0, metavar="N", help="N queries drawn at random (default: all)"
    )
    how.add_argument(
        "--minutes", type=_minutes, default=9.0, metavar="M", help="end within about M minutes (default: %(default)g)"
    )
    how.add_argument(
        "--requests",
        type=_positive,
        default=50,
        metavar="N",
        help="timed requests for each arm and number of candidates (default: %(default)s)",
    )
    result = parser.add_argument_group("what comes of it")
    result.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: calibration/CORPUS)")
    result.add_argument(
        "--fail-below",
        type=float,
        metavar="GAIN",
        help="exit code 1 if the mean gain in nDCG@10 over first-stage order, of what the router answers within the "
        "configuration's default budget on documents seen before, is below GAIN",
    )
    result.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="an earlier report.json or profile.json: say what changed; exit code 1 if nDCG@10 fell beyond chance",
    )
    calibrate_shadow.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit codes as in `--help`."""
    try:
        if arguments.from_shadow:
            return calibrate_shadow.run(arguments)
        with orderly_end():
            return _calibrate(arguments)
    except ModuleNotFoundError as error:
        fix = "install it with: pip install 'millirank-server[calibrate]'"
        sys.stderr.write(f"millirank calibrate: {error.name} is not installed; {fix}\n")
        return EXIT_FAILURE
    except (argparse.ArgumentTypeError, CollectionError, ProfileError, ReadOutError, SettingsError) as error:
        sys.stderr.write(f"millirank calibrate: {error}\n")
        return EXIT_USAGE
    except (SweepError, PrivateSidecarError, ReplayError, MillirankError, ModelError, OSError) as error:
        sys.stderr.write(f"millirank calibrate: {error}\n")
        return EXIT_FAILURE


def _calibrate(arguments: argparse.Namespace) -> int:
    if not arguments.collection:
        raise argparse.ArgumentTypeError("name a COLLECTION, or the files of a shadow with --from-shadow")
    # All that can be wrong is looked at before anything takes time.
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
    stage = first_stage(arguments.first_stage)
    settings = load(Path(arguments.config) if arguments.config else None, os.environ)
    earlier = read_earlier(arguments.compare) if arguments.compare else None
    cache_dir = default_cache_dir()
    notes = calibrate_run.Notes(Console(stderr=True))
    started = time.monotonic()
    collection = _collection(arguments, settings, stage, cache_dir, notes)
    corpus = arguments.corpus or collection.name
    files = Files(arguments.out or Path("calibration") / corpus)
    files.folder.mkdir(parents=True, exist_ok=True)

    plan = calibrate_run.Plan(
        corpus=corpus,
        first_stage=stage,
        fusion=arguments.fusion,
        ks=arguments.ks,
        sample=arguments.sample,
        end=started + 60 * arguments.minutes,
        requests=arguments.requests,
    )
    done = calibrate_run.run(collection, settings, plan, cache_dir, notes)
    files.write(done.readout, done.profile_file)

    console = Console()
    if console.width < words.WIDTH:
        console = Console(width=words.WIDTH)
    words.summary(console, done.readout)
    failures = [] if arguments.fail_below is None else list(filter(None, [below(done.readout, arguments.fail_below)]))
    if earlier is not None:
        changes = compare(earlier, done.readout, done.profile)
        words.changes(console, changes, str(arguments.compare))
        failures += [f"{change.what}: {change.words}" for change in changes if change.fails]
    words.next_steps(console, done.readout, files)
    for failure in failures:
        sys.stderr.write(f"millirank calibrate: {failure}\n")
    return EXIT_FAILURE if failures else 0


def _collection(
    arguments: argparse.Namespace,
    settings: Settings,
    stage: Mode | Mapping[str, Path],
    cache_dir: Path,
    notes: calibrate_run.Notes,
) -> Collection:
    if not arguments.queries and not arguments.teacher:
        return load_collection(arguments.collection, split=arguments.split, cache_dir=cache_dir)
    file = Path(arguments.collection).expanduser()
    if not (arguments.queries and arguments.teacher and file.is_file() and isinstance(stage, str)):
        raise argparse.ArgumentTypeError(
            "--queries and --teacher belong together, beside a file of documents and --first-stage bm25 or hybrid"
        )
    return teacher.taught(
        file.stem,
        known_items.read_documents(file),
        teacher.read_queries(arguments.queries),
        settings,
        arguments.teacher,
        cache_dir=cache_dir,
        first_stage=stage,
        limit_s=_TEACHING_SHARE * 60 * arguments.minutes,
        note=notes.add,
    )


def first_stage(words: Sequence[str]) -> Mode | Mapping[str, Path]:
    """``bm25``, ``hybrid``, or TREC files by signal. Raises argparse.ArgumentTypeError for a mixture."""
    if not words:
        return "bm25"
    if len(words) == 1 and (own := _OWN_FIRST_STAGES.get(words[0])) is not None:
        return own
    runs: dict[str, Path] = {}
    for word in words:
        signal, separator, file = word.partition("=")
        if not separator or not signal or not file:
            raise argparse.ArgumentTypeError(
                f"--first-stage {word}: name one of {', '.join(_OWN_FIRST_STAGES)} alone, or files as SIGNAL=FILE, "
                "such as bm25=run.trec"
            )
        if signal in runs:
            raise argparse.ArgumentTypeError(f"--first-stage {word}: signal {signal!r} has a file already")
        runs[signal] = Path(file)
    return runs


def _candidate_counts(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and 2 <= int(part) <= _MOST_CANDIDATES for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write whole numbers from 2 to {_MOST_CANDIDATES}, such as 10,25,50"
        )
    return tuple(sorted({int(part) for part in parts}))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r}: write minutes, from above 0 to 1440")
    return minutes
