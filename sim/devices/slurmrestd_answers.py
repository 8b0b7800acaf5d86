"""What the simulated slurmrestd says: the records of Slurm's OpenAPI v0.0.38, shaped as Slurm 22.05.8 was recorded.

A partition of a thousand jobs is polled at every tick and hardly changes in between, so a job's record is rendered once
for each state it is in, and a body is those records joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from contract.clock import Clock
from sim.devices.template import compiled, num, safe_text, txt
from sim.jobs import JobPhase, JobRun, JobSpec
from sim.partition import HpcPartition

CPUS_PER_NODE: Final = 4
NODE_MEMORY_MB: Final = 1_000
ADMIN_PRIORITY: Final = 4_294_901_760
"""Slurm's priority/basic counts down from here, one for each job submitted."""

_RECORDED: Final[Mapping[str, Any]] = json.loads(Path(__file__).with_name("slurmrestd-22.05.8.json").read_text())
_META: Final = json.dumps(_RECORDED["meta"], separators=(",", ":"))
_STATES: Final = {
    JobPhase.PENDING: "PENDING",
    JobPhase.RUNNING: "RUNNING",
    JobPhase.FROZEN: "STOPPED",
    JobPhase.COMPLETED: "COMPLETED",
    JobPhase.CANCELLED: "CANCELLED",
}
_CORES: Final = ",".join(f'"{socket}":{{"cores":{{"0":"allocated"}}}}' for socket in range(CPUS_PER_NODE))

_PENDING_RECORD: Final = {
    **_RECORDED["job"],
    **{name: num(name) for name in ("job_id", "accrue_time", "submit_time", "eligible_time", "priority")},
    **{name: num(name) for name in ("start_time", "end_time", "last_sched_evaluation", "node_count", "tasks", "cpus")},
    **{name: num(name) for name in ("max_nodes", "restart_cnt", "time_limit")},
    **{name: txt(name) for name in ("partition", "comment", "job_state", "state_reason", "nodes", "batch_host")},
    **{name: txt(name) for name in ("tres_req_str", "tres_alloc_str")},
    "billable_tres": num("billable_tres", "s"),
    "cluster": "wattshift",
    "flags": ["JOB_CPUS_SET"],
    "minimum_cpus_per_node": CPUS_PER_NODE,
}
_PENDING: Final = compiled(_PENDING_RECORD)
_PLACED: Final = compiled({**_PENDING_RECORD, "job_resources": num("job_resources", "s")})
_NODE: Final = compiled(
    {
        **_RECORDED["node"],
        "name": txt("name"),
        "state": txt("state"),
        "state_flags": num("state_flags", "s"),
        "partitions": num("partitions", "s"),
        "port": num("port"),
        "alloc_cpus": num("alloc_cpus"),
        "idle_cpus": num("idle_cpus"),
        "tres_used": txt("tres_used"),
        "tres_weighted": num("alloc_cpus", ".1f"),
    }
)

_State = tuple[object, ...]


class PartitionView:
    """One partition as Slurm would show it."""

    def __init__(self, partition: HpcPartition, first_node: int, first_job: int, clock: Clock | None = None) -> None:
        """`first_job` is added to the ids of its jobs, which must be whole numbers."""
        self.partition = partition
        self.name = partition.plan.id
        self.limits_min: dict[str, int] = {}
        """Time limits that were changed, by job; the others are what was asked for."""
        self._first_node = first_node
        self._first_job = first_job
        self._clock = clock
        self._jobs: dict[str, tuple[_State, str]] = {}
        self._nodes: tuple[_State, str] = ((), "")

    def job(self, number: str) -> JobRun | None:
        """The job of that Slurm id, live or lately ended."""
        own = int(number) - self._first_job
        return self.partition.job(str(own)) if own > 0 else None

    def job_records(self) -> Iterable[str]:
        """Every live job, in order of submission."""
        jobs = self.partition.jobs
        if len(self._jobs) > 2 * len(jobs) + 100:
            live = {run.spec.id for run in jobs}
            self._jobs = {job: kept for job, kept in self._jobs.items() if job in live}
            self.limits_min = {job: limit for job, limit in self.limits_min.items() if job in live}
        return [self.job_record(run) for run in jobs]

    def job_record(self, run: JobRun) -> str:
        job = run.spec.id
        state = (run.phase, run.node_ids, run.started_ms, run.requeues, self._reason(run), self.limits_min.get(job))
        kept = self._jobs.get(job)
        if kept is None or kept[0] != state:
            kept = self._jobs[job] = (state, self._render_job(run))
        return kept[1]

    def node_records(self) -> str:
        """Every node, already joined."""
        busy = frozenset(node for run in self.partition.jobs for node in run.node_ids)
        state = (busy, self.partition.nodes_down)
        if self._nodes[0] != state:
            records = (self._render_node(node, busy, state[1]) for node in range(self.partition.plan.nodes))
            self._nodes = (state, ",".join(records))
        return self._nodes[1]

    def partition_record(self) -> str:
        nodes = self.partition.plan.nodes
        return json.dumps(
            {
                **_RECORDED["partition"],
                "name": self.name,
                "nodes": host_list(range(nodes), self._first_node),
                "state": "UP" if self.partition.admitting else "DOWN",
                "total_cpus": nodes * CPUS_PER_NODE,
                "total_nodes": nodes,
                "tres": _tres(nodes),
            }
        )

    def limit_min(self, run: JobRun) -> int:
        """The job's time limit, in minutes, rounded up as sbatch does."""
        return self.limits_min.get(run.spec.id) or max(1, -int(-run.spec.requested_s // 60))

    def _render_job(self, run: JobRun) -> str:
        spec, placed = run.spec, bool(run.node_ids)
        pending = run.phase is JobPhase.PENDING
        held = pending and run.held
        submitted_s, started_s = spec.submit_ms // 1_000, (run.started_ms or 0) // 1_000
        hosts = host_list(run.node_ids, self._first_node)
        values: dict[str, float | str] = {
            "job_id": int(spec.id) + self._first_job,
            "accrue_time": 0 if held else submitted_s,
            "submit_time": submitted_s,
            "eligible_time": 0 if held else max(submitted_s, run.eligible_ms // 1_000),
            "priority": 0 if held else ADMIN_PRIORITY - int(spec.id),
            "start_time": 0 if pending else started_s,
            "end_time": 0 if pending else started_s + 60 * self.limit_min(run),
            "last_sched_evaluation": submitted_s if pending else started_s,
            "node_count": spec.nodes,
            "tasks": spec.nodes,
            "cpus": spec.nodes * CPUS_PER_NODE,
            "max_nodes": spec.nodes if pending else 0,
            "restart_cnt": run.requeues,
            "time_limit": self.limit_min(run),
            "partition": safe_text(self.name),
            "comment": safe_text(comment_of(spec)),
            "job_state": _STATES[run.phase],
            "state_reason": self._reason(run),
            "nodes": hosts,
            "batch_host": f"node{self._first_node + run.node_ids[0]}" if placed else "",
            "tres_req_str": _tres(spec.nodes),
            "tres_alloc_str": _tres(spec.nodes, memory=False) if placed else "",
            "billable_tres": f"{spec.nodes * CPUS_PER_NODE}.0" if placed else "null",
        }
        if not placed:
            return _PENDING % values
        values["job_resources"] = self._resources(run, hosts)
        return _PLACED % values

    def _reason(self, run: JobRun) -> str:
        if run.phase is not JobPhase.PENDING:
            return "None"
        if run.held:
            return "JobHeldAdmin"
        if not self.partition.admitting:
            return "PartitionDown"
        now_ms = self.partition.now_ms if self._clock is None else self._clock.wall_ms()
        return "BeginTime" if run.eligible_ms > now_ms else "Priority"

    def _resources(self, run: JobRun, hosts: str) -> str:
        nodes = ",".join(
            f'{{"sockets":{{{_CORES}}},"nodename":"node{self._first_node + node}",'
            '"cpus_used":0,"memory_used":0,"memory_allocated":0}'
            for node in run.node_ids
        )
        count = len(run.node_ids)
        counts = f'"allocated_cpus":{count * CPUS_PER_NODE},"allocated_hosts":{count}'
        return f'{{"nodes":"{hosts}",{counts},"allocated_nodes":[{nodes}]}}'

    def _render_node(self, node: int, busy: frozenset[int], down: frozenset[int]) -> str:
        used = CPUS_PER_NODE if node in busy else 0
        return _NODE % {
            "name": f"node{self._first_node + node}",
            "state": "down" if node in down else "allocated" if used else "idle",
            "state_flags": '["NOT_RESPONDING"]' if node in down else "[]",
            "partitions": json.dumps([self.name]),
            "port": 6_818,
            "alloc_cpus": used,
            "idle_cpus": CPUS_PER_NODE - used,
            "tres_used": f"cpu={used}" if used else "",
        }


def body(**parts: str) -> bytes:
    """A whole answer: the server's `meta`, no errors, and these lists, given as JSON without their brackets."""
    lists = "".join(f',"{name}":[{records}]' for name, records in parts.items())
    return f'{{"meta":{_META},"errors":[]{lists}}}'.encode()


def failure(*errors: Mapping[str, object], empty: str | None = None) -> bytes:
    """An answer that says why not; `empty` names the list that stands there all the same."""
    parts: dict[str, object] = {"meta": _RECORDED["meta"], "errors": list(errors)}
    if empty is not None:
        parts[empty] = []
    return json.dumps(parts).encode()


def comment_of(spec: JobSpec) -> str:
    """A job's terms as its owner would write them into `--comment`."""
    words = ["wattshift", f"value={spec.value_usd_per_node_h:g}"]
    if spec.firm:
        words.append("firm")
    if spec.deadline_ms is not None:
        words.append(f"deadline={spec.deadline_ms / 1_000:.10g}")
    if spec.checkpoint_every_s is not None:
        words.append(f"checkpoint={spec.checkpoint_every_s:g}")
    if spec.restart_cost_usd:
        words.append(f"restart={spec.restart_cost_usd:g}")
    if spec.notice_ms:
        words.append(f"notice={spec.notice_ms / 1_000:g}")
    return " ".join(words)


def host_list(nodes: Iterable[int], first: int) -> str:
    """Slurm's short form of node names: node[1-3,7]."""
    runs: list[list[int]] = []
    for node in sorted(nodes):
        if runs and runs[-1][1] == node - 1:
            runs[-1][1] = node
        else:
            runs.append([node, node])
    parts = [f"{low + first}" if low == high else f"{low + first}-{high + first}" for low, high in runs]
    if len(parts) == 1 and "-" not in parts[0]:
        return f"node{parts[0]}"
    return f"node[{','.join(parts)}]" if parts else ""


def _tres(nodes: int, *, memory: bool = True) -> str:
    cpus = nodes * CPUS_PER_NODE
    stored = f"mem={nodes * NODE_MEMORY_MB}M," if memory else ""
    return f"cpu={cpus},{stored}node={nodes},billing={cpus}"
