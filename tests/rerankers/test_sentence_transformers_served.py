"""The sentence-transformers engine in a sidecar without a network: models that it can use, and that it cannot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from millirank import Client, Outcome, Ranking, Reason, RerankerOffError

from tests.e2e.conftest import model_settings, wait_until_ready
from tests.e2e.sidecar_process import PATIENCE_S, SidecarProcess
from tests.rerankers.local_models import copy_model
from tests.rerankers.torch_cases import MARKS, QUERY, TEXTS, cut, pickle_only

pytest_plugins = ("tests.rerankers.checkpoints",)
pytestmark = MARKS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def client(xlmr_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A sidecar without a network: one embedded model, one in the hub's local cache, one that is not there, one that is
    a pickle, and one cut in half."""
    folder = tmp_path_factory.mktemp("offline")
    pickled, halved = (copy_model(xlmr_tiny, folder / name) for name in ("pickled", "halved"))
    pickle_only(pickled)
    cut(halved, 300_000)
    repository = folder / "hub" / "hub" / "models--tests--xlmr-tiny"
    copy_model(xlmr_tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    names = {"CACHED": "tests/xlmr-tiny", "BGE": "BAAI/bge-reranker-v2-m3", "PICKLED": pickled, "HALVED": halved}
    variables = model_settings(folder) | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    for name, model in names.items():
        table = {"strategy": "cross_encoder", "engine": "sentence_transformers", "model": str(model)}
        variables[f"MILLIRANK_RERANKERS__{name}"] = json.dumps(table)
    with SidecarProcess(variables) as sidecar:
        (address,) = sidecar.addresses
        wait_until_ready(address)
        with Client(address) as client:
            yield client


def forced(client: Client, reranker: str) -> Ranking[str]:
    """The first answer of one reranker after it has loaded, or what is raised instead."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ranking = client.rerank(QUERY, TEXTS[2:], budget_ms=30_000, reranker=reranker, use_cache=False)
        if Reason.NOT_READY not in ranking.reasons:
            return ranking
        assert time.monotonic() < deadline, ranking
        time.sleep(0.05)


def test_a_hub_name_in_the_local_cache(client: Client) -> None:
    """What was downloaded before is found by its name without a network, and scores."""
    ranking = forced(client, "cached")
    assert ranking.outcome is Outcome.RANKED
    assert ranking.decision is not None
    assert ranking.decision.reranker == "cached"
    assert ranking.decision.model_revision


@pytest.mark.parametrize(
    ("reranker", "reason"),
    [
        ("bge", "bge-reranker-v2-m3 is neither a folder nor complete in the local cache, and HF_HUB_OFFLINE is set"),
        ("pickled", r"pickled/pytorch_model\.bin is a pickle"),
        ("halved", r"halved/model\.safetensors has 300,000 bytes and should have"),
    ],
)
def test_a_forced_model_that_cannot_be_used(client: Client, reranker: str, reason: str) -> None:
    """FAILED_PRECONDITION with the reason, while every other arm goes on."""
    with pytest.raises(RerankerOffError, match=reason):
        forced(client, reranker)
    ranking = client.rerank(QUERY, TEXTS[2:], budget_ms=30_000)
    assert ranking.decision is not None
    assert ranking.decision.reranker == "minilm-l6"
