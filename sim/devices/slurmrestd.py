"""A simulated slurmrestd (OpenAPI v0.0.38) in front of simulated HPC partitions, answering as Slurm 22.05.8 does.

Serves GET jobs, job/ID, nodes, partitions, partition/NAME and ping, DELETE job/ID?signal=, and POST job/ID with `hold`,
`time_limit` and `comment`, over TCP and a Unix socket, on a real or a virtual loop. What was seen on the real one and
is kept here, because a driver must cope with it: a listing with a bad token is HTTP 500 and error -1 where a write is
5005 or 1000; an unknown key is HTTP 200 with an error inside; a hold of a running job succeeds; a signal to a job that
has ended succeeds; and slurmrestd waits nine seconds for a slurmctld that is gone. A `comment` is taken and ignored.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from contract.clock import Clock
from sim.devices.log import CommandLog
from sim.devices.slurmrestd_answers import PartitionView, body, failure
from sim.devices.wire import DRIP_S, GARBAGE
from sim.jobs import JobPhase, JobRun
from sim.partition import HpcPartition, JobRefused
from sim.ports import DeviceFault

PREFIX: Final = "/slurm/v0.0.38/"
JOBS_APART: Final = 1_000_000
"""A second partition's jobs are numbered from here on, a third's from twice this."""
CONTROLLER_WAIT_S: Final = 9.0
"""How long slurmrestd tries to reach a slurmctld that does not answer."""
BACKLOG_S: Final = 5.0
_STOP_S: Final = 0.2
_JSON: Final = "application/json"
_SIGNALS: Final = {
    "KILL": 9,
    "USR1": 10,
    "USR2": 12,
    "TERM": 15,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "INT": 2,
    "HUP": 1,
}
_SIGNAL_NAMES: Final = {number: name for name, number in _SIGNALS.items()}
_UPDATABLE: Final = frozenset({"hold", "time_limit", "comment"})
_NO_SUCH_JOB: Final = (2_017, "Invalid job id specified")
_NOT_NOW: Final = (2_020, "Job can not be altered now, try again later")
_HAS_ENDED: Final = (2_084, "Job has already finished")
_ENDED: Final = frozenset({JobPhase.COMPLETED, JobPhase.CANCELLED})


class SlurmFault(StrEnum):
    """How a scheduler fails, besides what any device does (`DeviceFault`)."""

    MALFORMED_JSON = "malformed_json"
    """HTTP 200 and a body that breaks off."""
    CONTROLLER_DOWN = "controller_down"
    """slurmrestd answers, slurmctld does not."""
    BACKLOG = "backlog"
    """slurmctld is busy: a command is carried out `BACKLOG_S` later, whether or not anybody still waits for it."""
    BAD_TOKEN = "bad_token"  # noqa: S105  a fault's name
    """Every token is refused, as when all have expired."""


class SlurmRestServer:
    """One slurmrestd. The partitions' owner advances them; a command acts at the time they were last advanced to."""

    def __init__(
        self,
        partitions: HpcPartition | Sequence[HpcPartition],
        *,
        clock: Clock | None = None,
        log: CommandLog | None = None,
        token: str | None = None,
        latency_s: float = 0.0,
    ) -> None:
        """`token`: the only JSON web token it takes; without one it asks for none. `clock`: what slurmctld thinks the
        time is, where that is not the partitions' own."""
        self.log = CommandLog() if log is None else log
        self.fault: DeviceFault | SlurmFault | None = None
        self.token = token
        self.latency_s = latency_s
        self.requests = 0
        self._views: list[PartitionView] = []
        first_node = 1
        for place, partition in enumerate([partitions] if isinstance(partitions, HpcPartition) else partitions):
            self._views.append(PartitionView(partition, first_node, place * JOBS_APART, clock))
            first_node += partition.plan.nodes
        self._web: web.Server | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._sockets: list[Path] = []
        self._late: set[asyncio.Task[tuple[int, bytes]]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Serve over TCP as well; returns the port."""
        server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        self._servers.append(server)
        return port or int(server.sockets[0].getsockname()[1])

    async def start_unix(self, path: str | Path) -> None:
        """Serve at a Unix socket as well."""
        self._servers.append(await asyncio.get_running_loop().create_unix_server(self._accept, str(path)))
        self._sockets.append(Path(path))

    async def stop(self) -> None:
        """Stop listening and drop every connection. It may be started again."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        served, self._web = self._web, None
        if served is not None:
            await served.shutdown(_STOP_S)
        for server in servers:
            await server.wait_closed()
        for task in self._late:
            task.cancel()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        paths, self._sockets = self._sockets, []
        for path in paths:
            with suppress(OSError):
                if path.is_socket():
                    path.unlink()

    def _accept(self) -> asyncio.Protocol:
        if self.fault is DeviceFault.REFUSE_CONNECTION:
            return _Refusal()
        if self._web is None:
            self._web = web.Server(self._serve, handler_cancellation=True, access_log=None)
        return self._web()

    # -- one exchange ------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        sent = await request.read()
        fault = self.fault
        match fault:
            case DeviceFault.HANG:
                await asyncio.get_running_loop().create_future()
            case DeviceFault.REFUSE_CONNECTION:
                return _cut_off(request, b"")
            case DeviceFault.GARBAGE:
                return _cut_off(request, GARBAGE)
        if fault is SlurmFault.CONTROLLER_DOWN:
            await asyncio.sleep(CONTROLLER_WAIT_S)
            status, answer = self._controller_down(request)
        elif fault is SlurmFault.BACKLOG and request.method != "GET":
            late = asyncio.create_task(self._answer_late(request, sent))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            status, answer = await asyncio.shield(late)
        else:
            status, answer = self._answer(request, sent)
            await asyncio.sleep(self.latency_s)
        return await self._reply(request, status, answer)

    async def _answer_late(self, request: web.BaseRequest, sent: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(BACKLOG_S)
        return self._answer(request, sent)

    async def _reply(self, request: web.BaseRequest, status: int, answer: bytes) -> web.StreamResponse:
        match self.fault:
            case DeviceFault.SLOW:
                return await _drip(request, status, answer)
            case DeviceFault.CUT_SHORT:
                return _cut_off(request, _http_head(status, len(answer)) + answer[: len(answer) // 2])
            case DeviceFault.NAN:
                answer = re.sub(rb'("node_count"|"cpus"|"alloc_cpus"):[0-9]+', rb"\1:NaN", answer)
            case SlurmFault.MALFORMED_JSON:
                answer = answer[: len(answer) // 2]
        kind = _JSON if answer.startswith(b"{") else "text/plain"
        response = web.Response(status=status, body=answer, content_type=kind)
        if status >= 400:
            response.force_close()
        return response

    def _answer(self, request: web.BaseRequest, sent: bytes) -> tuple[int, bytes]:
        """What Slurm says to one request, and what the request does."""
        path = request.path
        if not path.startswith(PREFIX):
            return 404, b"Unable find requested URL. Please view /openapi/v3 for API reference."
        what, _, name = path.removeprefix(PREFIX).rstrip("/").partition("/")
        refused = self._unauthorised(request, what)
        if refused is not None:
            return refused
        if what == "job" and name:
            return self._about_job(request, name, sent)
        if request.method != "GET" and what in {"jobs", "nodes", "partitions", "partition", "ping"}:
            return 405, b"Requested REST method is not defined at URL. Please view /openapi/v3 for API reference."
        self.log.reads += 1
        return self._listing(what, name)

    def _listing(self, what: str, name: str) -> tuple[int, bytes]:
        match what, name:
            case "jobs", "":
                return 200, body(jobs=",".join(record for view in self._views for record in view.job_records()))
            case "nodes", "":
                return 200, body(nodes=",".join(view.node_records() for view in self._views))
            case "partitions", "":
                return 200, body(partitions=",".join(view.partition_record() for view in self._views))
            case "partition", _:
                found = [view.partition_record() for view in self._views if view.name == name]
                unknown = {"error": "Invalid partition name specified", "errno": 2_000}
                return (200, body(partitions=found[0])) if found else (500, failure(unknown, empty="partitions"))
            case "ping", "":
                return 200, body(pings='{"hostname":"sim","ping":"UP","status":0,"mode":"primary"}')
        return 404, b"Unable find requested URL. Please view /openapi/v3 for API reference."

    def _unauthorised(self, request: web.BaseRequest, what: str) -> tuple[int, bytes] | None:
        if self.fault is not SlurmFault.BAD_TOKEN and self.token is None:
            return None
        given = request.headers.get("X-SLURM-USER-TOKEN")
        if not given or not request.headers.get("X-SLURM-USER-NAME"):
            return 401, b"Authentication failure"
        if given == self.token and self.fault is not SlurmFault.BAD_TOKEN:
            return None
        # With a bad token slurmctld closes the connection, and slurmrestd cannot say why.
        return _no_controller(request, what, (5_005, "Zero Bytes were transmitted or received"))

    def _controller_down(self, request: web.BaseRequest) -> tuple[int, bytes]:
        what = request.path.removeprefix(PREFIX).partition("/")[0]
        return _no_controller(request, what, (1_800, "Unable to contact slurm controller (connect failure)"))

    # -- jobs --------------------------------------------------------------------------------------------------------

    def _about_job(self, request: web.BaseRequest, number: str, sent: bytes) -> tuple[int, bytes]:
        if not number.isdigit():
            why = (9_002, "Jobs description entry not found, empty or not dictionary or list")
            return 400, failure(_error(f"Unable to find JobId={number}", why, "_handle_job_get"))
        found = next(((view, run) for view in self._views if (run := view.job(number)) is not None), None)
        if request.method == "DELETE":
            return self._signal(request, number, found)
        if request.method == "POST":
            return self._update(request, number, found, sent)
        self.log.reads += 1
        if found is None:
            error = _error(f"Unable to find JobId={number}", _NO_SUCH_JOB, "slurm_load_job")
            return 500, failure(error, empty="jobs")
        return 200, body(jobs=found[0].job_record(found[1]))

    def _signal(
        self, request: web.BaseRequest, number: str, found: tuple[PartitionView, JobRun] | None
    ) -> tuple[int, bytes]:
        signal = _signal_number(request)
        if signal is None:
            why = (9_000, "Query empty or not RFC7320 compliant")
            return 400, failure(_error("invalid signal: 0", why, "HTTP request: signal"))
        obeyed = self.fault is not DeviceFault.OK_BUT_NOTHING
        refused = _NO_SUCH_JOB if found is None else None
        if found is not None and obeyed:
            refused = _deliver(found[0].partition, found[1], signal)
        self._record(
            request, f"DELETE job/{number} signal={_SIGNAL_NAMES[signal]}", found, obeyed=obeyed and refused is None
        )
        if refused is None and self.fault is DeviceFault.NO_BUT_DOES:
            refused = _NOT_NOW
        if refused is None:
            return 200, body()
        text = f"unable to kill JobId={number} with signal {signal}: {refused[1]}"
        return 500, failure(_error(text, refused, "slurm_kill_job"))

    def _update(
        self, request: web.BaseRequest, number: str, found: tuple[PartitionView, JobRun] | None, sent: bytes
    ) -> tuple[int, bytes]:
        fields = _fields(sent)
        unknown = next((key for key in fields if key not in _UPDATABLE), None)
        if unknown is not None or not fields:
            parsing = _error(
                f"job parsing failed for {_client(request)}", (9_001, "Failure during parsing"), "_parse_job_list"
            )
            return 200, failure({"description": f'Unknown key "{unknown}"', "source": "hsearch_r"}, parsing)
        obeyed = self.fault is not DeviceFault.OK_BUT_NOTHING
        refused = _NO_SUCH_JOB if found is None else _HAS_ENDED if found[1].phase in _ENDED else None
        if found is not None and refused is None and obeyed:
            _change(*found, fields)
        command = f"POST job/{number} {json.dumps(fields, separators=(',', ':'))}"
        self._record(request, command, found, obeyed=obeyed and refused is None)
        if refused is None and self.fault is DeviceFault.NO_BUT_DOES:
            refused = _NOT_NOW
        if refused is None:
            return 200, body()
        return 500, failure(_error(f"job update from {_client(request)} failed", refused, "_parse_job_list"))

    def _record(
        self, request: web.BaseRequest, command: str, found: tuple[PartitionView, JobRun] | None, *, obeyed: bool
    ) -> None:
        device = found[0].name if found is not None else self._views[0].name if self._views else ""
        self.log.add(asyncio.get_running_loop().time(), device, request.remote or "unix", command, obeyed=obeyed)


class _Refusal(asyncio.Protocol):
    """A connection that is reset as it is made, the nearest thing to a refusal once a kernel has accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _signal_number(request: web.BaseRequest) -> int | None:
    """The signal asked for by name, with or without SIG, or by number; KILL where none is."""
    said = request.query.get("signal", "KILL").removeprefix("SIG")
    number = int(said) if said.isdigit() else _SIGNALS.get(said, 0)
    return number if number in _SIGNAL_NAMES else None


def _deliver(partition: HpcPartition, run: JobRun, signal: int) -> tuple[int, str] | None:
    """Signal a job. Returns Slurm's error, or None; a job that has ended takes any signal."""
    job = run.spec.id
    if run.phase in _ENDED:
        return None
    if signal in {_SIGNALS["KILL"], _SIGNALS["TERM"], _SIGNALS["INT"]}:
        refused = partition.cancel(job)
    elif signal in {_SIGNALS["STOP"], _SIGNALS["TSTP"]}:
        refused = partition.freeze(job)
    elif signal == _SIGNALS["CONT"]:
        refused = partition.thaw(job)
    else:
        refused = partition.warn(job)
    return _NOT_NOW if isinstance(refused, JobRefused) else None


def _change(view: PartitionView, run: JobRun, fields: Mapping[str, Any]) -> None:
    """Update a job. Slurm takes a hold of a running job, and nothing comes of it before it is requeued."""
    if "hold" in fields and run.phase is JobPhase.PENDING:
        if fields["hold"]:
            view.partition.hold(run.spec.id)
        else:
            view.partition.release(run.spec.id)
    if isinstance(fields.get("time_limit"), int):
        view.limits_min[run.spec.id] = fields["time_limit"]


def _no_controller(request: web.BaseRequest, what: str, why: tuple[int, str]) -> tuple[int, bytes]:
    """slurmrestd's answers where it gets none from slurmctld."""
    number = request.path.rpartition("/")[2]
    if what == "jobs":
        error = _error("Failed while looking for jobs", (-1, "Unspecified error"), "slurm_load_jobs")
        return 500, failure(error, empty="jobs")
    if what == "job" and request.method == "DELETE":
        text = f"unable to kill JobId={number} with signal {_signal_number(request) or 0}: {why[1]}"
        return 500, failure(_error(text, why, "slurm_kill_job"))
    if what == "job" and request.method == "POST":
        text = f"job update from {_client(request)} failed"
        return 500, failure(_error(text, (1_000, "Unexpected message received"), "_parse_job_list"))
    return 500, failure({"error": "Unspecified error", "errno": -1}, empty=what)


def _error(description: str, why: tuple[int, str], source: str) -> dict[str, object]:
    return {"description": description, "error_number": why[0], "error": why[1], "source": source}


def _fields(sent: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(sent)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _client(request: web.BaseRequest) -> str:
    return f"[{request.remote or 'localhost'}]:0"


def _http_head(status: int, length: int) -> bytes:
    return f"HTTP/1.1 {status} \r\nContent-Length: {length}\r\nContent-Type: {_JSON}\r\n\r\n".encode()


def _cut_off(request: web.BaseRequest, last_words: bytes) -> web.StreamResponse:
    """Send raw bytes, none perhaps, and end the connection; with none it is reset."""
    transport = request.transport
    if transport is not None and last_words:
        transport.write(last_words)
        transport.close()
    elif transport is not None:
        transport.abort()
    return web.Response()


async def _drip(request: web.BaseRequest, status: int, answer: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"Content-Type": _JSON})
    response.content_length = len(answer)
    with suppress(ConnectionError):  # the client has had enough
        await response.prepare(request)
        for at in range(len(answer)):
            await response.write(answer[at : at + 1])
            await asyncio.sleep(DRIP_S)
    return response
