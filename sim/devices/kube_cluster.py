"""A simulated Kubernetes cluster with Kueue: objects as the API stores them, and as much of its controllers as an agent
meets. `reconcile` does what is due by the wall clock it is given; every change of an object gives it a new version.

Kept because a driver must cope with it: Kueue starts at once a Job that only its own field suspends; a suspended Job's
pods stay for their grace, and for ever on a kubelet that is gone; a Job's version changes with its status.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

Object = dict[str, Any]
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
NAMESPACED: Final = frozenset({"pods", "jobs", "localqueues", "workloads"})
_PODS_MAX: Final = 10_000


class KubeCluster:
    """`wall_s` is the cluster's clock, in Unix seconds."""

    def __init__(self, wall_s: Callable[[], float], *, grace_s: float = 0.2, settle_s: float = 0.0) -> None:
        """`settle_s`: the controllers act no more often than that."""
        self.wall_s = wall_s
        self.grace_s = grace_s
        self.settle_s = settle_s
        self._settled_s = float("-inf")
        self.objects: dict[str, dict[tuple[str, str], Object]] = {
            kind: {} for kind in ("nodes", "pods", "jobs", "clusterqueues", "localqueues", "workloads")
        }
        self.budgets: dict[str, int] = {}
        """How many pods with a label `app` may be evicted; those that are in none may go at will."""
        self.stuck: set[str] = set()
        """Jobs whose pods do not end."""
        self.restarts: dict[str, int] = {}
        """How often each job was started."""
        self._versions = itertools.count(1)
        self._names = itertools.count(1)

    # -- what a site does --------------------------------------------------------------------------------------------

    def add_node(self, name: str, *, cpu: int = 64, labels: Mapping[str, str] | None = None) -> None:
        status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": str(cpu)}}
        self._put("nodes", "", name, {"spec": {}, "status": status}, labels={"pool": "gpu", **(labels or {})})

    def add_queue(self, name: str, *local: str) -> None:
        """A ClusterQueue, and LocalQueues that lead to it, each `namespace/name`."""
        self._put("clusterqueues", "", name, {"spec": {"stopPolicy": "None"}})
        for each in local:
            namespace, _, own = each.partition("/")
            self._put("localqueues", namespace, own, {"spec": {"clusterQueue": name, "stopPolicy": "None"}})

    def add_job(
        self,
        key: str,
        *,
        queue: str | None = None,
        pods: int = 1,
        cpu: int = 64,
        suspend: bool = False,
        annotations: Mapping[str, str] | None = None,
        limit_s: int | None = None,
    ) -> None:
        self._add_job(key, queue, pods, cpu, suspend, annotations, limit_s)
        self.reconcile()

    def add_jobs(self, keys: Iterable[str], *, queue: str | None = None, cpu: int = 64) -> None:
        """Many alike, of one pod each."""
        for key in keys:
            self._add_job(key, queue, 1, cpu, False, None, None)
        self.reconcile()

    def add_pod(self, key: str, node: str, *, app: str = "", owner: str = "ReplicaSet") -> None:
        """A pod of no Job, on a node."""
        namespace, _, name = key.partition("/")
        body = {"spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}}
        self._put("pods", namespace, name, body, labels={"app": app}, owner=(owner, f"{owner}-{name}"))

    def finish(self, key: str) -> None:
        """A job's work is done."""
        namespace, _, name = key.partition("/")
        job = self.objects["jobs"][namespace, name]
        job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
        self.touch(job)
        for pod in self._pods_of(job):
            pod["status"]["phase"] = "Succeeded"
            self.touch(pod)

    def get(self, kind: str, key: str) -> Object:
        namespace, _, name = key.rpartition("/")
        return self.objects[kind][namespace, name]

    def running(self, key: str) -> int:
        """Pods of a job that run, on their way out or not."""
        return sum(pod["status"]["phase"] == "Running" for pod in self._pods_of(self.get("jobs", key)))

    def touch(self, found: Object) -> None:
        """It has changed."""
        found["metadata"]["resourceVersion"] = str(next(self._versions))

    # -- what the API server asks ------------------------------------------------------------------------------------

    def merge(self, found: Object, change: Mapping[str, Any]) -> None:
        """RFC 7386, on the object in place."""
        _merged(found, {key: value for key, value in change.items() if key != "kind" and key != "apiVersion"})
        self.touch(found)
        self.reconcile()

    def evict(self, pod: Object) -> bool:
        """Whether a budget lets it go."""
        app = pod["metadata"]["labels"].get("app", "")
        if app in self.budgets:
            if self.budgets[app] <= 0:
                return False
            self.budgets[app] -= 1
        self._end(pod)
        return True

    def reconcile(self) -> None:
        """What the controllers do by now."""
        now_s = self.wall_s()
        if now_s - self._settled_s < self.settle_s:
            return
        self._settled_s = now_s
        self._admit()
        owned: dict[str, list[Object]] = defaultdict(list)
        for pod in self.objects["pods"].values():
            owned[pod["metadata"]["ownerReferences"][0]["uid"]].append(pod)
        for job in list(self.objects["jobs"].values()):
            self._run(job, owned[job["metadata"]["uid"]])
        self._schedule()
        for key, pod in list(self.objects["pods"].items()):
            gone_by = pod["metadata"].get("deletionTimestamp")
            is_stuck = pod["metadata"].get("ownerReferences", [{}])[0].get("name", "") in self.stuck
            if gone_by is not None and now_s >= datetime.fromisoformat(gone_by).timestamp() and not is_stuck:
                del self.objects["pods"][key]

    # -- controllers -------------------------------------------------------------------------------------------------

    def _add_job(
        self,
        key: str,
        queue: str | None,
        pods: int,
        cpu: int,
        suspend: bool,
        annotations: Mapping[str, str] | None,
        limit_s: int | None,
    ) -> None:
        namespace, _, name = key.partition("/")
        container = {"name": "main", "resources": {"requests": {"cpu": str(cpu)}}}
        spec: Object = {"suspend": suspend or queue is not None, "parallelism": pods}
        spec["template"] = {"spec": {"containers": [container]}}
        if limit_s is not None:
            spec["activeDeadlineSeconds"] = limit_s
        labels = {} if queue is None else {QUEUE_LABEL: queue}
        self._put("jobs", namespace, name, {"spec": spec, "status": {}}, labels=labels, annotations=annotations)

    def _admit(self) -> None:
        """Kueue: a Workload for each queued job; active ones run unless their queue is held, others do not."""
        owned = {own["metadata"]["ownerReferences"][0]["uid"]: own for own in self.objects["workloads"].values()}
        for (namespace, name), job in self.objects["jobs"].items():
            queue = job["metadata"]["labels"].get(QUEUE_LABEL)
            if queue is None or job["status"].get("conditions"):
                continue
            own = owned.get(job["metadata"]["uid"])
            if own is None:
                body: Object = {"spec": {"active": True, "queueName": queue}}
                self._put("workloads", namespace, f"job-{name}", body, owner=("Job", job["metadata"]["uid"]))
                own = self.objects["workloads"][namespace, f"job-{name}"]
            self._start_or_stop(job, own, self.objects["localqueues"].get((namespace, queue)))

    def _start_or_stop(self, job: Object, own: Object, local: Object | None) -> None:
        cluster = self.objects["clusterqueues"].get(("", local["spec"]["clusterQueue"])) if local else None
        is_open = local is not None and cluster is not None
        is_open = is_open and all(each["spec"].get("stopPolicy", "None") == "None" for each in (local, cluster) if each)
        admitted = bool(own.get("status", {}).get("admission"))
        if not own["spec"]["active"]:
            own["status"], wanted = {}, False
        elif admitted or is_open:
            own["status"], wanted = {"admission": {"clusterQueue": "x"}}, True
        else:
            wanted = False
        if job["spec"]["suspend"] == wanted:
            job["spec"]["suspend"] = not wanted
            self.touch(job)

    def _run(self, job: Object, own: Iterable[Object]) -> None:
        """The Job controller: as many pods as it wants, or none."""
        pods = [pod for pod in own if pod["metadata"].get("deletionTimestamp") is None]
        if job["spec"]["suspend"]:
            for pod in pods:
                self._end(pod)
            return
        if job["status"].get("conditions"):
            return
        if "startTime" not in job["status"]:
            job["status"]["startTime"] = self._stamp()
            self.touch(job)
        for _ in range(job["spec"]["parallelism"] - len(pods)):
            meta = job["metadata"]
            body = {"spec": copy.deepcopy(job["spec"]["template"]["spec"]), "status": {"phase": "Pending"}}
            name = f"{meta['name']}-{next(self._names)}"
            owner = ("Job", meta["uid"], f"{meta['namespace']}/{meta['name']}")
            self._put("pods", meta["namespace"], name, body, labels={"job-name": meta["name"]}, owner=owner)

    def _schedule(self) -> None:
        if len(self.objects["pods"]) > _PODS_MAX:
            raise RuntimeError("too many pods for this simulation")
        free = {name: int(node["status"]["allocatable"]["cpu"]) for name, node in self._open_nodes()}
        for pod in self.objects["pods"].values():
            name = pod["spec"].get("nodeName")
            if name in free and pod["status"]["phase"] == "Running":
                free[name] -= _cpu(pod)
        for pod in self.objects["pods"].values():
            if pod["status"]["phase"] != "Pending":
                continue
            fit = next((name for name, cpu in free.items() if cpu >= _cpu(pod)), None)
            if fit is not None:
                free[fit] -= _cpu(pod)
                pod["spec"]["nodeName"] = fit
                pod["status"]["phase"] = "Running"
                self.touch(pod)
                job = pod["metadata"]["ownerReferences"][0].get("name", "")
                self.restarts[job] = self.restarts.get(job, 0) + 1

    def _open_nodes(self) -> Iterator[tuple[str, Object]]:
        for (_, name), node in self.objects["nodes"].items():
            is_ready = node["status"]["conditions"][0]["status"] == "True"
            if is_ready and not node["spec"].get("unschedulable"):
                yield name, node

    def _end(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp") is None:
            pod["metadata"]["deletionTimestamp"] = self._stamp(self.grace_s)
            self.touch(pod)

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.objects["pods"].values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _put(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: Object,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        owner: tuple[str, ...] | None = None,
    ) -> None:
        meta: Object = {"name": name, "uid": f"{kind}-{next(self._names)}", "creationTimestamp": self._stamp()}
        meta |= {"labels": dict(labels or {}), "annotations": dict(annotations or {})}
        if namespace:
            meta["namespace"] = namespace
        if owner is not None:
            meta["ownerReferences"] = [{"kind": owner[0], "uid": owner[1], "name": owner[-1]}]
        found = {"metadata": meta, **body}
        self.touch(found)
        self.objects[kind][namespace, name] = found

    def _stamp(self, after_s: float = 0.0) -> str:
        return datetime.fromtimestamp(self.wall_s() + after_s, UTC).isoformat()


def _cpu(pod: Object) -> int:
    return sum(int(each.get("resources", {}).get("requests", {}).get("cpu", 0)) for each in pod["spec"]["containers"])


def _merged(into: Object, change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            inner = into.setdefault(key, {})
            _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            into[key] = value
