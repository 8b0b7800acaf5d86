"""What all tests share: named skips for what a machine may lack."""

from __future__ import annotations

import pytest

from sim.broker import find_mosquitto


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_mosquitto() is not None:
        return
    for item in items:
        if item.get_closest_marker("mosquitto") is not None:
            item.add_marker(pytest.mark.skip(reason="no mosquitto on this machine: install the package mosquitto"))
