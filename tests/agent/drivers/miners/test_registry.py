"""The registry names every firmware, and making a driver touches no network."""

from __future__ import annotations

import pytest

from agent.drivers.base import Curtailable, PowerLimited, Remembers
from agent.drivers.miners import DEADLINE_S, REGISTRY
from tests.agent.drivers.miners.suite import ManualClock

LIMITED = {"min_power_w": 1_000, "max_power_w": 3_000}


@pytest.mark.parametrize(
    ("firmware", "curtails", "limits", "remembers"),
    [
        ("antminer", True, False, True),
        ("braiins", True, True, False),
        ("cgminer", False, False, False),
        ("luxos", True, True, False),
        ("whatsminer_v2", True, True, False),
    ],
)
def test_a_capability_is_a_protocol_that_the_class_has_or_lacks(
    firmware: str, curtails: bool, limits: bool, remembers: bool
) -> None:
    miner = REGISTRY[firmware]("192.0.2.1", None, LIMITED if limits else {}, clock=ManualClock())
    assert isinstance(miner, Curtailable) is curtails
    assert isinstance(miner, PowerLimited) is limits
    assert isinstance(miner, Remembers) is remembers


def test_every_firmware_of_the_registry_has_been_named_here() -> None:
    assert sorted(REGISTRY) == ["antminer", "braiins", "cgminer", "luxos", "whatsminer_v2"]


def test_the_default_deadline_is_three_seconds() -> None:
    assert DEADLINE_S == 3.0
