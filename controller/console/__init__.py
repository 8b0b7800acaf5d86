"""The console: one screen at `/` that shows what every megawatt does and why, and lets ops take over.

No build step and nothing from elsewhere: a page, its modules and three small vendored libraries, served under a
content security policy that allows nothing else. The page holds no data; it asks the API with the reader's token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from importlib import resources
from typing import Final

from aiohttp import web

from controller.app import Controller
from controller.console import runbooks
from controller.console.history import History
from controller.console.policy import HEADERS

_TYPES: Final = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript",
    ".svg": "image/svg+xml", ".txt": "text/plain",
}  # fmt: skip


class Console:
    """Files and history. `paths` are those that need no token: they hold no data."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.history = History(controller.fleet, self._price, controller.clock)
        self._files = {path: _File(path, body) for path, body in _read().items()}

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._files) | runbooks.PATHS

    def routes(self) -> list[web.RouteDef]:
        """`/`, every file below `/console/`, and the runbooks."""
        return [*(web.get(path, self._file) for path in self._files), *runbooks.routes()]

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """For `app.cleanup_ctx`: samples history while the server runs."""
        task = asyncio.create_task(self.history.run(), name="console history")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files[request.path]
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers={**HEADERS, "ETag": file.etag})
        headers = {**HEADERS, "ETag": file.etag, "Cache-Control": "no-cache"}
        return web.Response(body=file.body, headers=headers, content_type=file.kind, charset="utf-8")

    def _price(self, site: str, wall_ms: int) -> float | None:
        return self._controller.freezer.energy(site, wall_ms).usd_per_mwh


class _File:
    """One static file, read once."""

    def __init__(self, path: str, body: bytes) -> None:
        self.body = body
        self.kind = _TYPES["." + path.rsplit(".", 1)[-1] if "." in path else ".html"]
        self.etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'


def _read() -> dict[str, bytes]:
    """Every static file by the path it is served at; the page itself at `/`."""
    root = resources.files("controller.console").joinpath("static")
    found: dict[str, bytes] = {}
    for folder, prefix in ((root, "/console/"), (root.joinpath("vendor"), "/console/vendor/")):
        for entry in folder.iterdir():
            if entry.is_file() and "." + entry.name.rsplit(".", 1)[-1] in _TYPES:
                path = "/" if entry.name == "index.html" else prefix + entry.name
                found[path] = entry.read_bytes()
    return found
