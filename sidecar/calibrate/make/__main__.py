"""``python -m sidecar.calibrate.make``: measure the built-in rerankers on a folder of collections, write the data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from router.profile import SIGNALS_ARM, parse
from sidecar.calibrate import pooled
from sidecar.calibrate.collection import CollectionError
from sidecar.calibrate.fit import KS, pooled_collection, signal_sets
from sidecar.calibrate.fit_arm import ArmFit, fit_arm
from sidecar.calibrate.make import built_in
from sidecar.calibrate.make.measure import Measured, carried, folders, measure
from sidecar.calibrate.private_sidecar import PrivateSidecarError, orderly_end
from sidecar.calibrate.sweep_quality import SweepError
from sidecar.profiles import BUILT_IN

_MADE_BY = "python -m sidecar.calibrate.make --collections FOLDER"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when both files were written."""
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.calibrate.make",
        description="Measure the built-in rerankers on every collection of a folder, over a BM25 and a hybrid first "
        "stage, and write pooled_gains.json and builtin_profile.json. Takes about ten minutes for 23,000 documents.",
    )
    parser.add_argument(
        "--collections", type=Path, required=True, metavar="FOLDER", help="whose sub-folders are BEIR collections"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("build/calibrate"), metavar="FOLDER", help="default: %(default)s"
    )
    parsed = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        with orderly_end(), console.status("") as status:
            measured = [measure(one, parsed.cache, status.update) for one in folders(parsed.collections)]
            status.update("fitting")
            collections = [_pooled(one) for one in measured]
            before = json.loads(BUILT_IN.read_text("utf-8"))
            latency = {name: arm["latency"] for name, arm in before["arms"].items()}
            profile = built_in.profile(measured, latency, before["min_gain_per_second"])
            parse(profile, revision="")
    except (CollectionError, SweepError, PrivateSidecarError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    pooled.write(pooled.BUILT_IN, collections, {"made_by": _MADE_BY})
    BUILT_IN.write_text(json.dumps(profile, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {pooled.BUILT_IN}, {BUILT_IN}")
    return 0


def _pooled(one: Measured) -> pooled.PooledCollection:
    fits: list[tuple[str, ArmFit]] = []
    for lists in one.lists.values():
        signals = carried(lists)
        for used in signal_sets(signals.split("+")):
            for arm in (SIGNALS_ARM, *one.strategies):
                fit = fit_arm(lists, arm, used, KS, pooled.Pooled(), np.random.default_rng(0))
                if fit is not None:
                    fits.append((signals, fit))
    return pooled_collection(one.collection.name, one.collection.documents_digest, fits)


if __name__ == "__main__":
    raise SystemExit(main())
