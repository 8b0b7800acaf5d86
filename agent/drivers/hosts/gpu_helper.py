"""GPU HELPER: the GPUs of a node, by `wattshift-node-power` on it (`nvml_helper`), over HTTP with a token.

The limit of a node is the sum of its GPUs' limits, shared evenly (`_gpu_share`); what the rest of the node draws is not
seen here, and `covers` says so. What each GPU's limit was is remembered and put back; a limit is never set above it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.hosts._gpu_share import Bounds, shared_mw
from agent.drivers.hosts._limit_ledger import KeepsLimit
from agent.drivers.hosts._service_link import Access, Answer, ServiceLink
from agent.drivers.hosts.host import HostReading, HostState
from contract.clock import Clock

POWER: Final = "/v1/power"
LIMITS: Final = "/v1/limits"
MAX_TOKEN_BYTES: Final = 4_096
_Mw = Annotated[int, Field(ge=0, le=100_000_000)]


class GpuHelperOptions(BaseModel):
    """`[banks.NAME.hosts]` of a bank whose hosts' driver is `gpu_helper`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_file: Path
    """The token that the helpers were given; read anew at every request."""
    ca: Path | None = None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    verify_tls: bool = True
    rights: Literal["read", "limit"] = "limit"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.fingerprint is not None and self.ca is not None:
            raise ValueError("give either ca or fingerprint")
        return self


class GpuState(BaseModel):
    """One GPU, as the helper tells of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    uuid: Annotated[str, Field(min_length=1, max_length=100)]
    power_mw: _Mw | None = None
    limit_mw: _Mw | None = None
    default_mw: _Mw | None = None
    least_mw: _Mw | None = None
    most_mw: _Mw | None = None


class NodeState(BaseModel):
    """All of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    gpus: Annotated[tuple[GpuState, ...], Field(min_length=1, max_length=64)]

    @property
    def limitable(self) -> dict[str, tuple[int, Bounds]]:
        """GPUs whose limit can be set, with the one in force."""
        return {
            gpu.uuid: (gpu.limit_mw, Bounds(gpu.least_mw, gpu.most_mw))
            for gpu in self.gpus
            if gpu.limit_mw is not None and gpu.least_mw is not None and gpu.most_mw is not None
        }


def gpu_host(url: str, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> GpuHost:  # noqa: ARG001
    """The registry's factory. `url` is the helper's, as `http://gpu007:9482`."""
    checked = GpuHelperOptions.model_validate(dict(options))
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.username:
        raise ValueError(f"{url!r} is no http:// or https:// address of a service, without a path or a user")
    kind = GpuHost if checked.rights == "read" else LimitedGpuHost
    return kind(url, checked, deadline_s=deadline_s)


class GpuHost:
    """Implements `Host`."""

    def __init__(self, url: str, options: GpuHelperOptions, *, deadline_s: float) -> None:
        # Requests, bounds, TLS and failures are those of any JSON service; the token goes with each request.
        self._link = ServiceLink(
            Access(url=url, auth="none", ca=options.ca, fingerprint=options.fingerprint, verify_tls=options.verify_tls)
        )
        self._token_file = options.token_file
        self._deadline_s = deadline_s

    async def read(self) -> HostReading | Unreachable:
        state = await self._state(self._until())
        if isinstance(state, Unreachable):
            return state
        there = state.limitable
        powers = [gpu.power_mw for gpu in state.gpus]
        known = [power for power in powers if power is not None]
        limit_mw = sum(limit for limit, _ in there.values())
        default_mw = sum(gpu.default_mw or gpu.limit_mw or 0 for gpu in state.gpus if gpu.uuid in there)
        return HostReading(
            state=HostState.ON,
            power_w=round(sum(known) / 1_000) if len(known) == len(powers) else None,
            limited=limit_mw < default_mw if there else None,
            limit_w=limit_mw // 1_000 if there else None,
            limit_range_w=_range_w(there) if there else None,
            covers="gpus",
        )

    async def close(self) -> None:
        await self._link.close(self._until())

    async def _state(self, until_s: float) -> NodeState | Unreachable:
        answer = await self._ask("GET", POWER, until_s)
        if isinstance(answer, Unreachable):
            return answer
        if answer.status != 200:
            return Unreachable(Failure.GARBAGE, answer.said)
        try:
            return NodeState.model_validate(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return Unreachable(Failure.GARBAGE, f"no answer of wattshift-node-power: {where} {first['msg']}"[:200])

    async def _ask(
        self, method: str, path: str, until_s: float, body: Mapping[str, Any] | None = None
    ) -> Answer | Unreachable:
        try:
            with self._token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            return Unreachable(Failure.AUTH, f"token_file {self._token_file}: {error}"[:200])
        return await self._link.ask(method, path, until_s, body, {"Authorization": f"Bearer {token}"})

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline_s


class LimitedGpuHost(GpuHost, KeepsLimit):
    """Implements `LimitsPower` besides."""

    def __init__(self, url: str, options: GpuHelperOptions, *, deadline_s: float) -> None:
        GpuHost.__init__(self, url, options, deadline_s=deadline_s)
        KeepsLimit.__init__(self)

    async def set_limit_w(self, power_w: int) -> Outcome:
        until_s = self._until()
        async with self._one_change:
            there = await self._limits(until_s)
            if isinstance(there, Unreachable | Refused):
                return there
            in_force_w = sum(limit for limit, _ in there.values()) // 1_000
            self._ledger.see(in_force_w, {uuid: limit for uuid, (limit, _) in there.items()})
            wanted = shared_mw(power_w * 1_000, self._bounds(there))
            wanted_w = sum(wanted.values()) // 1_000
            if not self._ledger.holds and wanted_w >= in_force_w:
                self._ledger.forget()
                return Applied("a lower one stands")
            if self._ledger.holds and all(limit == wanted[uuid] for uuid, (limit, _) in there.items()):
                self._ledger.setting(wanted_w)
                self._ledger.done()
                return Applied("already in force")
            before = self._ledger.setting(wanted_w)
            outcome = await self._set(wanted, until_s)
            if isinstance(outcome, Applied):
                self._ledger.done()
            elif isinstance(outcome, Refused):
                self._ledger.undo(before)
            return outcome

    async def clear_limit(self) -> Outcome:
        until_s = self._until()
        async with self._one_change:
            if not self._ledger.holds:
                return Applied("none of ours")
            there = await self._limits(until_s)
            if isinstance(there, Unreachable | Refused):
                return there
            in_force_w = sum(limit for limit, _ in there.values()) // 1_000
            if not self._ledger.is_ours(in_force_w) and not self._ledger.doubts(in_force_w):
                self._ledger.forget()
                return Applied("changed by somebody else, left as found")
            found = {uuid: limit for uuid, limit in self._ledger.found.items() if isinstance(limit, int)}
            back = {
                uuid: min(max(found[uuid], b.least_mw), b.most_mw) for uuid, (_, b) in there.items() if uuid in found
            }
            outcome = await self._set(back, until_s) if back else Applied("none of those GPUs is there")
            if isinstance(outcome, Applied):
                self._ledger.forget()
            return outcome

    def _bounds(self, there: Mapping[str, tuple[int, Bounds]]) -> dict[str, Bounds]:
        """What each GPU may be limited to: never above what was found."""
        bounds = {}
        for uuid, (limit_mw, own) in there.items():
            found = self._ledger.found.get(uuid, limit_mw)
            most_mw = min(own.most_mw, max(found if isinstance(found, int) else limit_mw, own.least_mw))
            bounds[uuid] = Bounds(own.least_mw, most_mw)
        return bounds

    async def _limits(self, until_s: float) -> dict[str, tuple[int, Bounds]] | Refused | Unreachable:
        state = await self._state(until_s)
        if isinstance(state, Unreachable):
            return state
        return state.limitable or Refused("none of its GPUs can be limited")

    async def _set(self, wanted: Mapping[str, int], until_s: float) -> Outcome:
        """A 409 may have been done in part: it counts as lost, so that what was found is put back all the same."""
        answer = await self._ask("PUT", LIMITS, until_s, {"limits_mw": dict(wanted)})
        if isinstance(answer, Unreachable):
            return answer
        if answer.status == 409 and len(wanted) > 1:
            return Unreachable(Failure.GARBAGE, answer.said)
        if answer.status >= 500:
            return Unreachable(Failure.GARBAGE, answer.said)
        return Applied() if answer.status < 300 else Refused(answer.said)


def _range_w(there: Mapping[str, tuple[int, Bounds]]) -> tuple[int, int]:
    least_mw = sum(bounds.least_mw for _, bounds in there.values())
    return -(-least_mw // 1_000), sum(bounds.most_mw for _, bounds in there.values()) // 1_000
