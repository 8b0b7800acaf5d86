"""`wattshift-node-power`: runs on a compute node with GPUs, as root, and lets the site's agent read and limit them.

    GET /v1/power     every GPU with its power, limit and bounds
    PUT /v1/limits    {"limits_mw": {UUID: milliwatts}}: each is checked against its GPU's bounds first; all or none

Every request carries the token of `--token-file`. It knows nothing of prices and jobs, keeps nothing, and undoes
nothing: what was found, the agent remembers. Exit codes: 0 a clean end, 2 wrong arguments or a missing package, 3 no
GPU or no driver.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import signal
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from aiohttp import web

from agent.drivers.hosts._nvml import Gpu, NoGpuError, Nvml

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
PORT: Final = 9_482
NVML_S: Final = 2.0
"""What NVML is given to answer; a driver that hangs is said, and not waited for."""
MAX_BODY_BYTES: Final = 65_536
MAX_TOKEN_BYTES: Final = 4_096
NO_GPU: Final = 3


class NodePowerServer:
    """Serves one node's GPUs. `start` raises `OSError` where the address is taken."""

    def __init__(self, nvml: Nvml, token: str) -> None:
        self._nvml = nvml
        self._token = token.encode()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nvml")
        self._late: asyncio.Future[Any] | None = None
        """A call that NVML has not answered in time."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/v1/power", self._power)
        app.router.add_put("/v1/limits", self._limits)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port, which for 0 is a free one."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _power(self, request: web.Request) -> web.Response:
        if not self._entered(request):
            return _said(401, "the token is not right")
        gpus = await self._ask(self._nvml.gpus)
        if isinstance(gpus, web.Response):
            return gpus
        return web.json_response({"gpus": [gpu.as_json() for gpu in gpus]})

    async def _limits(self, request: web.Request) -> web.Response:
        if not self._entered(request):
            return _said(401, "the token is not right")
        wanted = _wanted(await request.read())
        if wanted is None:
            return _said(400, 'the body must be {"limits_mw": {UUID: milliwatts}}')
        gpus = await self._ask(self._nvml.gpus)
        if isinstance(gpus, web.Response):
            return gpus
        wrong = _unfit(wanted, {gpu.uuid: gpu for gpu in gpus})
        if wrong is not None:
            return _said(422, wrong)
        errors = await self._ask(lambda: self._set(wanted))
        if isinstance(errors, web.Response):
            return errors
        if not errors:
            return web.json_response({"set": len(wanted)})
        _LOG.warning("limits were refused: %s", errors)
        return _said(409, "; ".join(f"{uuid}: {error}" for uuid, error in sorted(errors.items()))[:500])

    def _set(self, wanted: Mapping[str, int]) -> dict[str, str]:
        said = {uuid: self._nvml.set_limit_mw(uuid, limit_mw) for uuid, limit_mw in wanted.items()}
        return {uuid: error for uuid, error in said.items() if error is not None}

    def _entered(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, b"Bearer " + self._token)

    async def _ask(self, question: Callable[[], T]) -> T | web.Response:
        """NVML's answer, or what to answer where it has none. While one call hangs no other is begun."""
        if self._late is not None and not self._late.done():
            return _said(503, "NVML hangs")
        answer = asyncio.get_running_loop().run_in_executor(self._thread, question)
        try:
            async with asyncio.timeout(NVML_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            self._late = answer
            answer.add_done_callback(_forget)
            return _said(503, "NVML does not answer")
        except NoGpuError as error:
            return _said(503, str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        import pynvml
    except ImportError:
        return _end(2, "the package nvidia-ml-py is not installed; pip install 'wattshift[gpu]'")
    return _run(pynvml, options)


def _run(nvml: ModuleType | Any, options: argparse.Namespace) -> int:
    try:
        library = Nvml(nvml)
    except NoGpuError as error:
        return _end(NO_GPU, str(error))
    try:
        if options.check:
            return _check(library)
        token = _token(options.token_file)
        tls = _tls(options.tls_cert, options.tls_key)
        asyncio.run(_serve(NodePowerServer(library, token), options.host, options.port, tls))
    except (OSError, ValueError) as error:
        return _end(2, str(error))
    finally:
        library.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wattshift-node-power", description="Lets the site's agent limit this node's GPUs."
    )
    parser.add_argument("--token-file", type=Path, default=Path("/etc/wattshift/node-power.token"))
    parser.add_argument("--host", default="127.0.0.1", help="of the management network (default: loopback)")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--check", action="store_true", help="tell what GPUs there are, and end")
    return parser


async def _serve(server: NodePowerServer, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    ended = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    listening = await server.start(host, port, tls)
    _LOG.info("listening on %s:%d", host, listening)
    await ended.wait()
    await server.stop()


def _check(library: Nvml) -> int:
    for gpu in library.gpus():
        sys.stdout.write(json.dumps(gpu.as_json()) + "\n")
    return 0


def _token(path: Path) -> str:
    with path.open("rb") as file:
        token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    if len(token) < 16:
        raise ValueError(f"{path} must hold a token of 16 characters or more")
    return token


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def _wanted(body: bytes) -> dict[str, int] | None:
    """The limits asked for; None for anything else."""
    try:
        limits = json.loads(body).get("limits_mw")
    except (ValueError, AttributeError, RecursionError):
        return None
    if not isinstance(limits, dict) or not limits:
        return None
    fits = all(isinstance(each, int) and not isinstance(each, bool) for each in limits.values())
    return limits if fits else None


def _unfit(wanted: Mapping[str, int], gpus: Mapping[str, Gpu]) -> str | None:
    """The first limit that cannot be set, and why."""
    for uuid, limit_mw in sorted(wanted.items()):
        gpu = gpus.get(uuid)
        if gpu is None:
            return f"{uuid[:80]}: there is no such GPU"
        if gpu.least_mw is None or gpu.most_mw is None:
            return f"{uuid}: {gpu.error or 'its power cannot be limited'}"
        if not gpu.least_mw <= limit_mw <= gpu.most_mw:
            return f"{uuid}: {limit_mw} mW is not within {gpu.least_mw} to {gpu.most_mw}"
    return None


def _forget(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; an exception of it is not worth a line of its own."""
    if not answer.cancelled():
        answer.exception()


def _said(status: int, error: str) -> web.Response:
    return web.json_response({"error": {"message": error}}, status=status)


def _end(code: int, text: str) -> int:
    sys.stderr.write(f"wattshift-node-power: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
