"""Tenants: whatever is kept or shared for one is never found for another (DESIGN section 6, invariant 9)."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sidecar.messages import Answer, CacheStatus, Request
from sidecar.planner import _as_documents
from tests.helpers import Rig, ScriptedReranker, request, rig

HOUR_MS = 3_600_000.0
# Longer than a key of BLAKE2b may be, in bytes even more so.
_tenants = st.text(max_size=128) | st.builds("{}{}".format, st.just("語" * 126), st.integers(0, 9))


def asked(tenant: str) -> Request:
    return request("red green", "blue", "red green", tenant=tenant, budget_ms=HOUR_MS)


def digests(tenant: str, *texts: str) -> list[bytes]:
    return [document.digest for document in _as_documents(request("q", *texts, tenant=tenant))]


async def answered(parts: Rig, sent: Request) -> Answer:
    return await parts.pipeline.rerank(sent, None, parts.clock())


@given(one=_tenants, other=_tenants, text=st.text(max_size=30))
def test_equal_texts_of_two_tenants_have_different_digests(one: str, other: str, text: str) -> None:
    """A document's digest is equal exactly where the tenants are: kept vectors and scores are found by it."""
    assert (digests(one, text) == digests(other, text)) is (one == other)


@given(tenant=_tenants, one=st.text(max_size=30), other=st.text(max_size=30))
def test_digests_within_a_tenant_tell_texts_apart(tenant: str, one: str, other: str) -> None:
    """Within one tenant, the one without a name included, digests are equal exactly where the texts are."""
    first, second = digests(tenant, one, other)
    assert (first == second) is (one == other)
    assert len(first) == len(second) == 16


async def test_kept_answer_is_its_tenants_own() -> None:
    """The same request of another tenant, or of none, is computed anew; the first one's answer is kept for it."""
    reranker = ScriptedReranker()
    parts = rig(reranker)
    statuses = [(await answered(parts, asked(tenant))).cache for tenant in ("a", "b", "", "a")]
    assert statuses == [CacheStatus.MISS, CacheStatus.MISS, CacheStatus.MISS, CacheStatus.HIT]
    assert len(reranker.calls) == 3


async def test_computation_on_its_way_is_its_tenants_own() -> None:
    """Of three equal requests at the same time two are one tenant's: these share one computation, the third has its
    own."""
    reranker = ScriptedReranker()
    reranker.gate = asyncio.Event()
    parts = rig(reranker)
    tasks = [asyncio.create_task(answered(parts, asked(tenant))) for tenant in ("a", "a", "b")]
    while len(reranker.calls) < 2:
        await asyncio.sleep(0)
    reranker.gate.set()
    statuses = [answer.cache for answer in await asyncio.gather(*tasks)]
    assert statuses == [CacheStatus.MISS, CacheStatus.SHARED, CacheStatus.MISS]
    assert len(reranker.calls) == 2
