"""Server-sent events: what happens, as it happens, to whoever reads; and nobody who does not read costs anything.

A client that comes back with Last-Event-ID goes on where it was; where that is no longer known it is sent `reset` and
must read everything anew. While anybody follows, sites and overrides are looked at twice a second and told where they
changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web

from controller.api import views
from controller.api.schemas import EventsQuery
from controller.api.standing import Standing
from controller.app import Controller
from controller.events import Event
from controller.overrides_model import OverrideState
from controller.roles import Principal

_LOG = logging.getLogger(__name__)
BATCH: Final = 200
BEAT_S: Final = 15.0
"""A comment is sent after so long a silence, so that proxies and clients see the line is alive."""
STALL_S: Final = 10.0
"""A client that takes nothing for so long is dropped."""
RECHECK_S: Final = 15.0
"""A token that was revoked or has expired is let go after so long."""
_WRITE_BUFFER: Final = 256 * 1024
_LOOK_S: Final = 0.5
_LOOK_SHARE: Final = 20
"""Looking takes at most one part in so many of the event loop's time."""
_SLICE: Final = 8
_ENDED: Final = frozenset({OverrideState.EXPIRED, OverrideState.REVOKED})


class Stream:
    """All that follow /v1/events of one controller."""

    def __init__(self, controller: Controller, clients_max: int) -> None:
        self._controller = controller
        self._clients_max = clients_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._overrides: dict[str, tuple[str, OverrideState]] = {}
        self._sites: dict[str, tuple[object, ...]] = {}
        self.stall_s = STALL_S
        self.recheck_s = RECHECK_S
        self.dropped = 0
        """Clients that stopped reading."""

    @property
    def clients(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        return len(self._tasks) >= self._clients_max

    async def follow(
        self, request: web.Request, who: Principal, asked: EventsQuery, still: Callable[[], bool]
    ) -> web.StreamResponse:
        """Answer with events until either side ends it, or `still` says that `who` may no longer."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        at = self._place(request.headers.get("Last-Event-ID", ""), recent=asked.recent)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  handlers run in tasks
        self._tasks.add(task)
        try:
            await response.prepare(request)
            if request.transport is not None:
                request.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
            self._look_soon()
            with contextlib.suppress(ConnectionError):
                await self._send(response, at, who, asked.site, still)
        except TimeoutError:
            self.dropped += 1
            _LOG.info("events: %s stopped reading and is dropped", who.name)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._tasks.discard(task)
        return response

    async def close(self, *_: object) -> None:
        """End all of them: the server is going down."""
        for task in [*self._tasks, *([self._looking] if self._looking else [])]:
            task.cancel()

    async def _send(
        self,
        response: web.StreamResponse,
        at: int | None,
        who: Principal,
        site: str | None,
        still: Callable[[], bool],
    ) -> None:
        events, clock = self._controller.events, asyncio.get_running_loop()
        asked_s = clock.time()
        hello = json.dumps({"epoch": self._controller.epoch, "at_ms": self._controller.clock.wall_ms()})
        if at is None:
            at = events.last
            await self._write(response, self._reset(at, hello))
        else:
            await self._write(response, f": {hello}\nretry: 2000\n\n".encode())
        while True:
            if clock.time() - asked_s >= self.recheck_s:
                asked_s = clock.time()
                if not still():
                    return
            found = events.since(at, BATCH)
            if found is None:  # it read too slowly, and what it has not read is gone
                at = events.last
                await self._write(response, self._reset(at, hello))
                continue
            if found:
                at = found[-1].n
                data = b"".join(each.wire(self._controller.epoch) for each in found if _may(each, who, site))
                if data:
                    await self._write(response, data)
                else:
                    await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(min(BEAT_S, self.recheck_s)):
                    await events.beyond(at)
            except TimeoutError:
                await self._write(response, b": \n\n")

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Raises TimeoutError where the client takes nothing."""
        async with asyncio.timeout(self.stall_s):
            await response.write(data)

    def _reset(self, at: int, hello: str) -> bytes:
        return Event(at, "reset", None, hello).wire(self._controller.epoch)

    def _place(self, last_event_id: str, *, recent: bool) -> int | None:
        """Where to go on; None where it must start anew. Without an id: from now, or with all that is still there."""
        if not last_event_id:
            return self._controller.events.before if recent else self._controller.events.last
        epoch, _, n = last_event_id[:40].partition("-")
        if epoch != str(self._controller.epoch) or not (n.isascii() and n.isdigit()):
            return None
        return int(n) if int(n) <= self._controller.events.last else None

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="events look")

    async def _look(self) -> None:
        """Tell changes of sites and overrides, for as long as anybody follows."""
        clock = asyncio.get_running_loop()
        while self._tasks:
            began_s = clock.time()
            await self._look_at_overrides()
            await self._look_at_sites()
            await asyncio.sleep(max(_LOOK_S, _LOOK_SHARE * (clock.time() - began_s)))

    async def _look_at_overrides(self) -> None:
        held = self._controller.overrides.entries()
        sites = sorted({each.site for each in held})
        gone = self._overrides.keys() - {each.id for each in held}
        for key in gone:
            del self._overrides[key]
        for site in sites:
            standing = Standing(self._controller, site)
            for each in self._controller.overrides.entries(site):
                told = self._overrides.get(each.id)
                if told is not None and told[1] in _ENDED and each.is_over(self._controller.clock.wall_ms()):
                    continue
                out = standing.out(each)
                text = out.model_dump_json()
                if told is None or told[0] != text:
                    self._overrides[each.id] = (text, out.state)
                    if told is not None or out.state not in _ENDED:
                        self._controller.events.publish("override", site, text)
            await asyncio.sleep(0)

    async def _look_at_sites(self) -> None:
        for place, site in enumerate(self._controller.fleet.ids()):
            state = self._controller.fleet.get(site)
            if state is None:
                continue
            seen = (state.boot, state.report_seq, state.online, state.decided and state.decided.id)
            if self._sites.get(site) != seen:
                self._sites[site] = seen
                self._controller.events.publish("site", site, views.summary(self._controller, state).model_dump_json())
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)


def _may(event: Event, who: Principal, site: str | None) -> bool:
    """What concerns no site is for those who reach all of them."""
    if site is not None:
        return event.site == site
    return who.sites is None or (event.site is not None and who.reaches(event.site))
