"""The runbooks, served by the controller itself: at three in the morning the wiki may be what is down.

`/runbooks` has all of them and `/runbooks/ALERT` one; alert rules and dashboards link there. The text is
docs/runbooks.md, which goes with the package. No token is asked for: it holds no data.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final, NamedTuple

from aiohttp import web
from markdown_it import MarkdownIt

from controller.api.problems import problem
from controller.console.policy import HEADERS

PATHS: Final = frozenset({"/runbooks", "/runbooks/{alert}"})
_HEADING: Final = re.compile(r"^### +(\w+)\s*$", re.MULTILINE)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} · Wattshift runbooks</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="/console/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/console/style.css">
</head>
<body>
<main class="runbook">
<nav aria-label="Wattshift"><a href="/">Console</a> <a href="/runbooks">All runbooks</a></nav>
{body}
</main>
</body>
</html>
"""


class Runbook(NamedTuple):
    """One alert's: its name, and its text as HTML without the heading."""

    alert: str
    html: str


def routes() -> list[web.RouteDef]:
    """For the application; see `PATHS` for who needs no token."""
    return [web.get("/runbooks", _all), web.get("/runbooks/{alert}", _one)]


@functools.cache
def runbooks() -> tuple[str, Mapping[str, Runbook]]:
    """What is said before the first, as HTML, and each runbook by its alert's name in lower case."""
    text = resources.files("controller.console").joinpath("runbooks.md").read_text(encoding="utf-8")
    before, *parts = _HEADING.split(text)
    markdown = MarkdownIt("commonmark", {"html": False})
    found = zip(parts[::2], parts[1::2], strict=True)
    return markdown.render(before), {name.lower(): Runbook(name, markdown.render(body)) for name, body in found}


async def _all(request: web.Request) -> web.Response:
    intro, known = runbooks()
    lines = [intro, "<ul class='index'>"]
    lines += [f'<li><a href="#{key}">{html.escape(each.alert)}</a></li>' for key, each in known.items()]
    lines.append("</ul>")
    for key, each in known.items():
        heading = f'<h2><a href="/runbooks/{each.alert}">{html.escape(each.alert)}</a></h2>'
        lines.append(f'<section id="{key}">{heading}{each.html}</section>')
    return _page(request, "All", "\n".join(lines))


async def _one(request: web.Request) -> web.Response:
    _, known = runbooks()
    found = known.get(request.match_info["alert"].lower())
    if found is None:
        raise problem("unknown", 404, "there is no runbook of that name", "alert", "see /runbooks for those there are")
    return _page(request, found.alert, f"<h1>{html.escape(found.alert)}</h1>\n<section>{found.html}</section>")


def _page(request: web.Request, title: str, body: str) -> web.Response:
    text = _PAGE.format(title=html.escape(title), body=body).encode()
    etag = f'"{hashlib.sha256(text).hexdigest()[:20]}"'
    headers = {**HEADERS, "ETag": etag, "Cache-Control": "no-cache"}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=text, headers=headers, content_type="text/html", charset="utf-8")
