"""docs/asyncapi.yaml is the models, no more and no less, and holds together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from contract import asyncapi
from contract.messages import AnyMessage
from contract.topics import AGENT_KINDS, parse_site_topic, price_topic

DOCUMENT: dict[str, Any] = yaml.safe_load(asyncapi.DOCUMENT.read_text())


def test_the_committed_document_is_what_the_models_say() -> None:
    assert asyncapi.DOCUMENT.read_text() == asyncapi.render(), "run python -m contract.asyncapi --write"
    assert asyncapi.document() == DOCUMENT
    asyncapi.main(["--check"])


def test_check_fails_on_drift_and_write_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncapi, "DOCUMENT", tmp_path / "asyncapi.yaml")
    with pytest.raises(SystemExit, match="differs"):
        asyncapi.main(["--check"])
    asyncapi.main(["--write"])
    asyncapi.main(["--check"])
    asyncapi.DOCUMENT.write_text(asyncapi.render().replace("maximum: 1000000", "maximum: 1000001", 1))
    with pytest.raises(SystemExit, match="differs"):
        asyncapi.main(["--check"])


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    references = {text for key, text in _walk(DOCUMENT) if key == "$ref"}
    for reference in references:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step]
    for kind, components in DOCUMENT["components"].items():
        for name in components:
            assert f"#/components/{kind}/{name}" in references, name


def test_every_kind_of_message_has_its_channel_and_both_its_ends() -> None:
    channels = DOCUMENT["channels"]
    assert set(channels) == {*AGENT_KINDS, "order", "price"}
    assert {next(iter(channel["messages"])) for channel in channels.values()} == {
        kind.__name__ for kind in get_args(AnyMessage)
    }
    for name, channel in channels.items():
        if name == "price":
            assert channel["address"] == price_topic("{feed}")
        else:
            assert parse_site_topic(channel["address"]) == ("{site}", name)
        ends = [operation for operation in _operations() if operation["channel"]["$ref"] == f"#/channels/{name}"]
        assert sorted(end["action"] for end in ends) == ["receive", "send"]


def test_orders_are_never_retained_and_what_a_late_comer_needs_is() -> None:
    retained = {
        operation["channel"]["$ref"].removeprefix("#/channels/")
        for operation in _operations()
        if operation["action"] == "send" and operation["bindings"]["mqtt"]["retain"]
    }
    assert retained == {"nameplate", "status", "price"}
    assert {operation["bindings"]["mqtt"]["qos"] for operation in _operations()} == {1}


def test_the_version_is_required_and_fields_tell_their_meaning_and_unit() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for kind in get_args(AnyMessage):
        assert "schema_version" in schemas[kind.__name__]["required"]
    assert schemas["BankPlate"]["properties"]["idle_w"]["description"].endswith("all nodes idle (watts).")
    assert "- `drifted`: Was confirmed, and no longer holds." in schemas["ReceiptState"]["description"]


def test_no_daemon_needs_the_development_tools() -> None:
    code = "import contract.bus_mqtt, contract.topics, sys; assert 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _operations() -> list[dict[str, Any]]:
    return list(DOCUMENT["operations"].values())


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _walk(value)
        else:
            yield str(key), value
