"""The remote pool's arm: its warm-up, its prices, and settings that make no sense."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.arms import State
from sidecar.rerankers.base import (
    Document,
    NotReadyError,
    RerankerError,
    ScoreRequest,
)
from sidecar.rerankers.remote import HttpReranker
from tests.rerankers.fake_pool import FakePool, Fault
from tests.rerankers.local_models import settled
from tests.rerankers.remote_cases import AT_ONCE, REQUEST, failure, loaded


async def test_a_free_pool_is_measured_first(pool: FakePool) -> None:
    """The warm-up asks for made-up texts of several sizes and keeps (tokens, milliseconds) of them."""
    reranker = HttpReranker("pool", pool.url, max_documents=16)
    await reranker.start()
    assert reranker.availability().state is State.WARMING
    await settled(reranker)
    samples = reranker.warm_up_samples()
    assert len(samples) == len(pool.received) - 1
    assert len({tokens for tokens, _ in samples}) >= 3
    assert all(tokens > 0 and elapsed_ms > 0 for tokens, elapsed_ms in samples)
    assert max(len(received.body["documents"]) for received in pool.received) == 16
    await reranker.close()


async def test_a_pool_with_a_price_is_not_called_before_somebody_asks(pool: FakePool) -> None:
    """No money is spent on warming up."""
    reranker = HttpReranker("pool", pool.url, micro_usd_per_1k_documents=1.0)
    await reranker.start()
    await settled(reranker)
    assert reranker.availability().state is State.READY
    assert pool.connections == 0
    assert reranker.warm_up_samples() == ()
    await reranker.close()


async def test_price_of_an_answer(pool: FakePool) -> None:
    """Every document has its price, also where the answer could not be used; a call that failed counts as free."""
    reranker = await loaded(pool, HttpReranker("pool", pool.url, micro_usd_per_1k_documents=2_000.0))
    assert (await reranker.score(REQUEST, 5.0)).micro_usd == 8.0
    for fault, price in ((Fault.TWICE, 8.0), (Fault.FLOOD, 8.0), (Fault.STATUS, 0.0)):
        pool.fault = fault
        error = await failure(reranker.score(REQUEST, 5.0), AT_ONCE)
        assert isinstance(error, RerankerError)
        assert error.micro_usd == price
    await reranker.close()


@given(lengths=st.lists(st.integers(0, 8_192), min_size=1, max_size=60), price=st.floats(0.001, 1e6))
def test_no_k_is_promised_cheaper_than_it_is(lengths: list[int], price: float) -> None:
    """Whatever the lengths, the first k documents' tokens times the price per token is at least k times the price of
    a document; and for one of the ks it is no more."""
    reranker = HttpReranker("pool", "http://pool/rerank", micro_usd_per_1k_documents=price)
    work = reranker.work(ScoreRequest("query", "", [Document("d", "x" * length, b"") for length in lengths]))
    promised = [work.tokens_at(k) * work.micro_usd_per_token for k in range(1, len(lengths) + 1)]
    actual = [k * price / 1000 for k in range(1, len(lengths) + 1)]
    assert all(high >= low * (1 - 1e-9) for high, low in zip(promised, actual, strict=True))
    assert any(math.isclose(high, low) for high, low in zip(promised, actual, strict=True))


@pytest.mark.parametrize(
    "url", ["", "pool:8080/rerank", "ftp://pool/rerank", "http://", "http://pool:0", "http://[::1"]
)
async def test_no_url_is_off(url: str) -> None:
    """What is no URL switches the arm off with field and fix, and `start` changes nothing."""
    reranker = HttpReranker("pool", url)
    await reranker.start()
    assert reranker.availability().state is State.OFF
    assert "url is no http:// or https:// URL" in reranker.availability().detail
    with pytest.raises(NotReadyError, match="url is no"):
        await reranker.score(REQUEST, 1.0)
    await reranker.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HttpReranker("pool", "http://p", api="solr"), "api is 'solr'; choose cohere, jina, tei"),  # type: ignore[arg-type]
        (lambda: HttpReranker("pool", "http://p", micro_usd_per_1k_documents=-1.0), "micro_usd_per_1k_documents is -1"),
        (lambda: HttpReranker("pool", "http://p", max_documents=0), "max_documents is 0"),
        (lambda: HttpReranker("pool", "http://p", timeout_s=0.0), "timeout_s is 0.0"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], HttpReranker], words: str) -> None:
    """They are refused by name."""
    with pytest.raises(ValueError, match=words):
        make()
