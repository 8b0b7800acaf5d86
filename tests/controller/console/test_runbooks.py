"""The runbooks, served by the controller without a token: one page an alert, rendered, under the console's policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from controller.console.policy import POLICY
from controller.console.runbooks import runbooks
from tests.controller.api.stand import standing

ROOT: Final = Path(__file__).parents[3]


def alerts() -> list[str]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules/wattshift.yml").read_text())["groups"]
    return sorted(rule["alert"] for group in groups for rule in group["rules"])


def test_there_is_one_for_each_alert_and_none_for_another() -> None:
    assert sorted(each.alert for each in runbooks()[1].values()) == alerts()


async def test_every_alert_has_its_page_and_all_stand_on_one_without_a_token() -> None:
    async with standing() as stand:
        for alert in alerts():
            status, text, headers = await stand.call("GET", f"/runbooks/{alert}", headers={})
            assert (status, headers["Content-Security-Policy"]) == (200, POLICY)
            assert f"<h1>{alert}</h1>" in text
        status, text, headers = await stand.call("GET", "/runbooks", headers={})
        assert (status, headers.getone("Content-Type")) == (200, "text/html; charset=utf-8")
        assert re.findall(r'<section id="(\w+)">', text) == list(runbooks()[1])
        assert "<code>wattshift status</code>" in text
        assert not re.findall(r'(?:src|href)="(?!/|#)', text), "nothing from elsewhere"
        status, _, _ = await stand.call("GET", "/runbooks", headers={"If-None-Match": headers["ETag"]})
        assert status == 304


@pytest.mark.parametrize("name", ["wattshiftcapbreach", "WATTSHIFTCAPBREACH"])
async def test_a_name_is_found_whatever_its_case(name: str) -> None:
    async with standing() as stand:
        assert (await stand.call("GET", f"/runbooks/{name}", headers={}))[0] == 200


async def test_an_unknown_one_is_a_problem_that_says_where_to_look() -> None:
    async with standing() as stand:
        status, body, _ = await stand.call("GET", "/runbooks/<script>", headers={})
        assert (status, body["fix"]) == (404, "see /runbooks for those there are")
