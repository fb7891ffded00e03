"""A calibration as a gate: is the gain what it has to be, and is anything worse than at an earlier calibration?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.gain import read_curve
from router.profile import Profile, ProfileError, parse
from sidecar import json_text
from sidecar.calibrate.metrics import Interval, paired_bootstrap
from sidecar.calibrate.report.build import switched
from sidecar.calibrate.report.readout import FORMAT, ArmPoint, Curve, ReadOut, ReadOutError, read_json
from sidecar.calibrate.report.tables import milliseconds

_SLOWER_SHARE = 0.10
"""Two runs on one machine differ by a few per cent beyond their own intervals; less than this says nothing."""
_ROUTER = "what the router answers"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference to the earlier calibration. ``regression``: worse, beyond its interval; ``fails``: the gate too.

    Latency regressions do not fail: another machine, or a busy one, is enough to be slower.
    """

    what: str
    words: str
    regression: bool = False
    fails: bool = False


def below(readout: ReadOut, least_gain: float) -> str:
    """Why the gate `--fail-below` is shut, in words; "" if it is open.

    It looks at the mean gain in nDCG@10 over first-stage order of what the router answers within the sidecar's default
    budget on documents seen before.
    """
    found = readout.recommended(readout.default_budget_ms, "warm")
    if found.gain.mean >= least_gain:
        return ""
    return (
        f"the router gains {found.gain.mean:+.4f} nDCG@10 within {found.budget_ms:g} ms "
        f"({found.choices[0].label}), less than {least_gain:g}"
    )


def read_earlier(path: Path) -> ReadOut | Profile:
    """An earlier ``report.json`` or ``profile.json``. Raises ReadOutError."""
    try:
        data = json_text.loads(path.read_bytes())
    except OSError as error:
        raise ReadOutError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ReadOutError(f"{path} is not valid JSON: {error}") from None
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return read_json(path)
    try:
        return parse(data, revision="earlier")
    except ProfileError as error:
        raise ReadOutError(f"{path} is neither a report.json nor a profile.json of this version: {error}") from None


def compare(earlier: ReadOut | Profile, now: ReadOut, profile: Profile) -> list[Change]:
    """What changed, regressions first. ``profile`` is the one that ``now`` is about.

    Quality is compared query by query with an earlier report, on the queries that both have; with an earlier profile
    the gain that it expected is held against the interval measured now. Raises ReadOutError where an earlier report
    has no query in common.
    """
    if isinstance(earlier, ReadOut):
        changes = list(_with_report(earlier, now))
    else:
        changes = list(_with_profile(earlier, now, profile))
    return sorted(changes, key=lambda change: (not change.fails, not change.regression))


def _with_report(earlier: ReadOut, now: ReadOut) -> Iterator[Change]:
    common = sorted(set(earlier.query_ids) & set(now.query_ids))
    if not common:
        raise ReadOutError(
            "the earlier report has no query in common with this calibration: compare calibrations of one collection"
        )
    before = [earlier.query_ids.index(query) for query in common]
    after = [now.query_ids.index(query) for query in common]

    def difference(new: Sequence[float], old: Sequence[float]) -> Interval:
        return paired_bootstrap([new[i] for i in after], [old[i] for i in before])

    yield from _quality(
        "first-stage order",
        earlier.none.ndcg10,
        now.none.ndcg10,
        difference(now.none.per_query, earlier.none.per_query),
    )
    budgets = {(r.budget_ms, r.documents): r for r in earlier.recommendations}
    for new in now.recommendations:
        old = budgets.get((new.budget_ms, new.documents))
        if old is not None:
            what = f"{_ROUTER} within {new.budget_ms:g} ms, {new.documents} documents"
            yield from _quality(what, old.ndcg10, new.ndcg10, difference(new.per_query, old.per_query))
    then = {curve.reranker: curve for curve in earlier.curves}
    yield from _arms({name: curve.on for name, curve in then.items()}, now.curves)
    for name, curve in then.items():
        old_point, new_point = (readout.point(name, curve.recommended_k) for readout in (earlier, now))
        if old_point is not None and new_point is not None:
            interval = difference(new_point.per_query, old_point.per_query)
            yield from _quality(new_point.label, old_point.ndcg10, new_point.ndcg10, interval)
            yield from _latency(old_point, new_point)


def _quality(what: str, old: float, new: float, interval: Interval) -> Iterator[Change]:
    """Only what is beyond chance is a change."""
    worse = interval.high < 0.0
    if worse or interval.low > 0.0:
        words = f"nDCG@10 {old:.3f} -> {new:.3f} ({interval.low:+.3f} to {interval.high:+.3f}, same queries)"
        yield Change(what, words, regression=worse, fails=worse)


def _latency(old: ArmPoint, new: ArmPoint) -> Iterator[Change]:
    if old.warm is None or new.warm is None:
        return
    slower = new.warm.p50_low_ms > old.warm.p50_high_ms and new.warm.p50_ms > (1 + _SLOWER_SHARE) * old.warm.p50_ms
    faster = new.warm.p50_high_ms < old.warm.p50_low_ms and new.warm.p50_ms < (1 - _SLOWER_SHARE) * old.warm.p50_ms
    if slower or faster:
        words = f"p50 add {milliseconds(old.warm.p50_ms)} -> {milliseconds(new.warm.p50_ms)}"
        yield Change(new.label, words, regression=slower)


def _arms(then: dict[str, bool], curves: Sequence[Curve]) -> Iterator[Change]:
    for curve in curves:
        if curve.reranker not in then:
            yield Change(curve.reranker, f"new, {'on' if curve.on else 'off'}")
        elif then[curve.reranker] != curve.on:
            yield Change(curve.reranker, "off -> on" if curve.on else f"on -> off: {curve.why}")
    for name in sorted(set(then) - {curve.reranker for curve in curves}):
        yield Change(name, "was calibrated then and is not measured now")


def _with_profile(earlier: Profile, now: ReadOut, profile: Profile) -> Iterator[Change]:
    yield from _arms({name: switched(earlier, name, now.signals)[0] for name in earlier.arms}, now.curves)
    for curve in now.curves:
        point = now.point(curve.reranker, curve.recommended_k)
        old = earlier.arms.get(curve.reranker)
        if point is None or old is None:
            continue
        if now.signals in old.gains:
            expected, _ = read_curve(old.gains[now.signals], (curve.recommended_k,))[0]
            if not point.gain.low <= expected <= point.gain.high:
                words = f"gain {expected:+.3f} expected then; measured {point.gain.low:+.3f} to {point.gain.high:+.3f}"
                worse = point.gain.high < expected
                yield Change(point.label, words, regression=worse, fails=worse)
        new = profile.arms.get(curve.reranker)
        if new is not None and old.latency != new.latency:
            lines = [
                f"{p.base_ms:.1f} ms + {1000 * p.ms_per_token:.1f} per 1k tokens" for p in (old.latency, new.latency)
            ]
            yield Change(curve.reranker, f"latency prior {lines[0]} -> {lines[1]}")
