"""AdminService over real channels to a real process, and the command that speaks it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from millirank import Client
from millirank.v1 import admin_service_pb2 as pb
from millirank.v1 import admin_service_pb2_grpc as pb_grpc
from millirank.v1 import decision_pb2 as dpb

from sidecar import profiles
from tests.e2e.rpc import TIMEOUT_S, failure_of
from tests.e2e.sidecar_process import NO_MODELS, PATIENCE_S, SidecarProcess, millirank
from tests.helpers import arm_data, profile_data

DOCUMENTS = ("first", "second", "third")


def legal(gain: float) -> str:
    """A profile in which only SIGNALS helps, by ``gain``."""
    arm = arm_data("signals", gain=gain)
    return json.dumps(profile_data("legal", signals=arm))


class Administered:
    """A sidecar process without models, its profiles in a folder, and both its addresses."""

    def __init__(self, process: SidecarProcess, folder: Path) -> None:
        self.process = process
        self.profile = folder / "legal.json"
        self.data = process.addresses[0]
        self.admin = str(process.wait_for_log("administration")["address"])
        self.channel = grpc.insecure_channel(self.admin)
        self.stub = pb_grpc.AdminServiceStub(self.channel)

    def command(self, *arguments: str) -> tuple[int, str, str]:
        done = millirank("admin", *arguments, "--target", self.admin)
        return done.returncode, done.stdout, done.stderr

    def decided_by(self) -> tuple[str, str]:
        """Corpus and revision of the profile that decides for 'legal', and the strategy that it takes."""
        with Client(self.data) as client:
            decision = client.explain(
                "q", list(DOCUMENTS), corpus="legal", signals=lambda text: {"bm25": float(len(text))}, timeout_ms=10_000
            )
        return decision.profile_revision, decision.strategy.value


@pytest.fixture
def administered(tmp_path: Path) -> Iterator[Administered]:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "legal.json").write_text(legal(0.1))
    variables = {
        **NO_MODELS,
        "MILLIRANK_LISTEN__ADMIN": "127.0.0.1:0",
        "MILLIRANK_PROFILES": json.dumps([str(folder)]),
        "MILLIRANK_RERANKERS__ABSENT__STRATEGY": "cross_encoder",
        "MILLIRANK_RERANKERS__ABSENT__MODEL": "/nowhere/model",
    }
    with SidecarProcess(variables) as process:
        sidecar = Administered(process, folder)
        yield sidecar
        sidecar.channel.close()


def revision_of(text: str, folder: Path) -> str:
    path = folder / "revision.json"
    path.write_text(text)
    return profiles.read(path).revision


def test_every_configured_reranker_is_listed_with_the_reason_why_it_is_off(administered: Administered) -> None:
    """In the configuration's order: switched off there, without an address, without its model's files."""
    answer = administered.stub.ListRerankers(pb.ListRerankersRequest(), timeout=TIMEOUT_S)
    listed = {each.name: each for each in answer.rerankers}
    assert list(listed) == ["minilm-l6", "tiny-cross-encoder", "llm", "absent"]
    assert {each.state for each in answer.rerankers} == {pb.RERANKER_STATE_OFF}
    assert listed["minilm-l6"].strategy == dpb.STRATEGY_LATE_INTERACTION
    assert "set rerankers.minilm-l6.enabled = true" in listed["minilm-l6"].detail
    assert "base_url and model not set" in listed["llm"].detail
    assert "/nowhere/model" in listed["absent"].detail
    assert (answer.mode, answer.profile_error) == (dpb.MODE_ON, "")


def test_profile_is_shown_as_it_decides(administered: Administered, tmp_path: Path) -> None:
    """By corpus, with its file, revision and content; a corpus without one gets the default one, which says so."""
    answer = administered.stub.GetProfile(pb.GetProfileRequest(corpus="legal"), timeout=TIMEOUT_S)
    assert answer.content == legal(0.1)
    revision = revision_of(legal(0.1), tmp_path)
    assert answer.version == pb.ProfileVersion(corpus="legal", revision=revision, file=str(administered.profile))
    assert administered.decided_by() == (revision, "signals")
    assert [each.corpus for each in answer.loaded] == ["default", "legal"]
    other = administered.stub.GetProfile(pb.GetProfileRequest(corpus="unheard of"), timeout=TIMEOUT_S)
    assert (other.version.corpus, other.version.file) == ("default", "")
    assert json.loads(other.content)["corpus"] == "default"


def test_reload_swaps_and_a_bad_file_does_not(administered: Administered, tmp_path: Path) -> None:
    """The new profile decides for the next request. One that can't be used is refused with the file and the fix, the
    old one goes on deciding, and listing says what is wrong until it is mended."""
    stub = administered.stub
    administered.profile.write_text(legal(-0.1))
    stub.ReloadProfile(pb.ReloadProfileRequest(), timeout=TIMEOUT_S)
    revision = revision_of(legal(-0.1), tmp_path)
    assert administered.decided_by() == (revision, "none")

    administered.profile.write_text(legal(0.3).replace("signals", "singals"))
    failure = asyncio.run(refused(administered.admin))
    assert (failure.code, failure.info.reason) == ("FAILED_PRECONDITION", "PROFILE_REFUSED")
    assert failure.message.startswith(f"profile {administered.profile}: $.known_singals: unknown key")
    assert administered.decided_by() == (revision, "none")
    assert stub.ListRerankers(pb.ListRerankersRequest(), timeout=TIMEOUT_S).profile_error == failure.message
    assert stub.GetProfile(pb.GetProfileRequest(), timeout=TIMEOUT_S).profile_error == failure.message

    administered.profile.unlink()
    answer = stub.ReloadProfile(pb.ReloadProfileRequest(), timeout=TIMEOUT_S)
    assert list(answer.changed) == ["legal"]
    assert [each.corpus for each in answer.loaded] == ["default"]
    assert stub.ListRerankers(pb.ListRerankersRequest(), timeout=TIMEOUT_S).profile_error == ""


async def refused(address: str):  # type: ignore[no-untyped-def]
    async with grpc.aio.insecure_channel(address) as channel:
        return await failure_of(pb_grpc.AdminServiceStub(channel).ReloadProfile(pb.ReloadProfileRequest()))


def test_changed_file_is_seen_without_being_told(administered: Administered, tmp_path: Path) -> None:
    """The watch notices within seconds, and the log says which profile decides now."""
    administered.profile.write_text(legal(0.2))
    entry = administered.process.wait_for_log("profiles reloaded")
    revision = revision_of(legal(0.2), tmp_path)
    assert (entry["changed"], entry["revisions"]["legal"]) == (["legal"], revision)
    assert administered.decided_by()[0] == revision


def test_mode_is_set_for_the_next_request(administered: Administered) -> None:
    """Off computes nothing; back on, SIGNALS is taken again. The answer names the mode before."""
    stub = administered.stub
    answer = stub.SetMode(pb.SetModeRequest(mode=dpb.MODE_OFF), timeout=TIMEOUT_S)
    assert (answer.mode, answer.previous) == (dpb.MODE_OFF, dpb.MODE_ON)
    assert administered.decided_by()[1] == "none"
    answer = stub.SetMode(pb.SetModeRequest(mode=dpb.MODE_ON), timeout=TIMEOUT_S)
    assert (answer.mode, answer.previous) == (dpb.MODE_ON, dpb.MODE_OFF)
    assert administered.decided_by()[1] == "signals"


async def test_wrong_fields_are_named(administered: Administered) -> None:
    """No mode, one from the future, a corpus that is too long, bytes that are nothing: INVALID_ARGUMENT."""
    async with grpc.aio.insecure_channel(administered.admin) as channel:
        stub = pb_grpc.AdminServiceStub(channel)
        for mode in (0, 17):
            failure = await failure_of(stub.SetMode(pb.SetModeRequest(mode=mode)))
            assert (failure.code, failure.fields.keys()) == ("INVALID_ARGUMENT", {"mode"})
        failure = await failure_of(stub.GetProfile(pb.GetProfileRequest(corpus="x" * 129)))
        assert failure.fields == {"corpus": "has 129 characters; at most 128"}
        method = channel.unary_unary("/millirank.v1.AdminService/SetMode")
        failure = await failure_of(method(b"\xff\xff"))
        assert (failure.code, failure.fields.keys()) == ("INVALID_ARGUMENT", {"(message)"})


def test_the_listener_that_reranks_has_no_administration(administered: Administered) -> None:
    """And the operator's does not rerank. The latter has health and reflection of its own."""
    with grpc.insecure_channel(administered.data) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.AdminServiceStub(channel).SetMode(pb.SetModeRequest(mode=dpb.MODE_OFF), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    services = set(ProtoReflectionDescriptorDatabase(administered.channel).get_services())
    assert services == {
        "millirank.v1.AdminService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    asked = health_pb2.HealthCheckRequest(service="millirank.v1.AdminService")
    status = health_pb2_grpc.HealthStub(administered.channel).Check(asked, timeout=TIMEOUT_S).status
    assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "somewhere.example:0"])
def test_only_this_machine_may_administer(address: str) -> None:
    """There is no authentication, so an address that others can reach ends the start with exit code 2."""
    done = millirank("serve", variables={**NO_MODELS, "MILLIRANK_LISTEN__ADMIN": address})
    assert done.returncode == 2
    assert f"listen.admin is {address!r}" in done.stderr
    assert "must be a loopback address" in done.stderr


def test_private_socket(tmp_path: Path) -> None:
    """listen.admin = unix:/path: created for owner and group only, as every socket of the sidecar."""
    path = tmp_path / "run" / "admin.sock"
    with SidecarProcess({**NO_MODELS, "MILLIRANK_LISTEN__ADMIN": f"unix:{path}"}) as process:
        assert process.wait_for_log("administration")["address"] == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        done = millirank("admin", "mode", "observe", "--target", f"unix:{path}")
        assert (done.returncode, done.stdout) == (0, "mode observe, was on\n")


def test_command(administered: Administered) -> None:
    """Each action prints what the RPC answers, for people or as JSON; a refusal is exit code 1 and one line."""
    code, out, _ = administered.command("rerankers")
    assert code == 0
    assert "minilm-l6 is off: switched off by the configuration" in " ".join(out.split())
    code, out, _ = administered.command("rerankers", "--json")
    assert json.loads(out)["rerankers"][0]["name"] == "minilm-l6"
    code, out, _ = administered.command("profile", "legal")
    assert (code, "+0.100 at 2" in out, "decides: legal" in out) == (0, True, True)
    code, out, _ = administered.command("mode", "off")
    assert (code, out) == (0, "mode off, was on\n")
    administered.profile.write_text("{")
    code, out, error = administered.command("reload")
    assert (code, out) == (1, "")
    assert error.startswith(f"millirank admin reload: FAILED_PRECONDITION: profile {administered.profile} is not valid")
    done = millirank("admin", "reload", "--target", administered.data)
    assert (done.returncode, "has no AdminService" in done.stderr) == (1, True)
    done = millirank("admin", "reload", "--target", "127.0.0.1:1")
    assert (done.returncode, "no sidecar administers at 127.0.0.1:1" in done.stderr) == (1, True)


def test_requests_under_way_while_profiles_change(administered: Administered) -> None:
    """Profiles are swapped a hundred times under requests: each is decided by one of the two, whole: the strategy
    always is the one that the revision it names stands for."""
    strategies = {}
    for gain in (0.2, -0.2):
        administered.profile.write_text(legal(gain))
        administered.stub.ReloadProfile(pb.ReloadProfileRequest(), timeout=TIMEOUT_S)
        revision, strategy = administered.decided_by()
        strategies[revision] = strategy
    assert sorted(strategies.values()) == ["none", "signals"]
    seen = set()
    end = time.monotonic() + PATIENCE_S
    with Client(administered.data) as client:
        for number in range(100):
            administered.profile.write_text(legal(0.2 if number % 2 else -0.2))
            reload = administered.stub.ReloadProfile.future(pb.ReloadProfileRequest())
            while not reload.done():
                assert time.monotonic() < end
                decision = client.explain(
                    "q", list(DOCUMENTS), corpus="legal", signals=lambda text: {"bm25": 1.0}, timeout_ms=10_000
                )
                assert decision.strategy.value == strategies[decision.profile_revision]
                seen.add(decision.profile_revision)
            assert reload.exception() is None
    assert seen == set(strategies)
