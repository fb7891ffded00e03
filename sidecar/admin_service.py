"""The operator's RPCs: what the sidecar consists of, which profiles decide, and its mode."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from millirank.v1 import admin_service_pb2 as pb
from millirank.v1 import decision_pb2 as dpb

from router.arms import Availability, State
from router.profile import Profile
from sidecar.errors import InvalidFieldError, to_failure
from sidecar.logs import place
from sidecar.pipeline import Pipeline
from sidecar.profile_watch import ProfileWatch
from sidecar.profiles import Profiles
from sidecar.reranker_settings import RerankerSettings
from sidecar.rerankers.base import Reranker
from sidecar.settings import Mode
from sidecar.wire import MAX_NAME_CHARACTERS, duration

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["AdminService"].full_name

_log = logging.getLogger("millirank.admin")

_Question = TypeVar("_Question", bound=Message)
_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class AdminService:
    """AdminService over the parts that it shows and changes. Call it on the event loop that runs them."""

    def __init__(
        self,
        configured: Mapping[str, RerankerSettings],
        rerankers: Mapping[str, Reranker],
        pipeline: Pipeline,
        watch: ProfileWatch,
    ) -> None:
        """``rerankers`` are those of ``configured`` that are enabled."""
        self._configured = configured
        self._rerankers = rerankers
        self._pipeline = pipeline
        self._watch = watch

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server registers."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "ListRerankers": _method(pb.ListRerankersRequest, self._list_rerankers),
                "GetProfile": _method(pb.GetProfileRequest, self._get_profile),
                "ReloadProfile": _method(pb.ReloadProfileRequest, self._reload_profile),
                "SetMode": _method(pb.SetModeRequest, self._set_mode),
            },
        )

    async def _list_rerankers(self, question: pb.ListRerankersRequest) -> pb.ListRerankersResponse:
        return pb.ListRerankersResponse(
            rerankers=[self._reranker(name, configured) for name, configured in self._configured.items()],
            mode=f"MODE_{self._pipeline.mode.name}",
            profile_error=self._watch.error,
        )

    def _reranker(self, name: str, configured: RerankerSettings) -> pb.Reranker:
        running = self._rerankers.get(name)
        if running is None:
            fix = f"switched off by the configuration; set rerankers.{name}.enabled = true and restart"
            availability, revision, queue_ms = Availability(State.OFF, fix), "", 0.0
        else:
            availability, revision = running.availability(), running.identity.revision
            queue_ms = running.queue_ms() if availability.state is State.READY else 0.0
        return pb.Reranker(
            name=name,
            strategy=f"STRATEGY_{configured.strategy.upper()}",
            state=f"RERANKER_STATE_{availability.state.name}",
            detail=availability.detail,
            revision=revision,
            queue=duration(queue_ms),
        )

    async def _get_profile(self, question: pb.GetProfileRequest) -> pb.GetProfileResponse:
        if len(question.corpus) > MAX_NAME_CHARACTERS:
            raise InvalidFieldError("corpus", f"has {len(question.corpus)} characters; at most {MAX_NAME_CHARACTERS}")
        profiles = self._watch.current
        profile = profiles.select(question.corpus)
        return pb.GetProfileResponse(
            version=_version(profile, profiles),
            content=profiles.sources[profile.corpus].text,
            profile_error=self._watch.error,
            loaded=_versions(profiles),
        )

    async def _reload_profile(self, question: pb.ReloadProfileRequest) -> pb.ReloadProfileResponse:
        changed = await self._watch.reload()
        return pb.ReloadProfileResponse(loaded=_versions(self._watch.current), changed=changed)

    async def _set_mode(self, question: pb.SetModeRequest) -> pb.SetModeResponse:
        modes = {dpb.Mode.Value(f"MODE_{mode.name}"): mode for mode in Mode}
        if question.mode not in modes:
            raise InvalidFieldError("mode", f"is {question.mode}; set MODE_OFF (1), MODE_OBSERVE (2) or MODE_ON (3)")
        previous = self._pipeline.mode
        self._pipeline.mode = modes[question.mode]
        _log.info("mode set", extra={"mode": self._pipeline.mode, "previous": previous})
        return pb.SetModeResponse(mode=question.mode, previous=f"MODE_{previous.name}")


def _versions(profiles: Profiles) -> Iterable[pb.ProfileVersion]:
    return [_version(profile, profiles) for profile in profiles.all()]


def _version(profile: Profile, profiles: Profiles) -> pb.ProfileVersion:
    path = profiles.sources[profile.corpus].path
    return pb.ProfileVersion(corpus=profile.corpus, revision=profile.revision, file=str(path) if path else "")


def _method(kind: type[_Question], handle: Callable[[_Question], Awaitable[Message]]) -> grpc.RpcMethodHandler:
    """A method over bytes, as in `sidecar.service`: bytes that can't be parsed get a precise answer."""

    async def answer(data: bytes, context: _Context) -> bytes:
        try:
            question = kind()
            try:
                question.ParseFromString(data)
            except DecodeError:
                raise InvalidFieldError("(message)", f"the bytes are not a {kind.DESCRIPTOR.full_name}") from None
            return (await handle(question)).SerializeToString()
        except Exception as error:  # noqa: BLE001 - the one place where every exception becomes a status
            request_id = uuid.uuid4().hex
            failure = to_failure(error, request_id)
            if failure.code is grpc.StatusCode.INTERNAL:
                _log.error("administration failed", extra={"request_id": request_id, "error": place(error)})
        await context.abort(failure.code, failure.message, failure.trailing_metadata)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(answer)
