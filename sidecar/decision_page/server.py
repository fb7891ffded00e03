"""The listener of the page. Loopback only, because it asks nobody who they are: `kubectl port-forward` reaches it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.decision_page.state import Source
from sidecar.http_listeners import open_site
from sidecar.listeners import ListenError
from sidecar.security import is_loopback

_log = logging.getLogger("millirank.page")

_SETTING = "listen.page"
_FOLDER = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Scripts and styles come from here and from nowhere else, and nothing that is written into the page is ever run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class DecisionPage:
    """One page, and what it asks for."""

    def __init__(self, source: Source, address: str) -> None:
        """Raises ListenError for a host that others can reach."""
        if ":" in address and not is_loopback(address.rpartition(":")[0]):
            raise ListenError(
                f"{_SETTING} is {address!r}; the page asks nobody who they are, so it must be a loopback address, "
                "such as 127.0.0.1:8081"
            )
        self._source = source
        self._address = address
        self._files = {path: (_FOLDER.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        app = web.Application(middlewares=[_guarded], client_max_size=1024)
        for path in self._files:
            app.router.add_get(path, self._file)
        app.router.add_get("/state.json", self._state)
        app.router.add_get(r"/considered/{number:\d{1,15}}.json", self._considered)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> str:
        """Opens the listener and returns its address. Raises ListenError."""
        address = await open_site(self._runner, _SETTING, self._address)
        _log.info("decision page", extra={"url": f"http://{address}/"})
        return address

    async def stop(self) -> None:
        """Closes it."""
        await self._runner.cleanup()

    async def _file(self, asked: web.Request) -> web.Response:
        body, kind = self._files[asked.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _state(self, asked: web.Request) -> web.Response:
        after = asked.query.get("after", "0")
        if not after.isdecimal() or len(after) > 15:
            return web.Response(status=400, text="after is the number of the last decision that is known\n")
        return _json(self._source.state(int(after)))

    async def _considered(self, asked: web.Request) -> web.Response:
        found = self._source.considered(int(asked.match_info["number"]))
        return web.Response(status=404, text="not kept any more\n") if found is None else _json(found)


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page of another site can have its name point to this address: by its name it is told apart (DNS rebinding)."""
    if not is_loopback(_host(request.host)):
        return web.Response(status=421, text="ask for it as localhost or 127.0.0.1\n", headers=_HEADERS)
    try:
        answer = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(_HEADERS)
        raise
    answer.headers.update(_HEADERS)
    return answer


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    name, colon, port = header.rpartition(":")
    return name if colon and port.isdecimal() and not header.endswith("]") else header


def _json(data: object) -> web.Response:
    return web.Response(body=json.dumps(data, separators=(",", ":")).encode(), content_type="application/json")
