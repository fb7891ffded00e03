"""A pool without a cluster: what one serves, `RerankService`, from this process, around any reranker or around none;
and the arms that call it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc

from router.arms import State, Strategy
from sidecar.pool_channel import PoolChannel
from sidecar.rerankers.base import Reranker
from sidecar.rerankers.local import LocalReranker
from sidecar.rerankers.pool import PoolReranker
from sidecar.service import SERVICE_NAME
from tests.helpers import Rig, rig
from tests.rerankers.local_models import settled, until

PATIENT_S = 5.0


class PooledModel(PoolReranker):
    """A local model behind a real gRPC server, and the reranker that calls it; started and closed together."""

    def __init__(self, local: LocalReranker, max_tokens: int) -> None:
        self._local = local
        self._stack = contextlib.AsyncExitStack()
        self._address = ""
        identity = local.identity

        def connect() -> PoolChannel:
            return PoolChannel([self._address], identity.name, identity.strategy)

        super().__init__("pooled", identity.strategy, connect, max_tokens=max_tokens)

    async def start(self) -> None:
        await self._local.start()
        await until(lambda: self._local.availability().state is not State.WARMING)
        (self._address,) = await self._stack.enter_async_context(rig(self._local).served())
        await super().start()

    async def close(self) -> None:
        await super().close()
        await self._stack.aclose()
        await self._local.close()


@contextlib.asynccontextmanager
async def served(reranker: Reranker) -> AsyncIterator[tuple[str, Rig]]:
    """A pool of one model; gives its address, and its parts, to look into and to meddle with."""
    parts = rig(reranker)  # type: ignore[arg-type]  # any reranker will do
    async with parts.served() as (address,):
        yield address, parts


def arm(addresses: list[str], name: str = "bge", **options: object) -> PoolReranker:
    """An arm that has not started; its model's name in the pool is ``name``."""
    strategy = Strategy.CROSS_ENCODER
    return PoolReranker("pooled", strategy, lambda: PoolChannel(addresses, name, strategy), **options)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def calling(addresses: list[str], **options: object) -> AsyncIterator[PoolReranker]:
    """An arm that is ready."""
    reranker = arm(addresses, **options)  # type: ignore[arg-type]
    await reranker.start()
    try:
        await settled(reranker)
        assert reranker.availability().state is State.READY, reranker.availability()
        yield reranker
    finally:
        await reranker.close()


class Broken:
    """A server that is reached and answers UNAVAILABLE to everything, as a proxy without a backend does, or nothing."""

    def __init__(self) -> None:
        self.calls = 0
        self.failing = False
        self.hangs = False

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        async def refuse(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self.calls += self.failing
            await asyncio.sleep(60.0 if self.hangs else 0.0)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no backend")
            raise AssertionError

        handler = grpc.unary_unary_rpc_method_handler(refuse)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, {"Rerank": handler, "ExplainRoute": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0.0)
