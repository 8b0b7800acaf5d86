"""MQTT topics. Everything of one site lives under its own subtree, so that a broker ACL can fence it by user name.

`wattshift/v1/sites/{site}/nameplate`  retained, agent to controller, on connect and on change
`wattshift/v1/sites/{site}/status`     retained, agent to controller, and the agent's last will
`wattshift/v1/sites/{site}/report`     agent to controller, one a tick
`wattshift/v1/sites/{site}/receipt`    agent to controller
`wattshift/v1/sites/{site}/order`      controller to agent, never retained
`wattshift/v1/market/{feed}/price`     retained, any publisher of prices to the controller
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

PREFIX: Final = "wattshift/v1"

Kind = Literal["nameplate", "status", "report", "receipt", "order"]
AGENT_KINDS: Final[tuple[Kind, ...]] = ("nameplate", "status", "report", "receipt")


class SiteTopic(NamedTuple):
    """A topic taken apart."""

    site: str
    kind: str


def site_topic(site: str, kind: Kind) -> str:
    """The topic of one kind of message of one site."""
    return f"{PREFIX}/sites/{site}/{kind}"


def all_sites(kind: Kind) -> str:
    """The subscription for one kind of message of every site."""
    return f"{PREFIX}/sites/+/{kind}"


def price_topic(feed: str) -> str:
    """The topic on which a price feed publishes."""
    return f"{PREFIX}/market/{feed}/price"


def parse_site_topic(topic: str) -> SiteTopic | None:
    """The site and kind of a topic, or None where it is not a site's."""
    parts = topic.split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != PREFIX or parts[2] != "sites":
        return None
    return SiteTopic(site=parts[3], kind=parts[4])
