"""The rights in deploy/k8s/agent-rights.yaml are what the driver needs: all works with them, and none is idle."""

from __future__ import annotations

from pathlib import Path

import yaml

from agent.drivers.base import Applied
from agent.drivers.schedulers._kube_nodes import KubernetesNodes
from tests.agent.drivers.schedulers.kube_world import KUEUE, MAY, PLAIN, KubeWorld, facts_of, kube

MANIFEST = Path(__file__).parents[4] / "deploy" / "k8s" / "agent-rights.yaml"


def rights() -> set[tuple[str, str]]:
    objects = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    role = next(each for each in objects if each["kind"] == "ClusterRole")
    return {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


async def everything(world: KubeWorld, key: str, options: dict[str, str]) -> None:
    """All that the driver ever does, with a conflict on the way so that it looks again."""
    driver = world.driver(node_off_w=20, **options)
    assert isinstance(driver, KubernetesNodes)
    await facts_of(driver)
    world.server.conflicts = 1
    assert isinstance(await driver.set_admission(False), Applied)
    assert isinstance((await driver.warn([key]))[key], Applied)
    world.server.conflicts = 1
    assert isinstance((await driver.requeue([key]))[key], Applied)
    world.server.conflicts = 1
    assert isinstance(await driver.power_down(["n6"]), Applied)
    await facts_of(driver)
    assert isinstance(await driver.power_up(["n6"]), Applied)
    assert isinstance(await driver.set_admission(True), Applied)
    await facts_of(driver)


async def test_the_manifest_grants_what_is_needed_and_nothing_else() -> None:
    async with kube(nodes=6) as world:
        world.server.rights = rights()
        world.cluster.add_job("research/first", queue="batch", annotations=MAY)
        world.cluster.add_job("hpc/queued", queue="batch", annotations=MAY)
        world.cluster.add_job("hpc/plain", annotations=MAY)
        world.cluster.add_pod("monitoring/web", "n6")
        await everything(world, "research/first", KUEUE)
        await everything(world, "hpc/queued", {"namespace": "hpc", "local_queue": "batch"})
        await everything(world, "hpc/plain", PLAIN)
        assert world.server.used == rights()
        assert not {verb for verb, _ in rights()} & {"delete", "deletecollection", "update", "watch", "*"}
