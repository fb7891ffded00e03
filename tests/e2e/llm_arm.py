"""A sidecar process whose only arm is an LLM, and a stand-in for the model that a test holds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from millirank.v1 import rerank_service_pb2 as pb

from tests.e2e.llama_server import LlamaServer
from tests.e2e.rpc import TIMEOUT_S, message
from tests.e2e.sidecar_process import NO_MODELS, PATIENCE_S
from tests.helpers import arm_data, profile_data
from tests.rerankers.fake_openai import FakeOpenAI


class HeldOpenAI(FakeOpenAI):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.release = asyncio.Event()

    async def answer(self, *arguments: Any) -> bool:
        self.asked.set()
        await self.release.wait()
        return await super().answer(*arguments)


def llm_settings(server: FakeOpenAI | LlamaServer, folder: Path) -> dict[str, str]:
    """A sidecar whose only arm is an LLM at ``server``, which its profile expects to help."""
    path = folder / "profile.json"
    path.write_text(json.dumps(profile_data(llm=arm_data("llm", gain=0.1))))
    return {
        **NO_MODELS,
        "MILLIRANK_PROFILES": json.dumps([str(path)]),
        "MILLIRANK_RERANKERS__LLM__BASE_URL": server.base_url,
        "MILLIRANK_RERANKERS__LLM__MODEL": "fake",
        "MILLIRANK_RERANKERS__LLM__TIMEOUT_S": str(PATIENCE_S),
    }


async def until_ready(stub: Any) -> None:
    """The LLM arm imports its SDK behind the first answers; nothing tells when, so ExplainRoute is asked."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            explained = await stub.ExplainRoute(
                pb.ExplainRouteRequest(request=message("blue", "red", budget_ms=60_000.0)), timeout=TIMEOUT_S
            )
            if explained.decision.reranker == "llm":
                return
            await asyncio.sleep(0.05)
