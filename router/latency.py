"""How long an arm will take: learnt online, from the requests themselves.

prediction = (a + b * tokens) * quantile of actual/predicted

- The line comes from `ForgettingLine`: relative least squares, with the calibrated prior as
  pseudo-observations.
- The quantiles come from `RatioHistogram`, which starts as the prior's lognormal.
- Memory: a sample's weight halves every ``half_life`` samples, but while the estimator is young every age/2
  (at least 20): the prior and the first samples, measured against a line that was still moving, must not
  linger.
- Childhood: a ratio to a line that was still moving says nothing later on. For its first `_CHILDHOOD` samples the
  histogram is therefore made anew from the samples themselves, against the line as it stands. The largest of them
  counts as the second largest: among so few, one spike would be the 95th percentile, and an arm that is not chosen for
  it learns nothing better.
- Change of level (a neighbour took the CPU, a model got a new GPU): Page's two-sided cumulative sum test
  (Page 1954) on the standardised log ratio makes the estimator young again. Waiting for a half-life of 500
  samples to pass would overrun budgets, or waste them, for minutes.
- Idleness: the weight of what was learnt halves every `IDLE_HALF_LIFE_S` seconds without a sample and goes
  back to the prior, so that an arm which was slow once, and is therefore no longer chosen, is tried again.

Time is an argument, in seconds of any monotonic clock. Queueing is not in here: the caller adds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from router.histogram import Z95, RatioHistogram
from router.regression import ForgettingLine

IDLE_HALF_LIFE_S: Final = 30.0
_YOUNGEST_HALF_LIFE: Final = 20.0
_CHILDHOOD: Final = 32  # samples
_KEEP_ON_CHANGE: Final = 10.0  # samples' worth of weight that survives a change of level
_DRIFT: Final = 0.5  # Page's reference value: half of the one-sigma shift that is to be found fast
_ALARM: Final = 10.0  # Page's decision interval: with _DRIFT, one false alarm in about 140,000 normal samples
_LARGEST_STEP: Final = 3.0  # standard deviations that one sample can add, so that a single spike never alarms
_SMALLEST_SIGMA: Final = 0.05  # below this a shift is of no consequence (5 %)
_SMALLEST_MS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class LatencyPrior:
    """What is believed before anything was observed: ``base_ms + ms_per_token * tokens`` is the median.

    ``spread`` is p95/p50. Raises ValueError for negative or infinite times or a spread below 1.
    """

    base_ms: float
    ms_per_token: float
    spread: float = 1.5

    def __post_init__(self) -> None:
        for name, value, low in (
            ("base_ms", self.base_ms, 0.0),
            ("ms_per_token", self.ms_per_token, 0.0),
            ("spread", self.spread, 1.0),
        ):
            if not low <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least {low:g}, got {value}")


class Prediction(NamedTuple):
    """Median and 95th percentile in ms."""

    p50_ms: float
    p95_ms: float


class Pace(NamedTuple):
    """Predictions for every number of tokens at one moment: each quantile is ``base + per_token * tokens``, in ms."""

    p50_base_ms: float
    p50_ms_per_token: float
    p95_base_ms: float
    p95_ms_per_token: float

    def at(self, tokens: int) -> Prediction:
        """The prediction for ``tokens``."""
        return Prediction(
            self.p50_base_ms + self.p50_ms_per_token * tokens, self.p95_base_ms + self.p95_ms_per_token * tokens
        )


class LatencyEstimator:
    """Predicts one reranker's time from the tokens to compute. Not thread-safe; an observation costs tens of
    microseconds.

    Feed it what was measured without the queue. Samples that must not teach (cache hits, failures) are the
    caller's to leave out; a call that was cut off is `observe_timeout`.
    """

    __slots__ = (
        "_age", "_cached_idle", "_down", "_first", "_half_life", "_histogram", "_last", "_line", "_pace", "_spread",
        "_up",
    )  # fmt: skip

    def __init__(self, prior: LatencyPrior, half_life: float = 500.0) -> None:
        """``half_life`` is in samples. Raises ValueError if it is not positive."""
        if not half_life > 0.0:
            raise ValueError(f"half_life must be a positive number of samples, got {half_life}")
        self._half_life = half_life
        self._line = ForgettingLine(prior.base_ms, prior.ms_per_token)
        self._spread = prior.spread
        self._histogram = RatioHistogram(prior.spread)
        self._first: list[tuple[int, float, bool]] = []  # (tokens, ms, cut off) of the first _CHILDHOOD samples
        self._age = 0
        self._up = self._down = 0.0  # Page's two sums
        self._last = math.inf  # when the last sample came; inf: never, so that nothing counts as idle
        # What is predicted after _cached_idle seconds without a sample; -1: stale.
        self._pace = Pace(0.0, 0.0, 0.0, 0.0)
        self._cached_idle = -1

    @property
    def last(self) -> float:
        """When the last sample came; infinite: never."""
        return self._last

    def predict(self, tokens: int, now: float) -> Prediction:
        """Median and p95 in ms of computing ``tokens``; changes no later prediction."""
        return self.pace(now).at(tokens)

    def pace(self, now: float) -> Pace:
        """The predictions for every number of tokens; changes none of them."""
        idle = int(now - self._last) if now > self._last else 0
        if idle != self._cached_idle:
            self._refresh(idle)
        return self._pace

    def observe(self, tokens: int, elapsed_ms: float, now: float) -> None:
        """Learn from a call that ended. Raises ValueError for negative or not finite figures."""
        _check(tokens, elapsed_ms)
        self._settle(now)
        elapsed_ms = max(elapsed_ms, _SMALLEST_MS)
        log_ratio = math.log(elapsed_ms / self._line.at(tokens))
        keep = self._grow_older(log_ratio)
        self._histogram.add(log_ratio, keep)
        self._line.add(tokens, elapsed_ms, keep)
        self._look_back(tokens, elapsed_ms, censored=False)

    def observe_timeout(self, tokens: int, at_least_ms: float, now: float) -> None:
        """Learn from a call that was cut off after ``at_least_ms``: a censored sample, it would have taken
        longer.

        It raises the tail of the histogram (see `RatioHistogram.add_censored`). The line learns only if the
        bound is above it, and then takes the bound for the value: too low, but the histogram makes up for it.
        Raises ValueError for negative or not finite figures.
        """
        _check(tokens, at_least_ms)
        self._settle(now)
        at_least_ms = max(at_least_ms, _SMALLEST_MS)
        predicted_ms = self._line.at(tokens)
        log_ratio = math.log(at_least_ms / predicted_ms)
        keep = self._grow_older(log_ratio, censored=True)
        self._histogram.add_censored(log_ratio, keep)
        if at_least_ms > predicted_ms:
            self._line.add(tokens, at_least_ms, keep)
        self._look_back(tokens, at_least_ms, censored=True)

    def _look_back(self, tokens: int, ms: float, censored: bool) -> None:
        """In childhood: make the histogram anew, against the line as it is now."""
        if len(self._first) == _CHILDHOOD:
            return
        self._first.append((tokens, ms, censored))
        self._histogram = RatioHistogram(self._spread)
        log_ratios = [math.log(seen_ms / self._line.at(seen_tokens)) for seen_tokens, seen_ms, _ in self._first]
        second_largest = sorted(log_ratios)[-2] if len(log_ratios) > 1 else math.inf
        for log_ratio, (_, _, cut_off) in zip(log_ratios, self._first, strict=True):
            if cut_off:
                self._histogram.add_censored(log_ratio, keep=1.0)
            else:
                self._histogram.add(min(log_ratio, second_largest), keep=1.0)

    def _refresh(self, idle: int) -> None:
        trust = _trust(idle)
        a, b = self._line.mixed(trust)
        median, p95 = map(math.exp, self._histogram.log_quantiles(trust))
        self._pace = Pace(a * median, b * median, a * p95, b * p95)
        self._cached_idle = idle

    def _settle(self, now: float) -> None:
        """Make the idleness up to ``now`` permanent, before a sample ends it."""
        idle = int(now - self._last) if now > self._last else 0
        if idle > 0:
            self._line.fade(_trust(idle))
            self._histogram.fade(_trust(idle))
        if now > self._last or self._last == math.inf:  # time that goes backwards is ignored
            self._last = now
        self._cached_idle = -1

    def _grow_older(self, log_ratio: float, censored: bool = False) -> float:
        """Count the sample, test for a change of level; return the factor for all earlier weights."""
        median, p95 = self._histogram.log_quantiles()
        step = (log_ratio - median) / max(_SMALLEST_SIGMA, (p95 - median) / Z95)
        step = max(0.0 if censored else -_LARGEST_STEP, min(_LARGEST_STEP, step))
        self._up = max(0.0, self._up + step - _DRIFT)
        self._down = max(0.0, self._down - step - _DRIFT)
        self._age += 1
        if max(self._up, self._down) > _ALARM:
            self._up = self._down = 0.0
            self._age = 0
            keep = min(1.0, _KEEP_ON_CHANGE / self._histogram.total)
            self._histogram.discount(keep)
            self._line.discount(keep)
        return math.exp2(-1.0 / min(self._half_life, max(_YOUNGEST_HALF_LIFE, self._age / 2)))


def _trust(idle: int) -> float:
    """Share of the learnt weight that is left after ``idle`` seconds without a sample."""
    return math.exp2(-idle / IDLE_HALF_LIFE_S)


def _check(tokens: int, ms: float) -> None:
    if tokens < 0:
        raise ValueError(f"tokens must not be negative, got {tokens}")
    if not 0.0 <= ms < math.inf:
        raise ValueError(f"a latency must be finite and not negative, got {ms} ms")
