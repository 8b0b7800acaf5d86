"""What the driver reads of Kubernetes and Kueue objects, and no more. Names are the API's own.

Slotted dataclasses, for there are tens of thousands in one listing: models of pydantic's own made the garbage collector
take longer than the parsing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.dataclasses import dataclass

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
_QUANTITY: Final = re.compile(r"^([0-9.]+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_UNITS: Final = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}


def _or_empty(kind: type[Any]) -> BeforeValidator:
    """A null where a collection belongs is an empty one."""
    return BeforeValidator(lambda value: kind() if value is None else value)


R = TypeVar("R")
Texts = Annotated[dict[str, str], _or_empty(dict)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    kind: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    name: str
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815  the API's own name
    annotations: Texts = field(default_factory=dict)
    labels: Texts = field(default_factory=dict)
    creationTimestamp: datetime | None = None  # noqa: N815
    deletionTimestamp: datetime | None = None  # noqa: N815
    """When it is to be gone at the latest: what asked for its end, plus its grace."""
    ownerReferences: Annotated[tuple[Owner, ...], _or_empty(tuple)] = ()  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    type: str
    status: str = ""


Conditions = Annotated[tuple[Condition, ...], _or_empty(tuple)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    metadata: Meta

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    requests: Texts = field(default_factory=dict)
    limits: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    nodeName: str = ""  # noqa: N815
    containers: Annotated[tuple[Container, ...], _or_empty(tuple)] = ()

    def requested(self, resource: str) -> float | None:
        """How much of a resource it asks for in all; None where it does not say."""
        found = [
            quantity(each.resources.requests.get(resource) or each.resources.limits.get(resource))
            for each in self.containers
        ]
        said = [amount for amount in found if amount is not None]
        return sum(said) if said else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStatus:
    phase: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod(_Object):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def owner(self) -> str:
        """The uid of its Job; empty where it is of none."""
        return next((owner.uid for owner in self.metadata.ownerReferences if owner.kind == "Job"), "")

    @property
    def evictable(self) -> bool:
        """Whether a drain asks it to leave: no DaemonSet's pod, which would come back, and no static one."""
        kinds = {owner.kind for owner in self.metadata.ownerReferences}
        is_static = "kubernetes.io/config.mirror" in self.metadata.annotations
        ended = self.status.phase in {"Succeeded", "Failed"}
        return not (kinds & {"DaemonSet", "Node"} or is_static or ended)

    @property
    def of_job(self) -> bool:
        return any(owner.kind == "Job" for owner in self.metadata.ownerReferences)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    unschedulable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    conditions: Conditions = ()
    allocatable: Texts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(_Object):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        return is_true(self.status.conditions, "Ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    spec: PodSpec = PodSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    suspend: bool = False
    parallelism: Annotated[int, Field(ge=0)] = 1
    activeDeadlineSeconds: int | None = None  # noqa: N815
    template: Template = Template()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    conditions: Conditions = ()
    startTime: datetime | None = None  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeJob(_Object):
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def ended(self) -> bool:
        return is_true(self.status.conditions, "Complete") or is_true(self.status.conditions, "Failed")

    @property
    def queue(self) -> str:
        """Kueue's LocalQueue that it waits in; empty for none."""
        return self.metadata.labels.get(QUEUE_LABEL) or self.metadata.annotations.get(QUEUE_LABEL, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    stopPolicy: str | None = None  # noqa: N815
    clusterQueue: str = ""  # noqa: N815
    """Of a LocalQueue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(_Object):
    """A ClusterQueue or a LocalQueue."""

    spec: QueueSpec = QueueSpec()

    @property
    def policy(self) -> str:
        return self.spec.stopPolicy or "None"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    active: bool = True
    queueName: str = ""  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(_Object):
    """What Kueue holds of a job. A job whose Workload is not active is stopped, and not started again before it is."""

    spec: WorkloadSpec = WorkloadSpec()

    @property
    def owner(self) -> str:
        """The uid of its Job; empty where it is of another kind of work."""
        return next((owner.uid for owner in self.metadata.ownerReferences if owner.kind == "Job"), "")


class ListMeta(BaseModel):
    continue_: Annotated[str, BeforeValidator(lambda value: value or "")] = Field(default="", alias="continue")


class Listed(BaseModel, Generic[R]):
    metadata: ListMeta = ListMeta()
    items: tuple[R, ...]


def is_true(conditions: tuple[Condition, ...], kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in conditions)


def quantity(text: str | None) -> float | None:
    """A Kubernetes quantity as a number; None where it is none."""
    match = _QUANTITY.match(text or "")
    if match is None:
        return None
    try:
        number = float(match[1]) * _UNITS.get(match[2] or "", 1.0)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def marked(changes: Mapping[str, str | None], version: str) -> dict[str, Any]:
    """The `metadata` of a merge patch that holds only for this version of the object."""
    return {"resourceVersion": version, "annotations": dict(changes)}
