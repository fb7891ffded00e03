"""A straight line `ms = a + b * tokens`, fitted online, that forgets.

Weighted least squares over exponentially forgotten samples (recursive least squares with a forgetting factor:
Ljung, System Identification, 2nd ed., ch. 11), kept as the five sums of the normal equations. Each sample
weighs 1/predicted^2, which minimises the *relative* error: a miss of 10 % counts the same on 4 ms as on 400
ms.
"""

from __future__ import annotations

from typing import Final

PRIOR_WEIGHT: Final = 6.0
"""How many samples the prior is worth before anything was observed."""
_PRIOR_FLOOR: Final = 0.05
"""What is always left of the prior: keeps the equations solvable when all requests have the same size."""
_PRIOR_TOKENS: Final = (32.0, 4096.0)
"""Sizes of the two pseudo-observations that stand for the prior: a warm request and a cold one."""
_MAX_UNDERESTIMATE: Final = 4.0
"""A sample counts as predicted at least this fraction of itself: one spike cannot tilt the line."""
_SMALLEST_MS: Final = 1e-3


class ForgettingLine:
    """The line's coefficients, ``a`` in ms and ``b`` in ms per token (never negative), and their sums."""

    __slots__ = ("_prior_a", "_prior_b", "_prior_weight", "_sums", "_weight", "a", "b")

    def __init__(self, a: float, b: float) -> None:
        self.a = self._prior_a = a
        self.b = self._prior_b = b
        self._prior_weight = PRIOR_WEIGHT
        self._weight = 0.0  # observed samples, forgetting included
        self._sums = [0.0, 0.0, 0.0, 0.0, 0.0]  # of w, w*x, w*y, w*x*x, w*x*y over the observed samples

    def at(self, tokens: float) -> float:
        """The line's value in ms, never below a microsecond (it is divided by)."""
        return max(_SMALLEST_MS, self.a + self.b * tokens)

    def add(self, tokens: float, ms: float, keep: float) -> None:
        """Multiply all earlier weights by ``keep``, then add one sample and refit."""
        w = 1.0 / max(self.at(tokens), ms / _MAX_UNDERESTIMATE) ** 2
        sums = self._sums
        self._sums = [
            sums[0] * keep + w,
            sums[1] * keep + w * tokens,
            sums[2] * keep + w * ms,
            sums[3] * keep + w * tokens * tokens,
            sums[4] * keep + w * tokens * ms,
        ]
        self._weight = self._weight * keep + 1.0
        self._prior_weight = self._prior_weight * keep
        self.a, self.b = self.mixed(1.0)

    def discount(self, keep: float) -> None:
        """Multiply all weights, the prior's too, by ``keep``: the line stays, new samples move it faster."""
        self._sums = [total * keep for total in self._sums]
        self._weight *= keep
        self._prior_weight *= keep

    def fade(self, trust: float) -> None:
        """Hand the share ``1 - trust`` of the samples' weight back to the prior, and refit."""
        coefficients = self.mixed(trust)
        self._prior_weight += self._weight * (1.0 - trust)
        self._weight *= trust
        self._sums = [total * trust for total in self._sums]
        self.a, self.b = coefficients

    def mixed(self, trust: float) -> tuple[float, float]:
        """(a, b) as they would be after `fade`; changes nothing."""
        w, wx, wy, wxx, wxy = (total * trust for total in self._sums)
        prior = max(_PRIOR_FLOOR, self._prior_weight + self._weight * (1.0 - trust)) / len(_PRIOR_TOKENS)
        for x in _PRIOR_TOKENS:
            y = self._prior_a + self._prior_b * x
            # Relative to the larger of prior and present line: a prior that was far too low must not
            # outweigh, through its small milliseconds, the samples that prove it wrong.
            v = prior / max(y, self.at(x)) ** 2
            w, wx, wy, wxx, wxy = w + v, wx + v * x, wy + v * y, wxx + v * x * x, wxy + v * x * y
        b = (w * wxy - wx * wy) / (w * wxx - wx * wx)
        a = (wy - b * wx) / w
        # Time never falls with more work, nor below zero: where noise says so, fit the other coefficient
        # alone.
        if b < 0.0:
            return wy / w, 0.0
        if a < 0.0:
            return 0.0, wxy / wxx
        return a, b
