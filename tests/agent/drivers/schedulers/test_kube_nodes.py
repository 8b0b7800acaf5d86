"""Nodes of a Kubernetes partition are cordoned, drained and shut down, and brought back: disruption budgets are
honoured, what an operator cordoned stays, and the stage of each node outlives the agent."""

from __future__ import annotations

from agent.drivers.base import Applied, Outcome, Refused, Unreachable
from agent.drivers.hosts.group import HostGroup
from agent.drivers.hosts.host import HostReading, HostState
from agent.drivers.schedulers import _kube_nodes
from agent.drivers.schedulers._kube_nodes import KubernetesNodes
from tests.agent.drivers.schedulers.kube_world import PLAIN, KubeWorld, facts_of, kube

NODE = "wattshift.io/node"


class SwitchedHost:
    """A host that obeys at once."""

    def __init__(self, world: KubeWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.on = True

    async def read(self) -> HostReading | Unreachable:
        return HostReading(state=HostState.ON if self.on else HostState.OFF)

    async def power_on(self) -> Outcome:
        return self._turn(on=True)

    async def power_off(self, *, force: bool = False) -> Outcome:
        assert not force
        return self._turn(on=False)

    async def reset(self, *, force: bool = False) -> Outcome:
        return Refused("not asked for here")

    async def close(self) -> None: ...

    def _turn(self, *, on: bool) -> Outcome:
        self.on = on
        condition = self.world.cluster.get("nodes", self.name)["status"]["conditions"][0]
        condition["status"] = "True" if on else "Unknown"
        return Applied()


def powered(world: KubeWorld, **options: object) -> KubernetesNodes:
    driver = world.driver(node_off_w=20, **options)
    assert isinstance(driver, KubernetesNodes)
    return driver


def stage(world: KubeWorld, name: str) -> str:
    return world.annotations("nodes", name).get(NODE, "").partition(" ")[0]


async def test_idle_nodes_are_drained_and_given_back_after_a_restart() -> None:
    async with kube() as world:
        world.cluster.add_job("research/first", queue="batch")
        world.cluster.add_pod("monitoring/web", "n3")
        world.cluster.add_pod("kube-system/agent", "n3", owner="DaemonSet")
        driver = powered(world)
        await driver.set_admission(False)
        found = await facts_of(driver)
        assert found.idle_nodes == ("n2", "n3", "n4")
        assert await driver.power_down(["n3", "n4"]) == Applied()
        assert (stage(world, "n3"), stage(world, "n4")) == ("drain", "off")
        world.cluster.get("pods", "monitoring/web")["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00+00:00"
        await facts_of(driver)
        after = powered(world)
        found = await facts_of(after)
        assert (stage(world, "n3"), found.off_nodes, found.nodes_up) == ("off", ("n3", "n4"), 2)
        assert found.idle_nodes == ("n2",)
        assert ("", "n3") in world.cluster.objects["nodes"]
        assert ("kube-system", "agent") in world.cluster.objects["pods"], "a DaemonSet's pod stays"
        assert isinstance(await after.power_up(["n3", "n4", "n2"]), Applied)
        for name in ("n3", "n4"):
            node = world.cluster.get("nodes", name)
            assert not node["spec"].get("unschedulable")
            assert NODE not in node["metadata"]["annotations"]


async def test_a_disruption_budget_holds_a_drain_up_and_is_asked_again_at_every_reading() -> None:
    async with kube() as world:
        world.cluster.budgets["db"] = 0
        world.cluster.add_pod("hpc/db-0", "n2", app="db")
        driver = powered(world)
        await driver.set_admission(False)
        refused = await driver.power_down(["n2", "n3"])
        assert refused == Refused("a PodDisruptionBudget keeps hpc/db-0")
        assert (stage(world, "n2"), stage(world, "n3")) == ("drain", "off")
        await facts_of(driver)
        assert driver.faults["disruption_budget"] >= 2
        assert ("hpc", "db-0") in world.cluster.objects["pods"]
        world.cluster.budgets["db"] = 1
        await facts_of(driver)
        pod = world.cluster.get("pods", "hpc/db-0")
        assert "deletionTimestamp" in pod["metadata"]
        pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00+00:00"
        await facts_of(driver)
        assert stage(world, "n2") == "off"
        assert {method for method, _ in world.server.seen} == {"GET", "PATCH", "POST"}, "nothing is deleted past it"


async def test_a_drain_that_waits_long_counts_as_a_node_that_draws() -> None:
    async with kube() as world:
        world.cluster.budgets["db"] = 0
        world.cluster.add_pod("hpc/db-0", "n2", app="db")
        driver = powered(world)
        await driver.set_admission(False)
        await driver.power_down(["n2"])
        assert (await facts_of(driver)).off_nodes == ("n2",)
        world.annotations("nodes", "n2")[NODE] = "drain 1000000000"
        found = await facts_of(driver)
        assert (found.off_nodes, found.nodes_up, "n2" in found.idle_nodes) == ((), 4, False)


async def test_only_idle_nodes_of_a_closed_partition_are_powered_down() -> None:
    async with kube() as world:
        world.cluster.add_job("research/first", queue="batch")
        world.cluster.get("nodes", "n4")["spec"]["unschedulable"] = True
        driver = powered(world)
        await facts_of(driver)
        assert isinstance(await driver.power_down(["n2"]), Refused), "it is open"
        await driver.set_admission(False)
        assert (await facts_of(driver)).idle_nodes == ("n2", "n3")
        assert await driver.power_down(["n1", "n4", "login"]) == Refused("no longer idle")
        assert await driver.power_up(["n4"]) == Applied()
        assert world.cluster.get("nodes", "n4")["spec"]["unschedulable"] is True
        assert NODE not in world.annotations("nodes", "n4")


async def test_a_job_that_started_meanwhile_keeps_its_node() -> None:
    async with kube() as world:
        world.cluster.budgets["db"] = 0
        world.cluster.add_pod("hpc/db-0", "n1", app="db")
        driver = powered(world)
        await driver.set_admission(False)
        await driver.power_down(["n1"])
        pod = world.cluster.get("pods", "hpc/db-0")
        pod["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "j", "name": "j"}]
        await facts_of(driver)
        assert stage(world, "n1") == ""
        assert not world.cluster.get("nodes", "n1")["spec"].get("unschedulable")
        assert "deletionTimestamp" not in pod["metadata"]


async def test_a_node_that_somebody_uncordoned_while_it_drained_is_his() -> None:
    async with kube() as world:
        world.cluster.budgets["db"] = 0
        world.cluster.add_pod("hpc/db-0", "n1", app="db")
        driver = powered(world)
        await driver.set_admission(False)
        await driver.power_down(["n1"])
        node = world.cluster.get("nodes", "n1")
        world.cluster.merge(node, {"spec": {"unschedulable": None}})
        await facts_of(driver)
        assert (stage(world, "n1"), node["spec"].get("unschedulable")) == ("", None)
        world.cluster.merge(node, {"spec": {"unschedulable": True}})
        await driver.power_up(["n1"])
        assert node["spec"]["unschedulable"] is True


async def test_without_kueue_a_raised_node_stays_cordoned_for_as_long_as_nothing_may_start() -> None:
    async with kube() as world:
        driver = powered(world, **PLAIN)
        await driver.set_admission(False)
        assert isinstance(await driver.power_down(["n1", "n2"]), Applied)
        assert stage(world, "n1") == "off"
        assert isinstance(await driver.power_up(["n1"]), Applied)
        assert (stage(world, "n1"), (await facts_of(driver)).admitting) == ("admission", False)
        assert isinstance(await driver.set_admission(True), Applied)
        assert (stage(world, "n1"), stage(world, "n2"), stage(world, "n3")) == ("", "off", "")


async def test_drained_nodes_are_shut_down_by_their_hosts_and_uncordoned_only_once_they_are_back() -> None:
    async with kube() as world:
        hosts = {name: SwitchedHost(world, name) for name in ("n1", "n2")}
        driver = powered(world)
        driver.use_hosts(HostGroup(hosts, deadline_s=1.0))
        await driver.set_admission(False)
        assert isinstance(await driver.power_down(["n1", "n3"]), Applied)
        assert (hosts["n1"].on, hosts["n2"].on) == (False, True)
        found = await facts_of(driver)
        assert found.off_nodes == ("n1", "n3")
        assert isinstance(await driver.power_up(["n1"]), Applied)
        assert (hosts["n1"].on, stage(world, "n1")) == (True, "up")
        await facts_of(driver)
        assert stage(world, "n1") == "up", "Ready may be what it was before it went down"
        since = int(world.annotations("nodes", "n1")[NODE].split()[1]) - _kube_nodes.BOOT_S
        world.annotations("nodes", "n1")[NODE] = f"up {since}"
        condition = world.cluster.get("nodes", "n1")["status"]["conditions"][0]
        condition["status"] = "False"
        found = await facts_of(driver)
        assert (found.booting, stage(world, "n1")) == (1, "up")
        condition["status"] = "True"
        await facts_of(driver)
        assert (stage(world, "n1"), world.cluster.get("nodes", "n1")["spec"].get("unschedulable")) == ("", None)


async def test_a_host_that_cannot_be_shut_down_is_said_and_tried_again() -> None:
    async with kube() as world:
        driver = powered(world)

        class Deaf(SwitchedHost):
            async def power_off(self, *, force: bool = False) -> Outcome:
                return Refused("it offers On, not GracefulShutdown")

        driver.use_hosts(HostGroup({"n1": Deaf(world, "n1")}, deadline_s=1.0))
        await driver.set_admission(False)
        assert isinstance(await driver.power_down(["n1"]), Refused)
        await facts_of(driver)
        assert (stage(world, "n1"), driver.faults["not_shut_down"]) == ("drain", 2)
