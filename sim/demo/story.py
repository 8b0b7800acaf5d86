"""What happens in the demo besides the market: a grid signal, a device that hangs, an override."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from sim.ports import DeviceFault

if TYPE_CHECKING:
    from sim.demo.run import Demo

OBLIGATION_AT_S: Final = 14.0
"""Wall seconds from the start, as all moments here."""
HANG_AT_S: Final = 30.0
OVERRIDE_AT_S: Final = 40.0
HEAL_AT_S: Final = 52.0
REDUCE_SHARE: Final = 0.25
EVENT_WALL_S: Final = 10.0
"""How long obligation and override last."""


class Story:
    """One telling."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo

    async def run(self) -> None:
        """Tell it to its end, then rest."""
        sites = self._demo.sites
        first, other = sites[0].kit.plan.id, sites[-1].kit.plan.id
        await asyncio.sleep(OBLIGATION_AT_S)
        await self._obligation(other)  # over HTTP, as a grid operator's gateway would; and so is the override
        await asyncio.sleep(HANG_AT_S - OBLIGATION_AT_S)
        self._hang(DeviceFault.HANG)
        await asyncio.sleep(OVERRIDE_AT_S - HANG_AT_S)
        await self._override(first)
        await asyncio.sleep(HEAL_AT_S - OVERRIDE_AT_S)
        self._hang(None)
        await asyncio.Event().wait()

    async def _obligation(self, site: str) -> None:
        state = self._demo.controller.fleet.get(site)
        metered_w = state.main_power_w() if state is not None else None
        if metered_w is None:
            self._demo.say("story", site, "No grid signal is sent: the site has not reported yet.")
            return
        reduce_w = round(REDUCE_SHARE * metered_w)
        text = f"The grid operator asks for {reduce_w / 1e6:.3f} MW less at once, for {self._minutes:.0f} minutes."
        self._demo.say("signal", site, text, {"reduce_w": reduce_w})
        await self._post("/v1/signals", {"site": site, "reduce_w": reduce_w, "duration_s": self._span_s, "notice_s": 0})

    def _hang(self, fault: DeviceFault | None) -> None:
        site = self._demo.sites[0]
        bank = site.kit.plan.banks[0].id
        site.plant.set_fault(bank, 0, fault)
        what = "answers again" if fault is None else "accepts connections and answers nothing"
        self._demo.say("device", site.kit.plan.id, f"Device 0 of {bank} {what}.", {"bank": bank, "device": 0})

    async def _override(self, site: str) -> None:
        bank = self._demo.sites[0].kit.plan.banks[-1].id
        text = f"Ops lock {bank} out for {self._minutes:.0f} minutes: a technician works on it."
        self._demo.say("override", site, text, {"bank": bank})
        body = {"site": site, "kind": "lockout", "bank": bank, "reason": "technician on the loop"}
        await self._post("/v1/overrides", body | {"created_by": "demo", "duration_s": self._span_s})

    @property
    def _span_s(self) -> float:
        return EVENT_WALL_S * self._demo.options.speed

    @property
    def _minutes(self) -> float:
        return self._span_s / 60.0

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self._demo.token_file.read_text(encoding='utf-8')}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(self._demo.url + path, json=body) as response,
        ):
            if response.status >= 400:
                self._demo.say("refused", body["site"], f"The API refused it: {await response.text()}")
