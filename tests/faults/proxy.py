"""A TCP proxy on loopback that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from enum import StrEnum
from types import TracebackType
from typing import Self

_CHUNK = 1024


class Weather(StrEnum):
    """What happens to bytes on their way, in both directions. A connection that fell silent stays so for good, as one
    does whose peer has vanished; the others change with the weather."""

    FAIR = "fair"
    SLOW = "slow"  # 1 KiB every 20 ms
    SILENT = "silent"  # a half-open connection: taken, never delivered, never refused
    RESET = "reset"  # torn down with RST as soon as something is said


class FaultProxy:
    """``with FaultProxy(target) as proxy``: ``proxy.target`` leads to ``target`` through ``proxy.weather``."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self.weather = Weather.FAIR
        self.target = ""
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer))
                both.create_task(self._carry(far_reader, writer))
        except* (OSError, EOFError):
            pass
        finally:
            if self.weather is Weather.RESET:
                for each in (writer, far_writer):
                    # Closing with data unread and no lingering sends RST instead of FIN.
                    each.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
            writer.close()
            far_writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side closes, which ends the other direction as well."""
        silent = False
        while data := await reader.read(_CHUNK):
            silent |= self.weather is Weather.SILENT
            if silent:
                continue
            match self.weather:
                case Weather.RESET:
                    raise ConnectionResetError
                case Weather.SLOW:
                    await asyncio.sleep(0.02)
            writer.write(data)
            await writer.drain()
        raise EOFError
