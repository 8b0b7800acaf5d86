"""The blueprint runs: what docs/drivers.md tells a driver's author to copy passes the suite."""

from __future__ import annotations

from agent.drivers.miners import MinerFactory, _blueprint
from tests.agent.drivers.miners.firmware_peers import BlueprintPeer
from tests.agent.drivers.miners.suite import MinerSuite


class TestBlueprint(MinerSuite):
    peer = BlueprintPeer

    @property
    def factory(self) -> MinerFactory:
        return _blueprint.create
