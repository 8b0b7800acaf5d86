"""What the tests of virtual time share."""

from __future__ import annotations

import asyncio

MINER = ("10.7.0.9", 4028)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
