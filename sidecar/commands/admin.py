"""``millirank admin``: ask a running sidecar what it consists of, reload its profiles, set its mode."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from millirank.v1 import admin_service_pb2 as pb
from millirank.v1 import admin_service_pb2_grpc as pb_grpc
from millirank.v1 import decision_pb2 as dpb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.profile import parse

_DEFAULT_TARGET = "127.0.0.1:50052"
_TARGET_VARIABLE = "MILLIRANK_LISTEN__ADMIN"
_MODES = ("off", "observe", "on")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summaries = {
        "rerankers": "every configured reranker, its state and why it is off; and the mode",
        "profile": "the profile that decides for a corpus: its file, its revision, what it expects of each arm",
        "reload": "read all profile files again, and say what changed",
        "mode": "switch the whole sidecar off, to observing, or on, until it restarts",
    }
    for name, summary in summaries.items():
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == "profile":
            action.add_argument("corpus", nargs="?", default="", help="default: the default profile")
        if name == "mode":
            action.add_argument("mode", choices=_MODES)
        action.add_argument(
            "--target",
            default=os.environ.get(_TARGET_VARIABLE) or _DEFAULT_TARGET,
            metavar="ADDRESS",
            help="what the sidecar has as listen.admin, host:port or unix:/path "
            f"(default: ${_TARGET_VARIABLE}, or {_DEFAULT_TARGET})",
        )
        action.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="default: %(default)s")
        action.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 when the sidecar refuses (a profile that can't be used), or can't be reached."""
    actions: dict[str, Callable[[argparse.Namespace, Any], Message]] = {
        "rerankers": lambda given, stub: stub.ListRerankers(pb.ListRerankersRequest(), timeout=given.timeout),
        "profile": lambda given, stub: stub.GetProfile(
            pb.GetProfileRequest(corpus=given.corpus), timeout=given.timeout
        ),
        "reload": lambda given, stub: stub.ReloadProfile(pb.ReloadProfileRequest(), timeout=given.timeout),
        "mode": lambda given, stub: stub.SetMode(
            pb.SetModeRequest(mode=f"MODE_{given.mode.upper()}"), timeout=given.timeout
        ),
    }
    # The sidecar is on this machine: an http_proxy in the environment is not meant for it.
    with grpc.insecure_channel(arguments.target, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            stub = pb_grpc.AdminServiceStub(channel)  # type: ignore[no-untyped-call]  # generated without types
            answer = actions[arguments.action](arguments, stub)
        except grpc.RpcError as error:
            sys.stderr.write(f"millirank admin {arguments.action}: {_words(error, arguments.target)}\n")
            return 1
    if arguments.json:
        sys.stdout.write(MessageToJson(answer, always_print_fields_with_no_presence=True) + "\n")
    else:
        _show(answer, Console())
    return 0


def _words(error: grpc.RpcError, target: str) -> str:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"no sidecar administers at {target}; set listen.admin in its configuration and --target here"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} has no AdminService; is that the address that reranks? --target takes listen.admin"
    return f"{error.code().name}: {error.details()}"


def _show(answer: Message, console: Console) -> None:
    match answer:
        case pb.ListRerankersResponse():
            _show_rerankers(answer, console)
        case pb.GetProfileResponse():
            _show_profile(answer, console)
        case pb.ReloadProfileResponse():
            _show_versions(answer.loaded, console)
            console.print(f"changed: {', '.join(answer.changed) or 'nothing'}", markup=False)
        case pb.SetModeResponse():
            console.print(f"mode {_word(dpb.Mode, answer.mode)}, was {_word(dpb.Mode, answer.previous)}")


def _show_rerankers(answer: pb.ListRerankersResponse, console: Console) -> None:
    table = Table("reranker", "strategy", "state", "queue ms", "revision")
    for reranker in answer.rerankers:
        ready = reranker.state == pb.RERANKER_STATE_READY
        table.add_row(
            escape(reranker.name),
            _word(dpb.Strategy, reranker.strategy),
            _word(pb.RerankerState, reranker.state),
            f"{reranker.queue.ToTimedelta().total_seconds() * 1e3:.1f}" if ready else "",
            escape(reranker.revision),
            style="green" if ready else None,
        )
    console.print(table)
    for reranker in answer.rerankers:
        if reranker.detail:
            state = _word(pb.RerankerState, reranker.state)
            console.print(f"{reranker.name} is {state}: {reranker.detail}", markup=False)
    console.print(f"mode {_word(dpb.Mode, answer.mode)}")
    _show_error(answer.profile_error, console)


def _show_profile(answer: pb.GetProfileResponse, console: Console) -> None:

    profile = parse(json.loads(answer.content), answer.version.revision)
    table = Table("arm", "signals", "expected gain at k (lower end)", "prior")
    for name, arm in profile.arms.items():
        prior = f"{arm.latency.base_ms:g} ms + {arm.latency.ms_per_token:g} ms/token"
        for signals, curve in arm.gains.items():
            points = ", ".join(f"{gain:+.3f} at {k} ({lower:+.3f})" for k, gain, lower in curve.points)
            table.add_row(escape(name), escape(signals or "none"), points, prior)
        if not arm.gains:
            table.add_row(escape(name), "", "not calibrated", prior)
    console.print(table)
    console.print(f"decides: {answer.version.corpus} {answer.version.revision}", markup=False)
    _show_versions(answer.loaded, console)
    _show_error(answer.profile_error, console)


def _show_versions(versions: Iterable[pb.ProfileVersion], console: Console) -> None:
    table = Table("corpus", "revision", "file")
    for version in versions:
        table.add_row(escape(version.corpus), version.revision, escape(version.file) or "built in")
    console.print(table)


def _show_error(error: str, console: Console) -> None:
    if error:
        console.print(f"the profile files as they are now are refused: {error}", style="bold red", markup=False)


def _word(kind: Any, number: int) -> str:
    """An enum's value without its prefix: ``late interaction``."""
    prefix = kind.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(kind.Name(number)).removeprefix(prefix).lower().replace("_", " ")
