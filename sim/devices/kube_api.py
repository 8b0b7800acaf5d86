"""A simulated Kubernetes API server in front of a simulated cluster: it checks requests as the real one does, and
answers as it does: paths and verbs (404, 405), bearer tokens (401), rights (403), content types of patches (415), the
version a patch names (409), fields that there are not (422), evictions and disruption budgets (429); lists with
selectors, page by page.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sim.devices.json_server import JsonServer, Reply, fields_of
from sim.devices.kube_cluster import NAMESPACED, KubeCluster, Object
from sim.devices.log import CommandLog
from sim.ports import DeviceFault

_PATH: Final = re.compile(
    r"^/(?P<group>api/v1|apis/[a-z0-9.-]+/v[a-z0-9]+)(?:/namespaces/(?P<ns>[^/]+))?/(?P<kind>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
_GROUPS: Final = {
    "nodes": "api/v1",
    "pods": "api/v1",
    "jobs": "apis/batch/v1",
    "clusterqueues": "apis/kueue.x-k8s.io/v1beta1",
    "localqueues": "apis/kueue.x-k8s.io/v1beta1",
    "workloads": "apis/kueue.x-k8s.io/v1beta1",
}
_MERGE: Final = "application/merge-patch+json"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_WRITABLE: Final = {
    "nodes": {"unschedulable"},
    "pods": set[str](),
    "jobs": {"suspend"},
    "clusterqueues": {"stopPolicy"},
    "localqueues": {"stopPolicy"},
    "workloads": {"active"},
}
_POLICIES: Final = frozenset({"None", "Hold", "HoldAndDrain"})
_REMEMBERED: Final = 4_096


class KubeApiServer(JsonServer):
    """One API server. `tokens` it takes; None asks for none. `rights` are (verb, kind) pairs, None all."""

    def __init__(
        self,
        cluster: KubeCluster,
        *,
        token: str | None = None,
        log: CommandLog | None = None,
        latency_s: float = 0.0,
        page: int = 500,
    ) -> None:
        super().__init__("kube", log=log, latency_s=latency_s)
        self.cluster = cluster
        self.token = token
        self.rights: set[tuple[str, str]] | None = None
        self.page = page
        self.malformed = False
        """Lists come without items, as from something that is no API server."""
        self.conflicts = 0
        """So many patches more find that somebody was faster."""
        self.seen: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        """Method and path of each request."""
        self.used: set[tuple[str, str]] = set()
        """The rights that were needed so far."""

    def answer(self, request: web.BaseRequest, sent: bytes) -> Reply:
        self.cluster.reconcile()
        self.seen.append((request.method, request.path))
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        found = _PATH.match(request.path)
        if found is None or _GROUPS.get(found["kind"]) != found["group"]:
            return _status(404, "NotFound", "the server could not find the requested resource")
        kind, name, namespace = found["kind"], found["name"], found["ns"] or ""
        if found["sub"] is not None and (found["sub"], kind) != ("eviction", "pods"):
            return _status(404, "NotFound", "the server could not find the requested resource")
        verb = _verb(request.method, name, found["sub"])
        refused = self._forbidden(verb, kind if found["sub"] is None else f"{kind}/{found['sub']}")
        if refused is not None:
            return refused
        if name is None:
            return self._list(request, kind, namespace) if verb == "list" else _no_method()
        own = self.cluster.objects[kind].get((namespace if kind in NAMESPACED else "", name))
        if own is None or (kind in NAMESPACED and not namespace):
            return _status(404, "NotFound", f'{kind} "{name}" not found')
        match verb:
            case "get":
                return Reply(200, own)
            case "patch":
                return self._patch(request, kind, own, sent)
            case "create" if found["sub"] is not None:
                return self._evict(request, own, sent)
        return _no_method()

    def pretend(self, request: web.BaseRequest, sent: bytes) -> Reply:  # noqa: ARG002  all changes alike
        return Reply(200, {"kind": "Status", "status": "Success"})

    def _forbidden(self, verb: str, kind: str) -> Reply | None:
        self.used.add((verb, kind))
        if self.rights is None or (verb, kind) in self.rights:
            return None
        return _status(403, "Forbidden", f'User "wattshift" cannot {verb} resource "{kind}"')

    def _list(self, request: web.BaseRequest, kind: str, namespace: str) -> Reply:
        query = request.rel_url.query
        if query.get("watch"):
            return _status(400, "BadRequest", "this server has no watch")
        if self.malformed:
            return Reply(200, {"kind": "List", "metadata": {}})
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        chosen = [
            own
            for (space, _), own in self.cluster.objects[kind].items()
            if (not namespace or space == namespace) and _labelled(own, labels) and _has(own, fields)
        ]
        size = min(int(query.get("limit", "500")), self.page)
        first = int(query.get("continue", "0"))
        more = str(first + size) if len(chosen) > first + size else ""
        items = chosen[first : first + size]
        if self.fault is DeviceFault.NAN:
            items = [{"metadata": {"name": None}, "spec": {"parallelism": float("nan")}}]
        return Reply(200, {"kind": "List", "metadata": {"continue": more}, "items": items})

    def _patch(self, request: web.BaseRequest, kind: str, own: Object, sent: bytes) -> Reply:
        is_custom = "kueue" in _GROUPS[kind]
        if request.content_type != _MERGE and (is_custom or request.content_type != _STRATEGIC):
            return _status(415, "UnsupportedMediaType", f"the body is {request.content_type}: no patch of this kind")
        change = fields_of(sent)
        if change is None:
            return _status(400, "BadRequest", "the body is not a JSON object")
        if self.conflicts > 0:
            self.conflicts -= 1
            self.cluster.touch(own)
        meta, spec = change.get("metadata", {}), change.get("spec", {})
        version = meta.get("resourceVersion")
        if version is not None and version != own["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        wrong = _invalid(kind, change, meta, spec)
        if wrong:
            return _status(422, "Invalid", wrong)
        change = {**change, "metadata": {key: value for key, value in meta.items() if key != "resourceVersion"}}
        self.cluster.merge(own, change)
        name = own["metadata"]["name"]
        self.note(request, f"patch {kind}/{name} {_said(meta, spec)}", obeyed=True)
        return Reply(200, own)

    def _evict(self, request: web.BaseRequest, pod: Object, sent: bytes) -> Reply:
        body = fields_of(sent) or {}
        named = body.get("metadata", {})
        if (body.get("apiVersion"), body.get("kind")) != ("policy/v1", "Eviction"):
            return _status(400, "BadRequest", "the body is no policy/v1 Eviction")
        if (named.get("name"), named.get("namespace")) != (pod["metadata"]["name"], pod["metadata"]["namespace"]):
            return _status(400, "BadRequest", "the name in the body is not that in the path")
        let_go = self.cluster.evict(pod)
        self.note(request, f"evict {named['name']}", obeyed=let_go)
        if let_go:
            return _status(201, "Success", "")
        budget = "Cannot evict pod as it would violate the pod's disruption budget."
        return _status(429, "TooManyRequests", budget, {"Retry-After": "10"})


def _verb(method: str, name: str | None, sub: str | None) -> str:
    if sub == "eviction":
        return "create" if method == "POST" else method.lower()
    if method == "GET":
        return "list" if name is None else "get"
    return "create" if method == "POST" else method.lower()


def _invalid(kind: str, change: Mapping[str, Any], meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """What is wrong with a patch; empty for nothing."""
    if not set(change) <= {"metadata", "spec"} or not set(meta) <= {"resourceVersion", "annotations"}:
        return "a field that is not there, or is not to be changed"
    if not set(spec) <= _WRITABLE[kind]:
        return f"spec.{min(spec)}: field is immutable"
    if any(not isinstance(value, str | None) for value in meta.get("annotations", {}).values()):
        return "metadata.annotations: must be text"
    if spec.get("stopPolicy", "None") not in _POLICIES:
        return f"spec.stopPolicy: Unsupported value: {spec['stopPolicy']}"
    switches = ("suspend", "active", "unschedulable")
    return "" if all(isinstance(spec.get(key), bool | None) for key in switches) else "must be a boolean"


def _labelled(own: Object, selector: str) -> bool:
    labels = own["metadata"]["labels"]
    for part in filter(None, selector.split(",")):
        key, _, value = part.partition("=")
        if (key.startswith("!") and key[1:] in labels) or (not key.startswith("!") and key not in labels):
            return False
        if "=" in part and labels.get(key) != value:
            return False
    return True


def _has(own: Object, selector: str) -> bool:
    for part in filter(None, selector.split(",")):
        key, differs, value = part.partition("!=")
        if not differs:
            key, _, value = part.partition("=")
        found: Any = own
        for step in key.split("."):
            found = found.get(step, "") if isinstance(found, dict) else ""
        if (found == value) == bool(differs):
            return False
    return True


def _said(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    words = [f"{key}={value}" for key, value in spec.items()]
    return " ".join(words or sorted(meta.get("annotations", {})))


def _no_method() -> Reply:
    return _status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _status(code: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    state = "Success" if code < 300 else "Failure"
    body = {"kind": "Status", "apiVersion": "v1", "status": state, "message": message, "reason": reason, "code": code}
    return Reply(code, body, headers or {})
