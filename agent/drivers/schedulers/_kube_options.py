"""What the Kubernetes driver is told of its partition in `[banks.scheduler]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.drivers.schedulers.job_terms import Terms, UsdPerNodeHour, ValueMap

NodeW = Annotated[int, Field(ge=0, le=1_000_000)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class KubeValues(BaseModel):
    """The site's price list, by queue (a Kueue LocalQueue; without Kueue, there is none) and namespace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_usd_per_node_h: UsdPerNodeHour = 0.0
    by_queue: dict[str, UsdPerNodeHour] = {}
    by_namespace: dict[str, UsdPerNodeHour] = {}
    firm_queues: tuple[str, ...] = ()
    firm_namespaces: tuple[str, ...] = ()
    terms_by_queue: dict[str, Terms] = {}
    terms_by_namespace: dict[str, Terms] = {}
    trust_annotations: bool = True
    """Whether a job's own annotations may say what it is worth and that it is firm."""

    def map(self) -> ValueMap:
        """The same in the words that all schedulers share: a queue as a QOS, a namespace as an account."""
        return ValueMap(
            default_usd_per_node_h=self.default_usd_per_node_h,
            by_qos=self.by_queue,
            by_account=self.by_namespace,
            firm_qos=self.firm_queues,
            firm_accounts=self.firm_namespaces,
            terms_by_qos=self.terms_by_queue,
            terms_by_account=self.terms_by_namespace,
            trust_comments=self.trust_annotations,
        )


class KubeOptions(BaseModel):
    """Powers are of one node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster_queue: ObjectName | None = None
    """The partition is what this Kueue ClusterQueue admits, in whatever namespace; or ..."""
    local_queue: ObjectName | None = None
    """... what this LocalQueue in `namespace` admits; or, without either, ..."""
    namespace: ObjectName | None = None
    """... the jobs of this namespace that no Kueue manages."""
    node_selector: Annotated[str, Field(min_length=1, max_length=1_000)]
    """The label selector of the partition's nodes, as `kubectl get nodes -l` takes it."""
    kueue_version: Literal["v1beta1", "v1beta2"] = "v1beta1"

    kubeconfig: Path | None = None
    context: Annotated[str, Field(max_length=200)] | None = None
    in_cluster: bool = False
    """As the service account of the pod that the agent runs in."""
    url: str | None = None
    token_file: Path | None = None
    """Read anew at every request."""
    ca: Path | None = None

    node_busy_w: Annotated[int, Field(gt=0, le=1_000_000)]
    node_idle_w: NodeW
    node_off_w: NodeW | None = None
    """Of a node that was drained and then shut down, by `[banks.NAME.hosts]` with the right to switch, or by the site's
    own automation. Given, the agent may drain idle nodes; without it, never."""
    resource: Annotated[str, Field(pattern=r"^[a-zA-Z0-9./-]{1,100}$")] = "cpu"
    """A pod counts as that share of its node's power above idle which it requests of this, as `nvidia.com/gpu`."""
    suspend: Literal["marked", "all"] = "marked"
    """Which jobs may be suspended: those that say so (`wattshift.io/requeue` or `.../checkpoint-seconds`), or all."""
    values: KubeValues = KubeValues()

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
            raise ValueError("is no http:// or https:// address")
        return url

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cluster_queue is not None and (self.local_queue is not None or self.namespace is not None):
            raise ValueError("give cluster_queue alone, or namespace with or without local_queue")
        if self.cluster_queue is None and self.namespace is None:
            raise ValueError("names no partition: give cluster_queue, or namespace with or without local_queue")
        if (self.kubeconfig is not None) + self.in_cluster + (self.url is not None) != 1:
            raise ValueError("give one way to the API server: kubeconfig, in_cluster = true, or url")
        if self.url is None and (self.token_file is not None or self.ca is not None):
            raise ValueError("token_file and ca go with url")
        if self.context is not None and self.kubeconfig is None:
            raise ValueError("context goes with kubeconfig")
        if self.node_idle_w > self.node_busy_w:
            raise ValueError("node_idle_w is above node_busy_w")
        if self.node_off_w is not None and self.node_off_w > self.node_idle_w:
            raise ValueError("node_off_w is above node_idle_w")
        return self

    @property
    def by_kueue(self) -> bool:
        return self.cluster_queue is not None or self.local_queue is not None
