"""How far reality strays from the prediction: a decayed histogram of log(actual / predicted), and its
quantiles.

Buckets are 3 % wide and equal in the logarithm, from 1/54 to 54 times the prediction; what lies beyond counts
in the outermost one. Quantiles are interpolated within a bucket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

PRIOR_WEIGHT: Final = 6.0
"""How many samples the prior distribution is worth before anything was observed."""
Z95: Final = 1.6448536269514722
"""95th percentile of the standard normal distribution."""
_WIDTH: Final = 0.03
_HALF: Final = 133
_SIZE: Final = 2 * _HALF + 1
_ENOUGH_ABOVE: Final = 0.5
"""With less than half a sample above a censored one, the histogram does not know how such requests end."""


class RatioHistogram:
    """Weights per bucket; the prior is lognormal around ratio 1 with p95/p50 = ``spread`` (>= 1)."""

    __slots__ = ("_prior", "_weights", "total")

    def __init__(self, spread: float) -> None:
        self._prior = _lognormal(math.log(spread) / Z95)
        self._weights = [PRIOR_WEIGHT * share for share in self._prior]
        self.total = PRIOR_WEIGHT

    def add(self, log_ratio: float, keep: float) -> None:
        """Multiply all earlier weights by ``keep``, then count one sample."""
        self.discount(keep)
        self._weights[_bucket(log_ratio)] += 1.0
        self.total += 1.0

    def add_censored(self, at_least: float, keep: float) -> None:
        """Count a sample of which only a lower bound (of the log ratio) is known, because it was cut off.

        Its weight is shared out among the buckets above the bound in proportion to what they hold (Efron's
        redistribution to the right, 1967, which gives the Kaplan-Meier estimate). Where next to nothing was
        seen above the bound, it counts in the first bucket above: "at least this".
        """
        self.discount(keep)
        first = min(_bucket(at_least) + 1, _SIZE - 1)
        above = sum(self._weights[first:])
        if above < _ENOUGH_ABOVE:
            self._weights[first] += 1.0
        else:
            factor = 1.0 + 1.0 / above
            self._weights[first:] = [weight * factor for weight in self._weights[first:]]
        self.total += 1.0

    def discount(self, keep: float) -> None:
        """Multiply all weights by ``keep``: the shape stays and later samples change it faster."""
        self._weights = [weight * keep for weight in self._weights]
        self.total *= keep

    def fade(self, trust: float) -> None:
        """Replace the share ``1 - trust`` of the weight by the prior distribution."""
        self._weights = self._mixed(trust)

    def log_quantiles(self, trust: float = 1.0) -> tuple[float, float]:
        """Median and 95th percentile of log(actual / predicted), as they would be after `fade(trust)`."""
        weights = self._weights if trust == 1.0 else self._mixed(trust)
        return _quantile(weights, 0.5 * self.total), _quantile(weights, 0.95 * self.total)

    def _mixed(self, trust: float) -> list[float]:
        restored = self.total * (1.0 - trust)
        return [weight * trust + restored * share for weight, share in zip(self._weights, self._prior, strict=True)]


def _bucket(log_ratio: float) -> int:
    return min(_SIZE - 1, max(0, round(log_ratio / _WIDTH) + _HALF))


def _quantile(weights: Sequence[float], target: float) -> float:
    """Log ratio below which ``target`` of the weight lies; a bucket's weight is spread evenly over it."""
    below = 0.0
    last = 0
    for index, weight in enumerate(weights):
        if weight > 0.0:
            if below + weight >= target:
                return (index - _HALF - 0.5 + (target - below) / weight) * _WIDTH
            last = index
        below += weight
    # Rounding left the sum a hair below the target: the upper edge of the last bucket in use.
    return (last - _HALF + 0.5) * _WIDTH


def _lognormal(sigma: float) -> list[float]:
    """Probability of each bucket under log ratio ~ N(0, sigma^2), cut at the outermost and summing to 1."""
    if sigma == 0.0:
        return [float(index == _HALF) for index in range(_SIZE)]
    edges = [(index - _HALF - 0.5) * _WIDTH for index in range(_SIZE + 1)]
    below = [0.5 * math.erfc(-edge / (sigma * math.sqrt(2.0))) for edge in edges]
    inside = below[-1] - below[0]
    return [(high - low) / inside for low, high in pairwise(below)]
