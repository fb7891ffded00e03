"""Kept and shared answers as a state machine: whatever order callers come, leave and are answered in, a simple model
says what each of them gets (DESIGN section 6, invariants 9 and 10)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.policy import Routing
from sidecar.cache import ResultCache
from sidecar.messages import Answer, CacheStatus, Completeness
from sidecar.rerankers.base import BackendError, Scored, ScoreRequest
from tests.helpers import Clock, ScriptedReranker, request, rig

CAPACITY, TTL_S = 2, 60.0
ENTRY_BYTES = 1024 + 2 * 160  # two candidates, as `sidecar.cache` counts them
QUERIES = st.sampled_from(["red", "green", "blue"])


class _Held(ScriptedReranker):
    """Every call waits until a test says how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, list[asyncio.Future[Scored]]] = {}

    async def score(self, request: ScoreRequest, timeout_s: float) -> Scored:
        end: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self.open.setdefault(request.query, []).append(end)
        try:
            return await end
        finally:
            self.open[request.query].remove(end)


class _Caller:
    def __init__(self, task: asyncio.Task[Answer]) -> None:
        self.task = task

    def answer(self) -> Answer:
        assert self.task.done(), "has waited for nothing"
        return self.task.result()


class CachedAnswers(RuleBasedStateMachine):
    """The model: ``kept`` (query -> end of its time, the least recently used first), ``flights`` (query -> who waits
    for the one computation, its leader first), and ``alone``, those who compute for themselves after the computation
    that they shared came out degraded."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.reranker = _Held()
        cache = ResultCache(CAPACITY * ENTRY_BYTES, TTL_S, self.clock)
        self.parts = rig(self.reranker, clock=self.clock, cache=cache)
        self.cache = cache
        self.tasks: list[asyncio.Task[Answer]] = []
        self.kept: OrderedDict[str, float] = OrderedDict()
        self.flights: dict[str, list[_Caller]] = {}
        self.alone: dict[str, list[_Caller]] = {}

    @rule(query=QUERIES)
    def ask(self, query: str) -> None:
        """A kept answer is given at once; otherwise one joins who computes the same, or begins."""
        asked = request(query, "red", "green blue", routing=Routing(reranker="scripted"), budget_ms=3_600_000.0)
        calls = self._calls(query)
        caller = _Caller(self.loop.create_task(self.parts.pipeline.rerank(asked, None, self.clock())))
        self.tasks.append(caller.task)
        self._settle()
        if self._fresh(query):
            self.kept.move_to_end(query)
            answer = caller.answer()
            assert answer.cache is CacheStatus.HIT
            assert answer.outcome.completeness is Completeness.FULL
            assert answer.outcome.usage.tokens == 0
        else:
            assert self._calls(query) == calls + (query not in self.flights)
            self.flights.setdefault(query, []).append(caller)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """A good end is everybody's, and kept."""
        query, callers = self._flight(data)
        self.reranker.open[query][0].set_result(Scored(scores=(1.0, 2.0), tokens=20, compute_ms=1.0))
        self._settle()
        for place, caller in enumerate(callers):
            answer = caller.answer()
            assert answer.cache is (CacheStatus.SHARED if place else CacheStatus.MISS)
            assert [item.position for item in answer.outcome.ranked] == [1, 0]
        self._forget_expired()
        self.kept[query] = self.clock.now + TTL_S
        self.kept.move_to_end(query)
        if len(self.kept) > CAPACITY:
            self.kept.popitem(last=False)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A degraded answer is the leader's alone: nobody keeps it, and the others compute for themselves."""
        query, (leader, *others) = self._flight(data)
        self.reranker.open[query][0].set_exception(BackendError("down"))
        self._settle()
        assert leader.answer().outcome.completeness is Completeness.FIRST_STAGE_ONLY
        assert not any(other.task.done() for other in others)
        if others:
            self.alone.setdefault(query, []).extend(others)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def break_down(self, data: st.DataObject) -> None:
        """A bug is told to everybody who waited for it, and the next one begins anew."""
        query, callers = self._flight(data)
        self.reranker.open[query][0].set_exception(ValueError("a bug"))
        self._settle()
        for caller in callers:
            assert isinstance(caller.task.exception(), ValueError)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Whoever leaves, the leader too, takes nothing from the others; the last one ends the computation."""
        query = data.draw(st.sampled_from(sorted(self.flights)))
        callers = self.flights[query]
        caller = callers.pop(data.draw(st.integers(0, len(callers) - 1)))
        caller.task.cancel()
        self._settle()
        assert caller.task.cancelled()
        if not callers:
            del self.flights[query]

    @precondition(lambda self: self.alone)
    @rule()
    def finish_alone(self) -> None:
        """Each of those who compute for themselves gets an answer of its own."""
        for query, callers in self.alone.items():
            # The shared computation, if there is one again, began later.
            for end in self.reranker.open[query][: len(callers)]:
                end.set_result(Scored(scores=(1.0, 2.0), tokens=20, compute_ms=1.0))
            self._settle()
            assert {caller.answer().cache for caller in callers} == {CacheStatus.MISS}
        self.alone.clear()

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what is kept grows old."""
        self.clock.now += seconds

    @invariant()
    def nothing_is_computed_for_nobody_or_twice(self) -> None:
        """One call a flight, and one for each who computes alone."""
        for query in ("red", "green", "blue"):
            assert self._calls(query) == (query in self.flights) + len(self.alone.get(query, ()))

    @invariant()
    def memory_is_bounded(self) -> None:
        """No more answers are kept than fit."""
        assert len(self.cache) <= CAPACITY

    def teardown(self) -> None:
        """Everybody leaves, and nothing is left of it."""
        for task in self.tasks:
            task.cancel()
        self._settle()
        left = [query for query, calls in self.reranker.open.items() if calls]
        self.loop.run_until_complete(self.parts.pipeline.close())
        self.loop.close()
        assert not left

    def _flight(self, data: st.DataObject) -> tuple[str, list[_Caller]]:
        """A computation that is not behind those of its query who compute alone, taken out of the model."""
        query = data.draw(st.sampled_from(sorted(self.flights)))
        if self.alone.get(query):
            self.finish_alone()
        return query, self.flights.pop(query)

    def _calls(self, query: str) -> int:
        return len(self.reranker.open.get(query, ()))

    def _fresh(self, query: str) -> bool:
        self._forget_expired()
        return query in self.kept

    def _forget_expired(self) -> None:
        for query in [query for query, end in self.kept.items() if end <= self.clock.now]:
            del self.kept[query]

    def _settle(self) -> None:
        async def turns() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())


CachedAnswers.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestCachedAnswers = CachedAnswers.TestCase
