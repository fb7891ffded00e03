"""The calibrated facts about one corpus: what each arm gains, how to fuse its scores, what it costs.

`parse` reads the file that a calibration writes. The format, with every key::

    {"format": "millirank.profile/2",
     "corpus": "default",
     "rerank_ks": [10, 25, 50, 100],              candidate counts the router tries, ascending
     "min_gain_per_second": 0.1,                  nDCG@10 that one more second has to add
     "known_signals": ["bm25", "dense"],          signals that `gains` and `weights` distinguish
     "about": {...},                              optional: where the figures come from; not read
     "arms": {
       "<reranker name, or signals>": {
         "strategy": "late_interaction",
         "latency": {"base_ms": 4.0, "ms_per_token": 0.02, "spread": 1.5},
         "gains":   {"bm25": {"points": [[10, 0.05, 0.03], [50, 0.11, 0.08]]}},
         "weights": {"bm25": {"rerank": 1.0, "signals": {"bm25": 0.5, "rank": 0.1}}},
         "traits":  {"bm25": {"margin": [0.4, 1.1, -0.012]}}}}}      optional: how gains depend on the query

``gains``, ``weights`` and ``traits`` are keyed by signal set: the known signals that came along, sorted, joined by "+";
"" if none did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from router.arms import Strategy
from router.latency import LatencyPrior
from router.profile_json import (
    ProfileError,
    json_integer,
    json_list,
    json_mapping,
    json_number,
    json_object,
    json_text,
    step,
    suggestion,
)
from router.traits import FIGURES, Traits

__all__ = [
    "FORMAT",
    "RANK_SIGNAL",
    "SIGNALS_ARM",
    "ArmProfile",
    "FusionWeights",
    "GainCurve",
    "GainPoint",
    "Profile",
    "ProfileError",
    "TraitSlope",
    "parse",
    "signal_set",
]

FORMAT: Final = "millirank.profile/2"
SIGNALS_ARM: Final = "signals"
"""Key of the SIGNALS strategy in `Profile.arms`; rerankers cannot have this name."""
RANK_SIGNAL: Final = "rank"
"""Pseudo-signal in `FusionWeights.signals`: the reciprocal first-stage rank, which every candidate has."""


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """Weights of the z-scores: the rerank score's, and the signals' by name (``rank`` included)."""

    rerank: float
    signals: Mapping[str, float]


class GainPoint(NamedTuple):
    """nDCG@10 gain over first-stage order with ``k`` candidates scored, and the lower end of its interval."""

    k: int
    gain: float
    lower: float


@dataclass(frozen=True, slots=True)
class GainCurve:
    """Expected gain by number of scored candidates: at least one point, ``k`` ascending from at least 2."""

    points: tuple[GainPoint, ...]


class TraitSlope(NamedTuple):
    """How a gain depends on one of `router.traits.FIGURES`: it rises by ``slope`` (nDCG@10) for each ``deviation`` that
    the figure lies above ``mean``."""

    mean: float
    deviation: float
    slope: float


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """One reranker (or SIGNALS) on this corpus; ``gains``, ``weights`` and ``traits`` are keyed by `signal_set`.

    ``traits`` holds slopes by trait, for the signal sets where calibration has found that they predict gains.
    """

    strategy: Strategy
    gains: Mapping[str, GainCurve]
    weights: Mapping[str, FusionWeights]
    latency: LatencyPrior
    traits: Mapping[str, Mapping[str, TraitSlope]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything calibration learnt about one corpus. ``revision`` is a digest of the file it came from."""

    corpus: str
    revision: str
    arms: Mapping[str, ArmProfile]
    rerank_ks: tuple[int, ...]
    min_gain_per_second: float
    known_signals: frozenset[str]


def signal_set(profile: Profile, traits: Traits) -> str:
    """The profile's known signals that came with the request, sorted and joined by "+"; "" if none did."""
    return "+".join(name for name in traits.signals if name in profile.known_signals)


def parse(data: object, revision: str) -> Profile:
    """Check decoded JSON and make the `Profile` of it.

    Raises ProfileError naming the JSON path, what was found and the fix; nothing unknown is skipped silently.
    """
    root = json_object(
        data,
        "$",
        required=("format", "corpus", "rerank_ks", "min_gain_per_second", "known_signals", "arms"),
        optional=("about",),
    )
    if root["format"] != FORMAT:
        raise ProfileError(
            f"$.format: expected {FORMAT!r}, got {root['format']!r}; this version reads that format only"
        )
    known = _signal_names(root["known_signals"], "$.known_signals")
    arms = {
        json_text(name, "$.arms"): _arm(name, arm, f"$.arms{step(name)}", known)
        for name, arm in json_mapping(root["arms"], "$.arms").items()
    }
    return Profile(
        corpus=json_text(root["corpus"], "$.corpus"),
        revision=revision,
        arms=MappingProxyType(arms),
        rerank_ks=_rerank_ks(root["rerank_ks"], "$.rerank_ks"),
        min_gain_per_second=json_number(root["min_gain_per_second"], "$.min_gain_per_second", low=0.0),
        known_signals=known,
    )


def _arm(name: str, data: object, path: str, known: frozenset[str]) -> ArmProfile:
    fields = json_object(data, path, required=("strategy", "latency", "gains", "weights"), optional=("traits",))
    strategy = _strategy(name, fields["strategy"], f"{path}.strategy")
    gains_path, weights_path = f"{path}.gains", f"{path}.weights"
    gains = {
        _set_key(key, gains_path, known): _curve(curve, f"{gains_path}{step(key)}")
        for key, curve in json_mapping(fields["gains"], gains_path).items()
    }
    weights = {
        _set_key(key, weights_path, known): _weights(entry, f"{weights_path}{step(key)}", key, strategy)
        for key, entry in json_mapping(fields["weights"], weights_path).items()
    }
    traits_path = f"{path}.traits"
    traits = {
        _set_key(key, traits_path, known): _slopes(entry, f"{traits_path}{step(key)}")
        for key, entry in json_mapping(fields.get("traits", {}), traits_path).items()
    }
    for key in traits:
        if key not in gains:
            raise ProfileError(f"{traits_path}{step(key)}: there are no gains for this signal set to depend on traits")
    for key in gains:
        if key not in weights:
            raise ProfileError(f"{weights_path}: has no weights for signal set {key!r}, which has gains; add them")
    return ArmProfile(
        strategy,
        MappingProxyType(gains),
        MappingProxyType(weights),
        _latency(fields["latency"], f"{path}.latency"),
        MappingProxyType(traits),
    )


def _strategy(arm: str, data: object, path: str) -> Strategy:
    if arm == SIGNALS_ARM:
        choices = [Strategy.SIGNALS.value]
    else:
        choices = [s.value for s in Strategy if s not in (Strategy.NONE, Strategy.SIGNALS)]
    if data not in choices:
        hint = suggestion(data, choices) if isinstance(data, str) else ""
        raise ProfileError(f"{path}: arm {arm!r} needs one of {', '.join(choices)}, got {data!r}{hint}")
    return Strategy(data)


def _curve(data: object, path: str) -> GainCurve:
    fields = json_object(data, path, required=("points",))
    points: list[GainPoint] = []
    for index, values in enumerate(json_list(fields["points"], f"{path}.points")):
        point = _point(values, f"{path}.points[{index}]")
        if points and point.k <= points[-1].k:
            raise ProfileError(
                f"{path}.points[{index}][0]: k must ascend, got {point.k} after {points[-1].k}; sort the points by k"
            )
        points.append(point)
    if not points:
        raise ProfileError(f"{path}.points: is empty; give at least one [k, gain, lower], or leave the signal set out")
    return GainCurve(tuple(points))


def _point(data: object, path: str) -> GainPoint:
    if not isinstance(data, list) or len(data) != 3:
        raise ProfileError(f"{path}: expected [k, gain, lower end of the gain's interval], got {data!r}")
    k = json_integer(data[0], f"{path}[0]", low=2)
    gain, lower = (json_number(data[place], f"{path}[{place}]", low=-1.0, high=1.0) for place in (1, 2))
    if lower > gain:
        raise ProfileError(f"{path}[2]: {lower} is above the gain {gain}; give the lower end of its interval")
    return GainPoint(k, gain, lower)


def _weights(data: object, path: str, signals: str, strategy: Strategy) -> FusionWeights:
    if strategy is Strategy.SIGNALS:
        # There is no rerank score to weigh; refusing the key keeps a copied entry from looking as if it
        # mattered.
        fields, rerank = json_object(data, path, required=("signals",)), 0.0
    else:
        fields = json_object(data, path, required=("rerank", "signals"))
        rerank = json_number(fields["rerank"], f"{path}.rerank")
    names = [*filter(None, signals.split("+")), RANK_SIGNAL]
    entries = json_object(fields["signals"], f"{path}.signals", optional=names)
    return FusionWeights(
        rerank,
        MappingProxyType({name: json_number(value, f"{path}.signals{step(name)}") for name, value in entries.items()}),
    )


def _slopes(data: object, path: str) -> Mapping[str, TraitSlope]:
    entries = json_object(data, path, optional=FIGURES)
    return MappingProxyType({name: _slope(values, f"{path}{step(name)}") for name, values in entries.items()})


def _slope(data: object, path: str) -> TraitSlope:
    if not isinstance(data, list) or len(data) != 3:
        raise ProfileError(f"{path}: expected [mean, deviation, nDCG@10 for one deviation more], got {data!r}")
    mean, deviation = (json_number(data[place], f"{path}[{place}]") for place in (0, 1))
    if deviation <= 0.0:
        raise ProfileError(f"{path}[1]: must be above 0, got {deviation:g}; leave out a trait that never varies")
    return TraitSlope(mean, deviation, json_number(data[2], f"{path}[2]", low=-1.0, high=1.0))


def _latency(data: object, path: str) -> LatencyPrior:
    fields = json_object(data, path, required=("base_ms", "ms_per_token"), optional=("spread",))
    base_ms = json_number(fields["base_ms"], f"{path}.base_ms", low=0.0)
    ms_per_token = json_number(fields["ms_per_token"], f"{path}.ms_per_token", low=0.0)
    if "spread" not in fields:
        return LatencyPrior(base_ms, ms_per_token)
    return LatencyPrior(base_ms, ms_per_token, json_number(fields["spread"], f"{path}.spread", low=1.0))


def _signal_names(data: object, path: str) -> frozenset[str]:
    names = [json_text(item, f"{path}[{index}]") for index, item in enumerate(json_list(data, path))]
    for index, name in enumerate(names):
        if "+" in name or name == RANK_SIGNAL:
            raise ProfileError(
                f"{path}[{index}]: {name!r} cannot be a signal's name ('+' joins names, 'rank' is built in); rename it"
            )
        if name in names[:index]:
            raise ProfileError(f"{path}[{index}]: {name!r} is listed twice; remove one")
    return frozenset(names)


def _set_key(key: str, path: str, known: frozenset[str]) -> str:
    names = [name for name in key.split("+") if name]
    for name in names:
        if name not in known:
            raise ProfileError(
                f"{path}{step(key)}: {name!r} is not in $.known_signals{suggestion(name, known)}; "
                "add it there or correct the key"
            )
    canonical = "+".join(sorted(set(names)))
    if key != canonical:
        raise ProfileError(f"{path}{step(key)}: write the signal set as {canonical!r} (sorted, each name once)")
    return key


def _rerank_ks(data: object, path: str) -> tuple[int, ...]:
    ks = [json_integer(item, f"{path}[{index}]", low=2) for index, item in enumerate(json_list(data, path))]
    if not ks:
        raise ProfileError(f"{path}: is empty; give the candidate counts to try, for example [10, 25, 50, 100]")
    if ks != sorted(set(ks)):
        raise ProfileError(f"{path}: must ascend without repeats; write {sorted(set(ks))}")
    return tuple(ks)
