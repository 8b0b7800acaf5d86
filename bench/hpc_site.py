"""The agent daemon over a hybrid site of the HPC bench."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from bench.process import Child, child
from contract.mqtt_settings import MqttSettings
from sim.slurm import SlurmCluster
from sim.slurm_site import BMC_USER, HybridSite, agent_tables


@contextlib.asynccontextmanager
async def site_agent(site: HybridSite, cluster: SlurmCluster, mqtt: MqttSettings, folder: Path) -> AsyncIterator[Child]:
    """Start `agent.daemon` over it."""
    own = folder / site.name
    own.mkdir()
    (own / "bmc.password").write_text(BMC_USER[1], encoding="utf-8")
    tables = agent_tables(
        site, cluster, {"host": mqtt.host, "port": mqtt.port}, "agent-state.json", str(own / "bmc.password")
    )
    (own / "agent.toml").write_text("\n".join(toml(tables | {"http": {"port": 0}})), encoding="utf-8")
    arguments = ("--config", str(own / "agent.toml"), "--log-level", "info")
    async with child(f"agent-{site.name}", own, "agent.daemon", *arguments) as process:
        yield process


def toml(tables: Mapping[str, Any], name: str = "") -> list[str]:
    """Nested tables as lines of TOML: strings, whole numbers and lists of them are the same in JSON."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, Mapping)]
    lines = ([f"[{name}]"] if name else []) + plain
    for key, value in tables.items():
        if isinstance(value, Mapping):
            lines += toml(value, f"{name}.{key}" if name else key)
    return lines
