"""A pool without a cluster: what one serves, `RerankService`, from this process, around any reranker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from router.arms import State
from sidecar.pool_channel import PoolChannel
from sidecar.rerankers.base import Reranker
from sidecar.rerankers.local import LocalReranker
from sidecar.rerankers.pool import PoolReranker
from tests.helpers import Rig, rig
from tests.rerankers.local_models import until


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
