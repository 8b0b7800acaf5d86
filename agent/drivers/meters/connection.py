"""One Modbus TCP connection through `pymodbus`, and the only module that imports it.

Importing this needs the extra `modbus`; `link.require_pymodbus` says so to whoever has it not.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException

from agent.drivers.base import Failure, Unreachable
from agent.drivers.meters.registers import Block, BlockAnswer, Declined

_CLOSED: Final = "the connection was closed by the other side"
_NEVER_S: Final = 3_600.0
"""pymodbus's own timeout: the link's deadline ends everything long before."""
_RECEIVE_LIMIT: Final = 1 << 20
"""Above what asyncio hands over at once: pymodbus would drop a longer chunk in silence, and garbage pass for a hang."""


class Connection:
    """A pymodbus client used for one connection only. `broken` is done once the connection is of no more use."""

    def __init__(self, host: str, port: int) -> None:
        self.broken: asyncio.Future[Unreachable] = asyncio.get_running_loop().create_future()
        self._question: tuple[int, Block] | None = None
        self._client = AsyncModbusTcpClient(
            host,
            port=port,
            timeout=_NEVER_S,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._inspect,
            trace_connect=self._on_connection,
        )
        self._client.ctx.max_buffer_size = _RECEIVE_LIMIT

    @property
    def usable(self) -> bool:
        return self._client.connected and not self.broken.done()

    async def open(self) -> bool:
        return await self._client.connect()

    async def ask(self, unit_id: int, block: Block) -> BlockAnswer:
        client = self._client
        self._question = (unit_id, block)
        read = client.read_holding_registers if block.table == "holding" else client.read_input_registers
        try:
            answer = await read(block.address, count=block.count, device_id=unit_id)
        except ConnectionException:
            return Unreachable(Failure.CLOSED, _CLOSED)
        except ModbusException as error:
            return Unreachable(Failure.GARBAGE, str(error))
        self._question = None
        return Declined(answer.exception_code) if answer.isError() else tuple(answer.registers)

    def close(self) -> None:
        self._break(Failure.CLOSED, "closed here")
        self._client.close()

    def _inspect(self, sending: bool, data: bytes) -> bytes:
        """Pymodbus shows every chunk here first. It is given only what answers the question, or the start of that."""
        if sending:
            return data
        if not self.broken.done():
            fault = frame_fault(data, self._question, self._client.ctx.request_transaction_id)
            if fault is None:
                return data
            self._break(Failure.GARBAGE, fault)
            self._client.close()
        return b""

    def _on_connection(self, up: bool) -> None:
        if not up:
            self._break(Failure.CLOSED, _CLOSED)

    def _break(self, failure: Failure, detail: str) -> None:
        if not self.broken.done():
            self.broken.set_result(Unreachable(failure, detail))


def frame_fault(data: bytes, question: tuple[int, Block] | None, transaction: int) -> str | None:
    """What makes these bytes no answer, nor the start of one, to the question; None where nothing does.

    MBAP header (transaction, protocol 0, length, unit) and PDU as in the Modbus Messaging on TCP/IP guide V1.0b, 3.1.3.
    A gateway that does not echo the transaction answers 0, which is let pass: only one question is ever open.
    """
    if question is None:
        return "it spoke unasked"
    unit_id, block = question
    function = 3 if block.table == "holding" else 4
    head = [int.from_bytes(data[at : at + 2], "big") if len(data) >= at + 2 else None for at in (0, 2, 4)]
    answered = data[7] if len(data) > 7 else None
    expected_length = 3 if answered == function | 0x80 else 3 + 2 * block.count
    faults = (
        (head[0] not in (None, 0, transaction), f"it answered transaction {head[0]}, not {transaction}"),
        (head[1] not in (None, 0), "it does not speak Modbus TCP"),
        (head[2] is not None and head[2] not in (3, 3 + 2 * block.count), f"it announced {head[2]} bytes"),
        (unit_id != 0 and len(data) > 6 and data[6] != unit_id, f"unit {data[6:7].hex()} answered"),
        (answered not in (None, function, function | 0x80), f"it answered function {answered}, not {function}"),
        (answered is not None and head[2] != expected_length, f"it announced {head[2]} bytes"),
        (answered == function and len(data) > 8 and data[8] != 2 * block.count, "it counted its own bytes wrong"),
        (len(data) > 6 + expected_length, "it answered twice"),
    )
    return next((text for wrong, text in faults if wrong), None)
