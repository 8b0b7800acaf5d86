"""The broker for machines without Mosquitto: `amqtt` in a process of its own, on loopback, open to everyone there.

`python -m sim.embedded_broker PARENT_PID PORT`; ends on SIGTERM and with its parent.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from amqtt.broker import Broker

from sim.child import die_with


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    sys.stderr.write("amqtt running\n")
    sys.stderr.flush()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    asyncio.run(serve(int(sys.argv[2])))
