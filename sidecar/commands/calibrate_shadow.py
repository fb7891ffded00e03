"""``millirank calibrate --from-shadow``: what production has taught, put into an earlier profile."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.profile import ProfileError
from sidecar import profiles

_EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that this way of calibrating has to itself."""
    group = parser.add_argument_group(
        "from production",
        "Instead of a collection: shadow evaluations (the setting `shadow`) correct an earlier profile's weights\n"
        "and gains. Labels are the reference's opinion, so an arm is credited with the share of the reference's own\n"
        "gain that it reaches. Of the options above only --corpus and --out count; OUT gets a profile.json.",
    )
    group.add_argument(
        "--from-shadow",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="what the sidecar has as shadow.file, and the FILE.1 before it if there is one",
    )
    group.add_argument(
        "--profile",
        type=Path,
        default=profiles.BUILT_IN,
        metavar="FILE",
        help="the profile to correct (default: the built-in one)",
    )
    group.add_argument(
        "--reference-gain",
        type=float,
        metavar="GAIN",
        help="what the reference gains in nDCG@10, where the profile has not measured it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 2 when nothing can be learnt from the files."""
    if arguments.collection:
        sys.stderr.write(
            f"millirank calibrate: --from-shadow takes the place of a collection; drop one of it and "
            f"{arguments.collection}\n"
        )
        return _EXIT_USAGE
    # Here, not at the top: --help needs no numpy.
    from sidecar.calibrate.from_shadow import ShadowError, judged_lists
    from sidecar.calibrate.refit import refit

    try:
        profiles.read(arguments.profile)  # so that a mistake in it is told with its file
        earlier = json.loads(arguments.profile.read_text(encoding="utf-8-sig"))
        shadow = judged_lists(arguments.from_shadow, arguments.corpus)
        found = refit(shadow, earlier, arguments.reference_gain)
        corpus = arguments.corpus or profiles.DEFAULT_CORPUS
        folder = arguments.out or Path("calibration") / corpus
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "profile.json"
        path.write_text(json.dumps({**found.profile, "corpus": corpus}, indent=2) + "\n", encoding="utf-8")
    except (ShadowError, ProfileError, OSError) as error:
        sys.stderr.write(f"millirank calibrate: {error}\n")
        return _EXIT_USAGE
    console = Console()
    table = Table("arm", "signals", "queries", "gain before", "gain now", "of the way to the reference")
    for change in found.changes:
        table.add_row(
            escape(change.arm),
            escape(change.signals or "none"),
            str(change.queries),
            "" if change.before is None else f"{change.before:+.3f}",
            f"{change.after:+.3f}",
            f"{100 * change.share:.0f} %",
        )
    console.print(table)
    for words in found.stayed:
        console.print(f"stays: {words}", markup=False)
    name, revision = shadow.reference
    console.print(
        f"{len(shadow.lists)} evaluations by {name} {revision}; {shadow.left_out} left out (another corpus or "
        f"reference, or no opinion). Written: {path}. See what it would change: millirank replay DECISIONS --profile "
        f"{path}",
        markup=False,
        soft_wrap=True,
    )
    return 0
