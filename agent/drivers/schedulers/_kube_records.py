"""What the driver reads of Kubernetes and Kueue objects, and no more. Names are the API's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=BaseModel)
Texts = Annotated[dict[str, str], _or_empty(dict)]


class Owner(Record):
    kind: str = ""
    uid: str = ""


class Meta(Record):
    name: str
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815  the API's own name
    annotations: Texts = {}
    labels: Texts = {}
    creationTimestamp: datetime | None = None  # noqa: N815
    deletionTimestamp: datetime | None = None  # noqa: N815
    """When it is to be gone at the latest: what asked for its end, plus its grace."""
    ownerReferences: Annotated[tuple[Owner, ...], _or_empty(tuple)] = ()  # noqa: N815


class Condition(Record):
    type: str
    status: str = ""


Conditions = Annotated[tuple[Condition, ...], _or_empty(tuple)]


class _Object(Record):
    metadata: Meta

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"


class Resources(Record):
    requests: Texts = {}
    limits: Texts = {}


class Container(Record):
    resources: Resources = Resources()


class PodSpec(Record):
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


class PodStatus(Record):
    phase: str = ""


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


class NodeSpec(Record):
    unschedulable: bool = False


class NodeStatus(Record):
    conditions: Conditions = ()
    allocatable: Texts = {}


class Node(_Object):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        return is_true(self.status.conditions, "Ready")


class Template(Record):
    spec: PodSpec = PodSpec()


class JobSpec(Record):
    suspend: bool = False
    parallelism: Annotated[int, Field(ge=0)] = 1
    activeDeadlineSeconds: int | None = None  # noqa: N815
    template: Template = Template()


class JobStatus(Record):
    conditions: Conditions = ()
    startTime: datetime | None = None  # noqa: N815


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


class QueueSpec(Record):
    stopPolicy: str | None = None  # noqa: N815
    clusterQueue: str = ""  # noqa: N815
    """Of a LocalQueue."""


class Queue(_Object):
    """A ClusterQueue or a LocalQueue."""

    spec: QueueSpec = QueueSpec()

    @property
    def policy(self) -> str:
        return self.spec.stopPolicy or "None"


class WorkloadSpec(Record):
    active: bool = True
    queueName: str = ""  # noqa: N815


class Workload(_Object):
    """What Kueue holds of a job. A job whose Workload is not active is stopped, and not started again before it is."""

    spec: WorkloadSpec = WorkloadSpec()

    @property
    def owner(self) -> str:
        """The uid of its Job; empty where it is of another kind of work."""
        return next((owner.uid for owner in self.metadata.ownerReferences if owner.kind == "Job"), "")


class ListMeta(Record):
    continue_: Annotated[str, BeforeValidator(lambda value: value or "")] = Field(default="", alias="continue")


class Listed(Record, Generic[R]):
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
