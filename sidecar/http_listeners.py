"""Opening addresses for HTTP servers."""

from __future__ import annotations

import ssl

from aiohttp import web

from sidecar.listeners import ListenError


async def open_site(runner: web.AppRunner, setting: str, address: str, tls: ssl.SSLContext | None = None) -> str:
    """Open host:port for what ``runner`` serves, and return it with the port that was opened.

    Raises ListenError naming ``setting``.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"{setting} is {address!r}; write host:port, such as 127.0.0.1:8080")
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls).start()
    except OSError as error:
        raise ListenError(f"{setting}: {address} can't be opened: {error.strerror}") from None
    return f"{host}:{runner.addresses[0][1]}"
