"""What is counted and measured: the instruments of DESIGN section 9. Names, labels and numbers, never any text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from router.arms import State, Strategy
from router.policy import Reason
from sidecar.messages import Answer, CacheStatus, Completeness, DegradationReason
from sidecar.rerankers.base import Reranker
from sidecar.settings import Mode

# Budgets are milliseconds: the SDK's default buckets (5 ms and up, in ms) are too coarse at the low end.
_DURATION_BUCKETS_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000)
_LAG_BUCKETS_MS = (0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 10, 15, 20, 30, 50, 100, 250, 1000)
_SHARE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.02, 1.05, 1.1, 1.5, 2.0)
# The promise (DESIGN section 6.1): an answer takes at most budget + max(5 ms, 2 %).
_ALLOWANCE_MS = 5.0
_ALLOWANCE_SHARE = 0.02


def is_late(total_ms: float, spendable_ms: float) -> bool:
    """Whether an answer took longer than the promise allows; where nothing could be spent, none is late."""
    return spendable_ms > 0 and total_ms > spendable_ms + max(_ALLOWANCE_MS, _ALLOWANCE_SHARE * spendable_ms)


class Metrics:
    """Every instrument of the process. `answered` is on every request's way: what it records is kept small."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

        def shares(name: str, description: str) -> Histogram:
            return meter.create_histogram(name, "1", description, explicit_bucket_boundaries_advisory=_SHARE_BUCKETS)

        self._duration = meter.create_histogram(
            "millirank.request.duration",
            "ms",
            "Time from a request's bytes to its answer's",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS_MS,
        )
        self._stages = _Tally(
            meter,
            "millirank.stage.time",
            "ms",
            "Where the time of answers that were planned to be reranked went",
            ("millirank.strategy", "millirank.stage"),
        )
        self._budget_use = shares("millirank.budget.use", "Time taken as a share of what could be spent")
        self._misses = meter.create_counter(
            "millirank.budget.misses", "{request}", "Answers later than what could be spent + max(5 ms, 2 %)"
        )
        self._coverage = shares("millirank.coverage", "Scored candidates as a share of the planned ones")
        self._prediction = shares(
            "millirank.prediction.ratio", "Actual over predicted median time of complete, uncached arms"
        )
        self._predictions = _Tally(
            meter,
            "millirank.predictions",
            "{request}",
            "The same arms, by the smallest predicted quantile that held",
            ("millirank.reranker", "millirank.held"),
        )
        self._pairs = _Tally(
            meter,
            "millirank.pairs",
            "{pair}",
            "Query-document pairs that were scored: computed, or kept from before",
            ("millirank.reranker", "millirank.cache"),
        )
        self._degradations = meter.create_counter("millirank.degradations", "1", "Answers that were less than planned")
        self._cost = meter.create_counter("millirank.cost", "{micro_usd}", "Price of what was computed")
        self._errors = meter.create_counter("millirank.errors", "1", "Requests answered with an error")
        self._abandoned = meter.create_counter(
            "millirank.abandoned", "{request}", "Requests whose caller had gone before the answer"
        )
        self._shadow_rbo = shares(
            "millirank.shadow.rbo", "Agreement of an answer's order with the reference's: rank-biased overlap, p = 0.9"
        )
        self._shadow_ndcg = shares(
            "millirank.shadow.ndcg", "nDCG@10 with the reference's scores as gains: of the answer, of the first stage"
        )
        self._shadow_dropped = meter.create_counter("millirank.shadow.dropped", "1", "Drawn, but not evaluated")
        self._lost = meter.create_counter("millirank.records.dropped", "1", "Records that no file took")
        self._reloads = meter.create_counter("millirank.profile.reloads", "1", "Changed profiles, taken or refused")
        self.loop_lag = meter.create_histogram(
            "millirank.loop.lag",
            "ms",
            "How much later than asked for the event loop did something",
            explicit_bucket_boundaries_advisory=_LAG_BUCKETS_MS,
        )

    def watch(
        self, rerankers: Mapping[str, Reranker], mode: Callable[[], Mode], utilisation: Callable[[], float]
    ) -> None:
        """Report, whenever metrics are read, what the process is in: called from whichever thread reads them.

        ``utilisation`` is `sidecar.utilisation`'s.
        """
        schedulers = {name: each.scheduler for name, each in rerankers.items() if each.scheduler is not None}

        def computed(options: CallbackOptions) -> Iterable[Observation]:
            for name, scheduler in schedulers.items():
                yield Observation(scheduler.computed_ms, {"millirank.reranker": name})

        def waiting(options: CallbackOptions) -> Iterable[Observation]:
            for name, scheduler in schedulers.items():
                yield Observation(scheduler.waiting, {"millirank.reranker": name})

        def states(options: CallbackOptions) -> Iterable[Observation]:
            for name, reranker in rerankers.items():
                current = reranker.availability().state
                for state in State:
                    labels = {"millirank.reranker": name, "millirank.state": state.value}
                    yield Observation(int(state is current), labels)

        def modes(options: CallbackOptions) -> Iterable[Observation]:
            current = mode()
            return [Observation(int(each is current), {"millirank.mode": each.value}) for each in Mode]

        def used(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(utilisation())]

        # A counter that begins with its first event hides that event from rates: these, which alerts watch, begin at 0.
        for strategy in Strategy:
            self._misses.add(0, _one("millirank.strategy", strategy.value))
        for reason in DegradationReason:
            self._degradations.add(0, {"millirank.degradation": reason.value})
        self._abandoned.add(0)

        def gauge(name: str, callback: _Callback, unit: str, description: str) -> None:
            self._meter.create_observable_gauge(name, [callback], unit, description)

        self._meter.create_observable_counter(
            "millirank.compute", [computed], "ms", "Time that local models have computed, whether or not it was used"
        )
        gauge("millirank.queue.requests", waiting, "{request}", "Requests that wait for a local model")
        gauge("millirank.reranker.state", states, "{reranker}", "1 for the state that a reranker is in, else 0")
        gauge("millirank.mode", modes, "{sidecar}", "1 for the mode that the sidecar is in, else 0")
        gauge(
            "millirank.utilisation",
            used,
            "1",
            "Busy share, from 0 to 1, of the busiest of: each local model, the event loop; over about 30 s",
        )

    def answered(self, answer: Answer) -> None:
        """Count one answer."""
        decision = answer.explanation.decision
        outcome = answer.outcome
        strategy = decision.strategy.value
        total_ms, spendable_ms = answer.timing.total_ms, answer.explanation.spendable_ms
        labels = _labels(
            decision.strategy,
            decision.reranker,
            decision.reason,
            outcome.completeness,
            answer.cache,
            answer.explanation.mode,
        )
        self._duration.record(total_ms, labels)
        if spendable_ms > 0:
            # One label: who wants the rest looks at the durations.
            by_strategy = _one("millirank.strategy", strategy)
            self._budget_use.record(total_ms / spendable_ms, by_strategy)
            if is_late(total_ms, spendable_ms):
                self._misses.add(1, by_strategy)
        for degradation in outcome.degradations:
            self._degradations.add(1, {"millirank.degradation": degradation.reason.value})
        if decision.planned_k and answer.cache is CacheStatus.MISS:
            self._carried_out(answer)
        if outcome.usage.pairs:
            kept = outcome.usage.cached_pairs
            for how, count in (("kept", kept), ("computed", outcome.usage.pairs - kept)):
                if count:
                    self._pairs.add(count, decision.reranker, how)
        if outcome.usage.micro_usd:
            self._cost.add(outcome.usage.micro_usd, _one("millirank.reranker", decision.reranker))

    def failed(self, code: str) -> None:
        """Count one error."""
        self._errors.add(1, {"rpc.grpc.status_code": code})

    def abandoned(self) -> None:
        """Count one request that nobody waited for any more."""
        self._abandoned.add(1)

    def shadow_evaluated(self, strategy: str, rbo: float, ndcg: float | None, first_stage_ndcg: float | None) -> None:
        """Record how far an answer by ``strategy`` agrees with the reference, and how far first-stage order does.

        The nDCGs are None where the reference has no opinion.
        """
        self._shadow_rbo.record(rbo, _one("millirank.strategy", strategy))
        for order, value in (("answer", ndcg), ("first_stage", first_stage_ndcg)):
            if value is not None:
                self._shadow_ndcg.record(value, {"millirank.strategy": strategy, "millirank.order": order})

    def shadow_dropped(self, reason: str) -> None:
        """Count one request that was drawn for shadow evaluation in vain."""
        self._shadow_dropped.add(1, {"millirank.reason": reason})

    def record_dropped(self, kind: str) -> None:
        """Count one record (of a ``decision``, a ``shadow`` evaluation) that was lost."""
        self._lost.add(1, {"millirank.record": kind})

    def profiles_reloaded(self, accepted: bool) -> None:
        """Count one change of the profile files."""
        self._reloads.add(1, {"millirank.outcome": "accepted" if accepted else "refused"})

    def _carried_out(self, answer: Answer) -> None:
        """What a plan was predicted to take and took, and how much of it was done."""
        decision, outcome, timing = answer.explanation.decision, answer.outcome, answer.timing
        for stage, ms in _stages(answer):
            if ms > 0.0:
                self._stages.add(ms, decision.strategy.value, stage)
        if not decision.reranker or answer.explanation.mode is not Mode.ON:
            return  # arithmetic on the event loop, or the order was not used
        by_reranker = _one("millirank.reranker", decision.reranker)
        self._coverage.record(outcome.scored_k / decision.planned_k, by_reranker)
        if outcome.score_ms > 0 and not outcome.degradations and decision.predicted_p50_ms > 0:
            # All that was predicted: the queue, the model, and messages and fusing beside it.
            taken_ms = timing.total_ms - timing.route_ms
            self._prediction.record(taken_ms / decision.predicted_p50_ms, by_reranker)
            held = (
                "p50"
                if taken_ms <= decision.predicted_p50_ms
                else "p95"
                if taken_ms <= decision.predicted_p95_ms
                else "none"
            )
            self._predictions.add(1, decision.reranker, held)


_Callback = Callable[[CallbackOptions], Iterable[Observation]]


class _Tally:
    """A counter that is read when metrics are. Adding takes a small part of an instrument's own `add`, and every
    reranked answer adds half a dozen times."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._sums: dict[tuple[str, ...], float] = {}
        meter.create_observable_counter(name, [self._read], unit, description)

    def add(self, amount: float, *values: str) -> None:
        """``values`` are those of the labels, in their order."""
        self._sums[values] = self._sums.get(values, 0) + amount

    def _read(self, options: CallbackOptions) -> Iterable[Observation]:
        # From the thread that exports: a copy does not grow while it is gone through.
        for values, total in self._sums.copy().items():
            yield Observation(total, dict(zip(self._labels, values, strict=True)))


def _stages(answer: Answer) -> Sequence[tuple[str, float]]:
    """The answer's time in ms by what it went into; they add up to the whole."""
    timing = answer.timing
    known = (("route", timing.route_ms), ("queue", timing.queue_ms), ("score", timing.score_ms))
    return (*known, ("other", timing.total_ms - sum(ms for _, ms in known)))


@functools.lru_cache(maxsize=256)
def _one(key: str, value: str) -> Mapping[str, str]:
    return {key: value}


@functools.lru_cache(maxsize=1024)
def _labels(
    strategy: Strategy, reranker: str, reason: Reason, completeness: Completeness, cache: CacheStatus, mode: Mode
) -> Mapping[str, str]:
    """Kept, as plain strings: an enum's member takes the SDK three times as long to look up."""
    return {
        "millirank.strategy": strategy.value,
        "millirank.reranker": reranker,
        "millirank.reason": reason.value,
        "millirank.completeness": completeness.value,
        "millirank.cache": cache.value,
        "millirank.mode": mode.value,
    }
