"""The shipped Mosquitto configuration and ACL, on a real Mosquitto, with real certificates and the real bus."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Final

import pytest

from contract.bus_mqtt import MqttBus, MqttTls
from contract.topics import AGENT_KINDS, all_sites, price_topic, site_topic
from sim.broker import LocalBroker
from tests.contract.links import linked, until
from tests.contract.test_bus_mqtt_tls import Authority

DEPLOY: Final = Path(__file__).parents[2] / "deploy/mosquitto"


def shipped(authority: Authority) -> str:
    """`wattshift.conf` with our certificates in it, without what the test's broker sets itself."""
    text = (DEPLOY / "wattshift.conf").read_text()
    cert, key = authority.issue("broker")
    for name, path in (("ca.pem", authority.path), ("broker.pem", cert), ("broker.key", key)):
        text = text.replace(f"/etc/mosquitto/wattshift/{name}", str(path))
    own = r"listener|acl_file|allow_anonymous|per_listener_settings|persistence|persistence_location|log_\w+"
    own += r"|set_tcp_nodelay|message_size_limit|max_packet_size|connection_messages|max_keepalive|autosave\w+"
    return "\n".join(line for line in text.splitlines() if not re.match(rf"({own})\b", line)) + "\n"


@pytest.mark.mosquitto
async def test_a_site_speaks_for_itself_alone_and_only_the_controller_orders(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    acl = (DEPLOY / "acl").read_text()
    async with LocalBroker(kind="mosquitto", acl=acl, more_config=shipped(authority)) as broker:

        def bus(name: str) -> MqttBus:
            cert, key = authority.issue(name)
            return MqttBus(broker.settings(name, tls=MqttTls(ca=authority.path, cert=cert, key=key)), Random(1))

        heard = [*(all_sites(kind) for kind in AGENT_KINDS), price_topic("+")]
        own = [site_topic("north", "order"), site_topic("north", "status")]
        foreign = [site_topic("south", "order"), site_topic("south", "report"), "#"]
        async with (
            linked(bus("controller"), heard) as controller,
            linked(bus("north"), [*own, *foreign]) as north,
            linked(bus("south"), [site_topic("south", "order")]) as south,
            linked(bus("prices")) as prices,
        ):
            for kind in AGENT_KINDS:  # what is forged first, then what is allowed: order is kept
                north.bus.publish(site_topic("south", kind), b"forged")
            north.bus.publish(site_topic("south", "order"), b"forged")
            north.bus.publish(site_topic("north", "order"), b"forged")
            north.bus.publish(price_topic("houston"), b"forged")
            prices.bus.publish(site_topic("north", "order"), b"forged")
            controller.bus.publish(site_topic("north", "report"), b"forged")
            for kind in AGENT_KINDS:
                north.bus.publish(site_topic("north", kind), kind.encode())
            prices.bus.publish(price_topic("houston"), b"price")
            controller.bus.publish(site_topic("north", "order"), b"to north")
            controller.bus.publish(site_topic("south", "order"), b"to south")
            await until(lambda: len(controller.payloads) >= len(AGENT_KINDS) + 1, "the controller hears all")
            await until(lambda: b"to north" in north.payloads and bool(south.payloads), "both are ordered")
        assert sorted(controller.payloads) == sorted([*(kind.encode() for kind in AGENT_KINDS), b"price"])
        assert south.payloads == [b"to south"]
        assert sorted(north.payloads) == [b"status", b"to north"], "its own status, its own order, nothing else"


def test_nothing_that_debians_own_file_says_and_may_be_said_once_is_said_again() -> None:
    """Mosquitto does not start on a duplicate; seen in a booted Debian 12."""
    said = {
        line.split()[0]
        for line in (DEPLOY / "wattshift.conf").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert not said & {"pid_file", "persistence_location"}
