"""Opening addresses for a gRPC server: TCP, or a Unix socket that is private from the first moment on."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

# struct sockaddr_un holds 108 bytes on Linux, the last one a zero.
_MAX_SOCKET_PATH = 107


class ListenError(Exception):
    """A listener can't be opened. The message names the setting and the fix."""


def bind_tcp(
    server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Open host:port and return it with the port that was opened. Raises ListenError naming ``setting``."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"{setting} is {address!r}; write host:port, such as 127.0.0.1:50051 or [::1]:50051")
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ListenError(
            f"{setting}: {address} can't be opened; is another process using the port, or is the host not of "
            "this machine? Choose another one, or port 0 for any"
        ) from None
    return f"{host}:{bound}"


def bind_unix(server: grpc.aio.Server, setting: str, path: Path) -> str:
    """Open a socket file for owner and group and return its address. Raises ListenError naming ``setting``."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ListenError(
            f"{setting}: the path has {len(os.fsencode(path))} bytes; at most {_MAX_SOCKET_PATH}: choose a shorter one"
        )
    _make_way(setting, path)
    with _private_umask():
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            raise ListenError(f"{setting}: {path} can't be opened; may this user write there?") from None
    return f"unix:{path}"


def _make_way(setting: str, path: Path) -> None:
    """Create the private directory, and remove what a sidecar that was killed left behind; never one in use."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o770)  # mkdir's own mode is subject to the umask
        if not path.exists():
            return
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ListenError(f"{setting}: {path} exists and is not a socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ListenError(f"{setting}: {path}: {error.strerror or error}; choose a path this user may use") from None
    else:
        raise ListenError(f"{setting}: {path} is in use by another process; stop it or choose another path")


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    """Files created within are for the owner and the group only. Start-up is single-threaded, so this is safe."""
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)
