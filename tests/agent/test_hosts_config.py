"""`[banks.NAME.hosts]`: nodes written short, each with a place of its own, and errors that name file, key and fix."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from agent.build import DriverRegistry, Machinery, build
from agent.config import AgentConfig, HpcBankSettings
from agent.config_file import parse_config
from agent.config_rules import ConfigError
from agent.drivers.hosts.redfish import LimitedRedfish
from agent.drivers.schedulers._kube_nodes import KubernetesNodes
from agent.node_names import node_names
from contract.clock import SystemClock

HPC = """
[site]
id = "north"
[mqtt]
host = "broker"
[feeders.main]
limit_w = 1_000_000
[banks.gpu]
workload = "hpc"
feeder = "main"
nodes = 12
node_rated_w = 6_500
node_idle_w = 1_900
[banks.gpu.scheduler]
driver = "slurm_rest"
url = "http://127.0.0.1:6820"
partition = "gpu"
node_busy_w = 6_500
node_idle_w = 1_900
[banks.gpu.hosts]
driver = "redfish"
nodes = ["gpu[001-010]", "login1"]
url = "https://{node}-bmc.example"
username = "wattshift"
password_file = "bmc.password"
[banks.gpu.hosts.urls]
login1 = "https://10.1.0.9"
"""


def parse(text: str) -> AgentConfig:
    return parse_config(text.encode(), "agent.toml", Path("/etc/wattshift"))


def made_of(text: str) -> Machinery:
    return build(
        parse(text),
        DriverRegistry.installed(),
        clock=SystemClock(),
        rng=Random(1),
        on_reading=lambda: None,
        on_partition=lambda: None,
    )


def test_every_node_has_a_driver_at_its_own_place() -> None:
    config = parse(HPC)
    bank = config.banks["gpu"]
    assert isinstance(bank, HpcBankSettings)
    assert bank.hosts is not None
    assert bank.hosts.url_of("gpu007") == "https://gpu007-bmc.example"
    assert bank.hosts.url_of("login1") == "https://10.1.0.9"
    assert bank.hosts.options["password_file"] == "/etc/wattshift/bmc.password"
    group = made_of(HPC).hosts["gpu"]
    assert group.nodes == (*(f"gpu{number:03}" for number in range(1, 11)), "login1")
    assert group.limitable == frozenset(group.nodes)
    assert isinstance(group._hosts["gpu001"], LimitedRedfish)


def test_a_partition_of_kubernetes_is_built_and_shuts_its_nodes_down_by_its_hosts() -> None:
    a, b = HPC.index("[banks.gpu.scheduler]"), HPC.index("[banks.gpu.hosts]")
    scheduler = """
[banks.gpu.scheduler]
driver = "kubernetes"
kubeconfig = "kube.config"
cluster_queue = "gpu"
node_selector = "pool=gpu"
node_busy_w = 6_500
node_idle_w = 1_900
node_off_w = 40
"""
    made = made_of(HPC[:a] + scheduler + HPC[b:])
    partition = made.hpc_banks[0].partition
    assert isinstance(partition, KubernetesNodes)
    assert partition._hosts is made.hosts["gpu"]
    assert partition._options.kubeconfig == Path("/etc/wattshift/kube.config")


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["gpu7"], ["gpu7"]),
        (["gpu[08-11]"], ["gpu08", "gpu09", "gpu10", "gpu11"]),
        (["n[1,3-4].rack-a", "x"], ["n1.rack-a", "n3.rack-a", "n4.rack-a", "x"]),
    ],
)
def test_nodes_are_written_short(texts: list[str], names: list[str]) -> None:
    assert node_names(texts) == names


WRONG = [
    ('driver = "redfish"', 'driver = "ipmi"', r"banks\.gpu\.hosts\.driver: there is no driver 'ipmi'; fix: one of: "),
    ("{node}-bmc", "bmc", r"banks\.gpu\.hosts: url is the same for all nodes; fix: write \{node\} in it"),
    ("https://{node}-bmc.example", "{node}-bmc", r"banks\.gpu\.hosts: 'gpu001-bmc' is no http:// or https:// address"),
    ("gpu[001-010]", "gpu[010-001]", r"banks\.gpu\.hosts\.nodes: .*ends before it begins; fix: put the lower number"),
    ("gpu[001-010]", "gpu[001-", r"banks\.gpu\.hosts\.nodes: 'gpu\[001-' is no node; fix: write its name, or a range"),
    ("gpu[001-010]", "gpu[1-99999]", r"banks\.gpu\.hosts\.nodes: .*is more than 10000 nodes; fix: split"),
    (
        '"login1"]',
        '"login1", "login1"]',
        r"banks\.gpu\.hosts\.nodes: 'login1' is named twice; fix: name each once",
    ),
    (
        "nodes = 12",
        "nodes = 8",
        r"banks\.gpu\.hosts\.nodes: are 11, but the bank has 8; fix: set the bank's nodes = 11",
    ),
    ('login1 = "', 'login2 = "', r"banks\.gpu\.hosts: urls names 'login2', which is not in nodes; fix: add it"),
    ("https://10.1.0.9", "https://gpu001-bmc.example", r"banks\.gpu\.hosts\.urls: https://gpu001-bmc\.example already"),
    ('username = "wattshift"', "", r"banks\.gpu\.hosts: .*needs username and password_file; fix: see the driver's"),
    ('username = "', 'user = "', r"banks\.gpu\.hosts\.user: Extra inputs are not permitted; fix: see the driver's"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_an_error_names_file_key_and_fix(old: str, new: str, message: str) -> None:
    assert old in HPC
    with pytest.raises(ConfigError) as caught:
        made_of(HPC.replace(old, new, 1))
    text = str(caught.value)
    assert re.search(message, text), text
    assert "; fix: " in text
    assert "\n" not in text
