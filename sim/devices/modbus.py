"""Simulated meters and temperature modules that speak Modbus TCP on a real socket, and tell the plant's truth.

An `asyncio.Protocol` of our own and not pymodbus's server: that one serves a datastore filled ahead of the request,
where a meter must show the plant at the moment it is read; it cannot hang, lie, answer late or answer garbage; and it
runs a task for every request, which thousands of devices in one process do not need. It also keeps the two ends apart:
registers are encoded here from the profile alone, by none of the driver's decoding nor of pymodbus's framing.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from agent.drivers.meters.profile import Profile, RegisterSpec, Table

Truth = Mapping[str, float | None]
"""True values: `power_w`, `energy_import_wh`, `energy_export_wh`, `voltage_mv`, `frequency_mhz`, or `<channel>_mc`
of a temperature module. None, or a key left out, is a value that the device does not know."""


class MeterFaultKind(StrEnum):
    """How a meter can lie, stall or break."""

    FROZEN = "frozen"
    """Keeps answering the last values it answered before."""
    SKEWED = "skewed"
    """Power is the truth times `scale` plus `offset_w`: it disagrees with the miners."""
    HANG = "hang"
    """Accepts a connection and never answers."""
    LATE = "late"
    """Answers truly, but `delay_s` after it was asked."""
    REFUSE = "refuse"
    """Resets every connection as soon as it is made or spoken on."""
    GARBAGE = "garbage"
    """Answers bytes that are not Modbus."""
    EXCEPTION = "exception"
    """Answers the Modbus exception `code`."""
    NAN = "nan"
    """Answers "not a value" for everything, each register in its own way."""


@dataclass(frozen=True, slots=True)
class MeterFault:
    """A fault and its figures."""

    kind: MeterFaultKind
    scale: float = 1.0
    offset_w: float = 0.0
    delay_s: float = 0.0
    code: int = 4


def no_fault() -> None:
    """A device that is well."""


class ModbusUnit:
    """One device: a profile's registers, encoded from the truth whenever they are asked for."""

    def __init__(
        self, profile: Profile, read_true: Callable[[], Truth], *, fault: Callable[[], MeterFault | None] = no_fault
    ) -> None:
        self.profile = profile
        self.fault = fault
        self.requests = 0
        """Requests seen since the start."""
        self._read_true = read_true
        self._last: Truth | None = None

    def registers(self, table: Table, address: int, count: int) -> bytes | int:
        """The bytes of `count` registers, or the code of a Modbus exception. Unlisted registers read 0."""
        fault = self.fault()
        frozen = fault is not None and fault.kind is MeterFaultKind.FROZEN
        truth = self._last if frozen and self._last is not None else dict(self._read_true())
        self._last = truth
        image = bytearray(2 * count)
        listed = False
        for name, spec in self.profile.registers.items():
            if spec.table != table or spec.address + spec.words <= address or spec.address >= address + count:
                continue
            listed = True
            start = 2 * (spec.address - address)
            if start < 0 or start + 2 * spec.words > len(image):
                return ILLEGAL_ADDRESS  # a meter refuses half a value
            cell = encode(spec, _shown(name, spec, truth, fault))
            if cell is None:
                return DEVICE_FAILURE
            image[start : start + len(cell)] = cell
        return bytes(image) if listed else ILLEGAL_ADDRESS


class ModbusServer:
    """A gateway: several units on one socket. A unit that is not there answers exception 11, as gateways do."""

    def __init__(self, units: Mapping[int, ModbusUnit]) -> None:
        self.units = units
        self.connections: set[asyncio.Transport] = set()
        """Open now."""
        self.accepted = 0
        """Connections accepted since the start."""
        self.port = 0
        """Where it listens, once started."""
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port is returned."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Exchange(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for transport in list(self.connections):
            transport.abort()
        await asyncio.sleep(0)


class ModbusMeterServer(ModbusServer):
    """One meter, or temperature module, with a socket of its own."""

    def __init__(
        self,
        profile: Profile,
        read_true: Callable[[], Truth],
        *,
        unit_id: int = 1,
        fault: Callable[[], MeterFault | None] = no_fault,
    ) -> None:
        self.unit = ModbusUnit(profile, read_true, fault=fault)
        super().__init__({unit_id: self.unit})


ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3
DEVICE_FAILURE: Final = 4
TARGET_SILENT: Final = 11

_HEADER: Final = struct.Struct(">HHHBB")
_TABLES: Final[Mapping[int, Table]] = {3: "holding", 4: "input"}
_GARBAGE: Final = b"HTTP/1.0 400 Bad Request\r\nServer: gateway\r\n\r\n" + bytes(range(256)) * 2
_MAX_PENDING: Final = 4_096
"""A client that sends more than this without a whole request in it is cut off."""


class _Exchange(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ModbusServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What create_server promises; no isinstance, for uvloop's transport does not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._server.accepted += 1
        self._server.connections.add(self._transport)
        faults = [unit.fault() for unit in self._server.units.values()]
        if faults and all(fault is not None and fault.kind is MeterFaultKind.REFUSE for fault in faults):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._transport is not None:
            self._server.connections.discard(self._transport)
            self._transport = None

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= 8:
            transaction, protocol, length, unit_id, function = _HEADER.unpack_from(self._pending)
            if protocol != 0 or not 2 <= length <= 254:
                self._cut()
                return
            if len(self._pending) < 6 + length:
                break
            body = self._pending[8 : 6 + length]
            self._pending = self._pending[6 + length :]
            self._answer(transaction, unit_id, function, body)
        if len(self._pending) > _MAX_PENDING:
            self._cut()

    def _answer(self, transaction: int, unit_id: int, function: int, body: bytes) -> None:
        unit = self._server.units.get(unit_id)
        if unit is None:
            self._send(_frame(transaction, unit_id, function, TARGET_SILENT))
            return
        unit.requests += 1
        fault = unit.fault()
        kind = None if fault is None else fault.kind
        if fault is None or kind in (MeterFaultKind.FROZEN, MeterFaultKind.SKEWED, MeterFaultKind.NAN):
            self._send(_frame(transaction, unit_id, function, _serve(unit, function, body)))
        elif kind is MeterFaultKind.LATE:
            answer = _frame(transaction, unit_id, function, _serve(unit, function, body))
            asyncio.get_running_loop().call_later(fault.delay_s, self._send, answer)
        elif kind is MeterFaultKind.EXCEPTION:
            self._send(_frame(transaction, unit_id, function, fault.code))
        elif kind is MeterFaultKind.GARBAGE:
            self._send(_GARBAGE)
        elif kind is MeterFaultKind.REFUSE:
            self._cut()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def encode(spec: RegisterSpec, value: float | None) -> bytes | None:
    """A register's bytes as on the wire. `value` is in W, Wh, mV, mHz or thousandths of a degC; None is unknown.

    Unknown is the profile's own sentinel, NaN in a float; where there is neither, None is answered. A value that the
    register cannot hold is unknown too: a real meter overflows into its sentinel.
    """
    size = 2 * spec.words
    raw: bytes | None = None
    if value is not None and math.isfinite(value):
        figure = (_from_canonical(spec.unit, value) - spec.offset) / spec.scale
        if spec.type == "float32":
            raw = struct.pack(">f", figure)
        else:
            signed = spec.type.startswith("int")
            low, high = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << (8 * size)) - 1)
            count = round(figure)
            raw = count.to_bytes(size, "big", signed=signed) if low <= count <= high else None
    if raw is None and spec.invalid:
        raw = spec.invalid[0].to_bytes(size, "big")
    elif raw is None and spec.type == "float32":
        raw = b"\x7f\xc0\x00\x00"
    if raw is None or spec.word_order == "big":
        return raw
    return b"".join(raw[at : at + 2] for at in range(size - 2, -1, -2))


def _from_canonical(unit: str, value: float) -> float:
    match unit:
        case "W" | "Wh" | "mV" | "mHz":
            return value
        case "kW" | "kWh" | "V" | "Hz":
            return value / 1_000
        case "MW" | "MWh" | "kV":
            return value / 1_000_000
        case "degC":
            return value / 1_000
        case "degF":
            return value / 1_000 * 9 / 5 + 32
        case "K":
            return value / 1_000 + 273.15
        case _:
            raise ValueError(f"no unit {unit!r}")


_SUFFIX: Final = {
    "power": "power_w",
    "energy_import": "energy_import_wh",
    "energy_export": "energy_export_wh",
    "voltage": "voltage_mv",
    "frequency": "frequency_mhz",
}


def _shown(name: str, spec: RegisterSpec, truth: Truth, fault: MeterFault | None) -> float | None:
    """What the device shows for one register: the truth, bent by its fault."""
    value = truth.get(_SUFFIX.get(name, f"{name}_mc"))
    if fault is None or value is None:
        return value
    if fault.kind is MeterFaultKind.NAN:
        return None
    if fault.kind is MeterFaultKind.SKEWED and spec.unit in ("W", "kW", "MW"):
        return value * fault.scale + fault.offset_w
    return value


def _serve(unit: ModbusUnit, function: int, body: bytes) -> bytes | int:
    table = _TABLES.get(function)
    if table is None:
        return ILLEGAL_FUNCTION
    if len(body) != 4:
        return ILLEGAL_VALUE
    address, count = struct.unpack(">HH", body)
    if not 1 <= count <= 125 or address + count > 0x1_0000:
        return ILLEGAL_VALUE
    return unit.registers(table, address, count)


def _frame(transaction: int, unit_id: int, function: int, answer: bytes | int) -> bytes:
    """MBAP header and PDU: registers, or an exception code."""
    if isinstance(answer, int):
        return _HEADER.pack(transaction, 0, 3, unit_id, function | 0x80) + bytes([answer])
    return _HEADER.pack(transaction, 0, 3 + len(answer), unit_id, function) + bytes([len(answer)]) + answer
