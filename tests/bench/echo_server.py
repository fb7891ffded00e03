"""``python -m tests.bench.echo_server SOCKET``: the least that a grpc.aio server can do, to compare with.

``Echo`` sends the request's bytes back. ``Canned`` sends what the last ``Load`` brought, so that the answer can be
exactly as small as the sidecar's. Nothing is parsed. Says where it serves in the same words as the sidecar.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import grpc

SERVICE = "millirank.bench.Echo"
ECHO = f"/{SERVICE}/Echo"
CANNED = f"/{SERVICE}/Canned"
LOAD = f"/{SERVICE}/Load"

# The sidecar's own server options (sidecar/server.py): what is compared is the work, not the settings.
_WIRE_BYTES = 4 * 1024 * 1024 + 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _WIRE_BYTES),
    ("grpc.max_send_message_length", _WIRE_BYTES),
    ("grpc.so_reuseport", 0),
)


class _Echo:
    """Three handlers over bytes."""

    def __init__(self) -> None:
        self._canned = b""

    async def echo(self, data: bytes, context: object) -> bytes:
        return data

    async def canned(self, data: bytes, context: object) -> bytes:
        return self._canned

    async def load(self, data: bytes, context: object) -> bytes:
        self._canned = data
        return b""

    def handlers(self) -> grpc.GenericRpcHandler:
        methods = {"Echo": self.echo, "Canned": self.canned, "Load": self.load}
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        )


async def serve(socket_path: str) -> None:
    """Until SIGTERM, on a free TCP port of the loopback interface and on ``socket_path``."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Echo().handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"unix:{socket_path}")
    await server.start()
    addresses = [f"127.0.0.1:{port}", f"unix:{socket_path}"]
    sys.stderr.write(json.dumps({"message": "serving", "addresses": addresses}) + "\n")
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
