"""A real Slurm cluster of our own on loopback, for the tests: munged, slurmctld, one slurmd per node, slurmrestd.

All are plain processes in a temporary folder, on free ports, under the real programs' own rules: slurmrestd refuses to
run as root, so it runs as nobody and every client brings a JSON web token. Nothing of the machine's own Slurm is read
or touched, and nothing is left: the daemons and every process of a job are ended by their ids.

Needs root (jobs run as root) and the Debian packages in `PACKAGES`; `missing_for_slurm` says what is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

PACKAGES: Final = "slurmctld slurmd slurm-client slurmrestd slurm-wlm-basic-plugins slurm-wlm-jwt-plugin munge"
VERSION: Final = "22.05."
"""Debian 12's. Later ones serve other versions of the API, and differ in what a signal reaches."""
_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "slurmrestd", "sbatch", "scancel", "scontrol", "setpriv")
_PATH: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))
_HOST: Final = "127.0.0.1"
_NOBODY: Final = 65_534
_MARK: Final = "WATTSHIFT_SLURM"
"""In the environment of every process of a cluster, with the cluster's folder: how strays are told from others'."""
_START_S: Final = 20.0
_START_TRIES: Final = 3
_CLIENT_S: Final = 15.0
_END_S: Final = 10.0
_SWEEPS: Final = 50

_CONFIG: Final = """\
ClusterName=wattshift
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket,cred_expire=5
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/secret/jwt.key
CredType=cred/munge
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=300
"""


_POWER_SAVING: Final = """\
SuspendProgram={folder}/power-off
ResumeProgram={folder}/power-on
SuspendTime=86400
SuspendTimeout=1
ResumeTimeout=30
"""
"""Both programs get neither a PATH nor open stdio from slurmctld."""


class SlurmError(RuntimeError):
    """The cluster could not be started, or a Slurm command failed; the text says what it printed."""


def missing_for_slurm() -> str | None:
    """What keeps a cluster from running here, in words; None where nothing does."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"not on this machine: {', '.join(missing)} (packages {PACKAGES})"
    if os.geteuid() != 0:
        return "not root, which munged and slurmd need here"
    version = slurm_version()
    return None if version.startswith(VERSION) else f"Slurm {version or 'of no version'} is here, {VERSION} is needed"


@cache
def slurm_version() -> str:
    """Of the slurmrestd that is installed; "" where it does not say."""
    program = shutil.which("slurmrestd", path=_PATH)
    if program is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([program, "-V"], capture_output=True, timeout=_CLIENT_S, text=True, check=False)  # noqa: S603  found on PATH
        return said.stdout.strip().rpartition(" ")[2]
    return ""


class SlurmCluster:
    """A cluster that lives as long as the `async with`.

    `partitions` maps names to what `slurm.conf` shall say of them besides the name, "Nodes=ALL" for instance; by
    default there is one, `hpc`, with every node. `more_config` is appended to `slurm.conf`. With `power_saving` a node
    that Slurm powers down loses its slurmd, as it would its power, and gets a new one when it is powered up.

    `proctrack` is how a job step finds its processes. `linuxproc` follows every descendant, and walks the whole of
    `/proc` for each signal: with n nodes on one kernel each pays for the processes of all n, which no real node does.
    `pgid` looks at its own group alone: for figures over many jobs.
    """

    def __init__(
        self,
        *,
        nodes: int = 4,
        cpus: int = 4,
        partitions: Mapping[str, str] | None = None,
        more_config: str = "",
        power_saving: bool = False,
        proctrack: str = "linuxproc",
    ) -> None:
        self.nodes: Final = nodes
        self.cpus: Final = cpus
        self.user: Final = "root"
        """Whose token it is that `token_file` holds."""
        self._partitions = dict(partitions or {"hpc": "Nodes=ALL Default=YES"})
        self._more_config = more_config
        self._power_saving = power_saving
        self._proctrack = proctrack
        self._folder: Path | None = None
        self._running: dict[str, Process] = {}
        self._rest_port = 0
        self._controller_port = 0
        self._node_ports: list[int] = []

    # -- where it is -------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where all its files are; jobs may write there too."""
        if self._folder is None:
            raise SlurmError("the cluster has not been started")
        return self._folder

    @property
    def url(self) -> str:
        """slurmrestd over TCP."""
        return f"http://{_HOST}:{self._rest_port}"

    @property
    def unix_url(self) -> str:
        """slurmrestd over a Unix socket."""
        return f"unix:{self.folder}/rest/slurmrestd.socket"

    @property
    def token_file(self) -> Path:
        """Holds a token of `user` that is valid for the cluster's life."""
        return self.folder / "secret" / "token"

    @property
    def environment(self) -> dict[str, str]:
        """What a Slurm client needs to talk to this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return {**kept, "PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf"), _MARK: str(self.folder)}

    @property
    def _pids(self) -> list[int]:
        """Of its daemons."""
        return [process.pid for process in self._running.values()]

    # -- using it ----------------------------------------------------------------------------------------------------

    async def command(self, *words: str) -> str:
        """Run a Slurm client and return what it printed. Raises `SlurmError` where it fails or takes too long."""
        process = await asyncio.create_subprocess_exec(
            *words,
            env=self.environment,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_CLIENT_S):
                printed, complaint = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise SlurmError(f"{' '.join(words)}: no end after {_CLIENT_S:.0f} s") from None
        if process.returncode != 0:
            raise SlurmError(f"{' '.join(words)}: {complaint.decode(errors='replace').strip()}")
        return printed.decode()

    async def submit(self, script: str, *options: str) -> str:
        """Submit a shell script with `sbatch`'s own options, and return the job's id."""
        printed = await self.command("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")
        return printed.strip().partition(";")[0]

    async def token(self, *, lifespan_s: int) -> str:
        """A new token of `user`."""
        printed = await self.command("scontrol", "token", f"username={self.user}", f"lifespan={lifespan_s}")
        return printed.strip().partition("=")[2]

    async def until(self, job: str, *states: str, timeout_s: float = 15.0) -> str:
        """Wait until a job is in one of these states, as squeue names them ("" once it is gone), and return it."""
        state = ""
        try:
            async with asyncio.timeout(timeout_s):
                while (state := await self.state(job)) not in states:  # noqa: ASYNC110  another process's state
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise SlurmError(f"job {job} is {state!r} after {timeout_s:.0f} s, not {' or '.join(states)}") from None
        return state

    async def state(self, job: str) -> str:
        """A job's state as squeue names it, "" where it is not known any more."""
        try:
            return (await self.command("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")).strip()
        except SlurmError as error:
            if "Invalid job id" in str(error):
                return ""
            raise

    async def clear(self) -> None:
        """End every job, and wait until their nodes are free."""
        jobs = (await self.command("squeue", "--noheader", "--format=%i", "--array")).split()
        if jobs:
            await self.command("scancel", "--user=root")
            await self._wait("the nodes", self._nodes_are_idle)

    async def stop_controller(self) -> None:
        """End slurmctld in order, so that it knows its jobs when it is started again; slurmrestd and the jobs go on."""
        await self._end("slurmctld", signal.SIGTERM)

    async def start_controller(self) -> None:
        await self._start_controller()
        await self._answering()

    def pause_controller(self) -> None:
        """slurmctld stands still: it takes connections and answers nothing."""
        self._running["slurmctld"].send_signal(signal.SIGSTOP)

    def resume_controller(self) -> None:
        self._running["slurmctld"].send_signal(signal.SIGCONT)

    async def kill_node(self, node: str) -> None:
        """A node dies: its slurmd, its job steps and every process of its jobs at once."""
        await self._end(node)
        processes = marked_processes(self.folder, f"SLURMD_NODENAME={node}")
        managers = {parent for pid in processes if (parent := _parent(pid)) > 1} - set(self._pids)
        for pid in (*managers, *processes):  # the managers first: one that sees a job's process die tells slurmctld
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def start_node(self, node: str) -> None:
        """Its slurmd again, as after a boot."""
        await self._spawn(node, "slurmd", "-D", "-b", "-N", node)

    async def follow_power(self) -> None:
        """Until cancelled, be the power of the nodes: end the slurmd of those that Slurm powers down, and start one for
        those that it powers up."""
        done = 0
        log = self.folder / "power.log"
        while True:
            lines = log.read_text().splitlines() if log.exists() else []
            for line in lines[done:]:
                what, _, names = line.partition(" ")
                for node in (await self.command("scontrol", "show", "hostnames", names)).split():
                    if what == "off" and node in self._running:
                        await self._end(node)
                    elif what == "on" and node not in self._running:
                        await self.start_node(node)
            done = len(lines)
            await asyncio.sleep(0.05)

    # -- its life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        missing = missing_for_slurm()
        if missing is not None:
            raise SlurmError(missing)
        for tries_left in reversed(range(_START_TRIES)):
            try:
                await self._start()
            except SlurmError:
                await self.__aexit__()
                if not tries_left:
                    raise
            except BaseException:
                await self.__aexit__()
                raise
            else:
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in reversed(tuple(self._running)):
            await self._end(name)
        if self._folder is not None:
            await _sweep(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _start(self) -> None:
        """Everything, on ports that were free a moment ago; another process may take one first."""
        self._controller_port, self._rest_port, *self._node_ports = _free_ports(2 + self.nodes)
        self._lay_out()
        await self._start_munge()
        await self._start_controller()
        for number in range(1, self.nodes + 1):
            await self._spawn(f"node{number}", "slurmd", "-D", "-N", f"node{number}")
        await self._answering()
        _write_private(self.token_file, (await self.token(lifespan_s=86_400)).encode())
        await self._start_rest()
        await self._wait("the nodes", self._nodes_are_idle)

    def _lay_out(self) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="wattshift-slurm-"))
        folder.chmod(0o755)  # slurmrestd, as nobody, reads the configuration
        for name, mode in (("munge", 0o755), ("secret", 0o700), ("state", 0o755), ("spool", 0o755), ("rest", 0o755)):
            (folder / name).mkdir(mode=mode)
        os.chown(folder / "rest", _NOBODY, _NOBODY)
        for name in ("munge.key", "jwt.key"):
            _write_private(folder / "secret" / name, secrets.token_bytes(128))
        (folder / "slurm.conf").write_text(self._config())
        for what in ("off", "on"):
            program = folder / f"power-{what}"
            program.write_text(f'#!/bin/sh\nexec </dev/null >>{folder}/power.log 2>&1\necho "{what} $1"\n')
            program.chmod(0o755)

    def _config(self) -> str:
        host = socket.gethostname().partition(".")[0]
        places = {"folder": self.folder, "host": host, "address": _HOST, "controller_port": self._controller_port}
        lines = [_CONFIG.format(**places, proctrack=self._proctrack)]
        for number, port in enumerate(self._node_ports, 1):
            place = f"NodeHostname={host} NodeAddr={_HOST} Port={port}"
            lines.append(f"NodeName=node{number} {place} CPUs={self.cpus} RealMemory=1000 State=UNKNOWN")
        lines.extend(f"PartitionName={name} {more}" for name, more in self._partitions.items())
        if self._power_saving:
            lines.append(_POWER_SAVING.format(folder=self.folder))
        return "\n".join([*lines, self._more_config, ""])

    async def _start_munge(self) -> None:
        munge, secret = self.folder / "munge", self.folder / "secret"
        files = {"socket": munge / "munge.socket", "key-file": secret / "munge.key", "pid-file": munge / "munged.pid"}
        files |= {"log-file": munge / "munged.log", "seed-file": munge / "munged.seed"}
        options = [f"--{name}={path}" for name, path in files.items()]
        await self._spawn("munged", "munged", "--foreground", "--force", "--num-threads=2", *options)
        await self._wait("munged", files["socket"].exists)

    async def _start_controller(self) -> None:
        await self._spawn("slurmctld", "slurmctld", "-D", "-i")

    async def _start_rest(self) -> None:
        drop = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--pdeathsig=KILL")
        serve = ("slurmrestd", "-s", "openapi/v0.0.38", "-a", "rest_auth/jwt")
        where = (f"{_HOST}:{self._rest_port}", self.unix_url)
        await self._spawn("slurmrestd", *drop, *serve, *where, SLURM_JWT="daemon")
        await self._wait("slurmrestd", self._rest_listens)

    async def _spawn(self, name: str, *words: str, **environment: str) -> None:
        program = shutil.which(words[0], path=_PATH)
        assert program is not None  # noqa: S101  looked for before anything was started
        wrapper = (sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), str(os.getpid()))
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                *wrapper,
                program,
                *words[1:],
                env={**self.environment, **environment},
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _end(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _answering(self) -> None:
        await self._wait("slurmctld", self._controller_answers)

    async def _controller_answers(self) -> bool:
        with contextlib.suppress(SlurmError):
            return "is UP" in await self.command("scontrol", "ping")
        return False

    async def _nodes_are_idle(self) -> bool:
        printed = await self.command("sinfo", "--noheader", "--Node", "--format=%N %T")
        return {line.split()[1] for line in printed.splitlines() if line.startswith("node")} == {"idle"}

    def _rest_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((_HOST, self._rest_port)) == 0

    async def _wait(self, what: str, ready: Callable[[], Any]) -> None:
        """Wait until `ready` says so, as long as every daemon lives."""
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    said = ready()
                    if await said if asyncio.iscoroutine(said) else said:
                        return
                    self._refuse_dead()
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise SlurmError(f"{what} not ready after {_START_S:.0f} s:\n{self._logs()}") from None

    def _refuse_dead(self) -> None:
        dead = [name for name, process in self._running.items() if process.returncode is not None]
        if dead:
            raise SlurmError(f"ended at once: {', '.join(dead)}\n{self._logs()}")

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-600:]}" for log in logs)


async def _sweep(folder: Path) -> None:
    """End what a cluster's daemons have left: job steps, and what the jobs' scripts run, stopped ones too."""
    for _ in range(_SWEEPS):
        strays = marked_processes(folder)
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)


def marked_processes(folder: Path, *more: str) -> list[int]:
    """Ids of the living processes that carry a cluster's mark, and these words in their environment besides."""
    marks = {f"{_MARK}={folder}".encode(), *(word.encode() for word in more)}
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marks.issubset((process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
    return found


def _parent(pid: int) -> int:
    """0 where it has none any more."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes: Sequence[socket.socket] = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
