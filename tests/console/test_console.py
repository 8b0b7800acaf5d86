"""The console in a real Chromium against a running demo: live figures, an override from click to confirmed, both colour
schemes without an accessibility finding, and a policy that lets nothing else in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("playwright", reason="no playwright: install the dev extra")
pytest.importorskip("axe_playwright_python", reason="no axe-playwright-python: install the dev extra")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install the package chromium")

SHOTS = os.environ.get("WATTSHIFT_SCREENSHOTS")
PATIENCE_MS = 60_000
HOUR_MS = 3_600_000
DIPS = """most_w => Math.min(...[...document.querySelectorAll(".axis table.ahead tbody td:nth-child(2)")].map(
    (cell) => parseFloat(cell.textContent) * (cell.textContent.includes("MW") ? 1e6 : 1e3))) <= most_w"""
"""Whether the plan in the page's table is anywhere that low."""


class Demo(NamedTuple):
    """Where a running demo is."""

    url: str
    token: str


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running("--miners", "20", "--speed", "10", "--for", "8m") as made:
        yield made


@contextmanager
def running(*options: str) -> Iterator[Demo]:
    command = [sys.executable, "-m", "cli.main", "demo", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out = process.stdout
        access = next(event["data"] for event in map(json.loads, out) if event.get("event") == "ready")
        drain = threading.Thread(target=lambda: [None for _ in out], daemon=True)
        drain.start()
        yield Demo(access["url"].rstrip("/"), Path(access["token_file"]).read_text().strip())
        process.send_signal(signal.SIGINT)
        process.wait(timeout=40)
        drain.join(timeout=10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """The console, entered by the link; whatever goes wrong in the page fails the test."""
    view = browser.new_page(viewport={"width": 1440, "height": 1200})
    wrong: list[str] = []
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("console", lambda message: wrong.append(message.text) if _is_fault(message) else None)
    view.goto(f"{demo.url}/#token={demo.token}")
    expect(view.locator(".sentence")).to_contain_text("site at", timeout=PATIENCE_MS)
    yield view
    view.close()
    assert wrong == []


def _is_fault(message: ConsoleMessage) -> bool:
    """A refused request is told by Chromium too, and is shown in the page."""
    return message.type == "error" and "status of 422" not in message.text


def test_the_page_shows_the_site_and_goes_on_by_itself(page: Page) -> None:
    assert "token" not in page.url, "the token does not stay in the address"
    expect(page.locator(".mode")).to_have_text("AUTO", timeout=PATIENCE_MS)
    rows = page.locator(".banks tbody tr")
    assert sorted(rows.locator("td:first-child").all_inner_texts()) == ["gpu", "hall-a", "hall-b", "hydro"]
    expect(page.locator(".plot canvas")).to_have_count(2)
    before = page.locator(".log tbody").inner_text()
    expect(page.locator(".log tbody")).not_to_have_text(before, timeout=PATIENCE_MS)


def test_every_chart_can_be_read_as_a_table(page: Page) -> None:
    time.sleep(4)  # half a minute of the demo's time, for a first sample
    page.get_by_role("button", name="Table").click()
    table = page.locator(".axis table.past")
    expect(table.locator("thead th")).to_have_text(["Time", "Metered", "Hashing", "HPC", "Cap", "Plan", "Price"])
    expect(page.locator(".axis table.ahead thead th")).to_have_text(["From", "Plan", "Hashing", "HPC", "Cap", "Price"])
    page.get_by_role("button", name="Chart").click()
    expect(page.locator(".plot canvas")).to_have_count(2)


def test_the_line_ahead_is_the_plan_and_not_flat_where_the_plan_is_not(page: Page, demo: Demo) -> None:
    """A curtailment is told to begin in two hours: the plan dips, and so does what the page shows, chart and table."""
    start_ms = ask(demo, "GET", "/v1/sites/brazos/history")["now_ms"] + 2 * HOUR_MS
    begins, ends = (datetime.fromtimestamp((start_ms + after) / 1000, UTC).isoformat() for after in (0, HOUR_MS))
    most_w = ask(demo, "GET", "/v1/sites/brazos")["planned_w"] // 4
    told = {"site": "brazos", "target_w": most_w, "starts_at": begins, "ends_at": ends, "id": "dip"}
    ask(demo, "POST", "/v1/signals", told)
    try:
        page.get_by_role("button", name="Table").click()
        page.wait_for_function(DIPS, arg=1.01 * most_w, timeout=PATIENCE_MS)
        plan = ask(demo, "GET", "/v1/sites/brazos/plan")
        steps = zip(plan["at_ms"], plan["power_w"], strict=True)
        inside = [watts for at_ms, watts in steps if 0 <= at_ms - start_ms < HOUR_MS]
        assert plan["absent"] is None
        assert max(inside) <= most_w < plan["power_w"][0]
        expect(page.get_by_text("No plan ahead")).to_have_count(0)
        page.get_by_role("button", name="Chart").click()
        label = page.locator(".plot").first.get_attribute("aria-label") or ""
        low, high = label.split("planned ahead from ")[1].split(";")[0].split(" to ")
        assert low != high, label
    finally:
        ask(demo, "DELETE", "/v1/signals/dip")


def ask(demo: Demo, method: str, path: str, body: dict[str, object] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    head = {"Authorization": f"Bearer {demo.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(demo.url + path, data, head, method=method)  # noqa: S310  http, loopback
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None


def test_an_override_goes_from_click_to_confirmed_at_the_meter_and_is_revoked(page: Page) -> None:
    page.get_by_role("button", name="New override").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What").select_option("lockout")
    dialog.get_by_label("Of").select_option("bank:hall-a")
    dialog.get_by_label("For minutes").fill("30")
    dialog.get_by_label("Reason").fill("a fan is changed")
    dialog.get_by_role("button", name="Preview").click()
    expect(dialog.locator(".preview")).to_contain_text("kW)", timeout=PATIENCE_MS)
    dialog.get_by_role("button", name="Impose").click()
    row = page.locator(".overrides tbody tr", has_text="a fan is changed")
    expect(row).to_contain_text("1 of 1 confirmed", timeout=PATIENCE_MS)
    expect(page.locator(".mode")).to_contain_text("MANUAL")
    bank = page.locator(".banks tbody tr", has_text="hall-a")
    expect(bank).to_contain_text("idle")
    expect(bank).to_contain_text("lockout")
    asked: list[str] = []

    def refuse(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.once("dialog", refuse)
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(1)
    assert "a fan is changed" in asked[0], "one who does not say why revokes nothing"
    page.once("dialog", lambda dialog: dialog.accept("it takes longer"))
    row.get_by_role("button", name="+30 min").click()
    expect(row).to_contain_text("59 min", timeout=PATIENCE_MS)
    page.once("dialog", lambda dialog: dialog.accept("the fan runs"))
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0, timeout=PATIENCE_MS)


def test_an_exception_leads_to_its_runbook_and_one_that_was_seen_is_no_alarm(browser: Browser, demo: Demo) -> None:
    """Of a controller that answers as the real one does, but that a person on site is in charge."""
    context = browser.new_context()
    page = context.new_page()

    def local(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"mode": "local"})

    page.route("**/v1/sites/brazos", local)
    page.goto(f"{demo.url}/#token={demo.token}")
    item = page.locator(".exceptions li", has_text="Local control")
    expect(item).to_have_count(1, timeout=PATIENCE_MS)
    link = item.get_by_role("link", name="what to do")
    assert link.get_attribute("href") == "/runbooks/WattshiftLocalControl"
    before = int(page.locator(".fact", has_text="Alarms").locator("b").inner_text().removeprefix("⚠ "))
    item.get_by_role("button").click()
    expect(item).to_have_count(0)
    expect(page.locator(".fact", has_text="Alarms").locator("b")).not_to_contain_text(str(before))
    with context.expect_page() as opened:
        page.get_by_role("link", name="Runbooks").click()
    expect(opened.value.locator("#wattshiftlocalcontrol")).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")
    context.close()


def test_a_job_that_will_be_late_needs_a_look(browser: Browser, demo: Demo) -> None:
    """Of a controller that answers as the real one does, but that a job's time is too short."""
    page = browser.new_page()
    late = {"kind": "deadline", "id": "17", "short_w": 3_000, "detail": "it has more work left than time"}

    def short(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"shortfalls": [late, late]})

    page.route("**/v1/sites/brazos", short)
    page.goto(f"{demo.url}/#token={demo.token}")
    item = page.locator(".exceptions li", has_text="Job 17 (3.0 kW) will be late: it has more work left than time")
    expect(item).to_have_count(1, timeout=PATIENCE_MS)
    page.unroute_all(behavior="ignoreErrors")
    page.close()


def test_an_emergency_stop_waits_for_no_preview(page: Page) -> None:
    page.get_by_role("button", name="New override").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Impose")).to_have_count(0)
    dialog.get_by_label("What").select_option("emergency_stop")
    dialog.get_by_label("Of").select_option("bank:hall-b")
    dialog.get_by_role("button", name="Impose").click()
    expect(dialog).to_have_count(1)  # a reason is asked for all the same
    dialog.get_by_label("Reason").fill("smoke in hall B")
    dialog.get_by_role("button", name="Impose").click()
    row = page.locator(".overrides tbody tr", has_text="smoke in hall B")
    expect(row).to_contain_text("1 of 1 confirmed", timeout=PATIENCE_MS)
    told = page.locator(".log tbody tr", has_text="smoke in hall B")
    expect(told.first).to_contain_text("confirmed at the meter", timeout=PATIENCE_MS)
    page.reload()
    expect(told.first).to_contain_text("confirmed at the meter", timeout=PATIENCE_MS)  # told to who comes later too
    page.once("dialog", lambda dialog: dialog.accept("false alarm"))
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0, timeout=PATIENCE_MS)


def test_what_is_stale_is_hatched_and_said_and_so_is_a_controller_that_does_not_answer(
    browser: Browser, demo: Demo
) -> None:
    page = browser.new_page()

    def old(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"report_age_ms": 120_000})

    page.route("**/v1/sites/brazos", old)
    page.goto(f"{demo.url}/#token={demo.token}")
    expect(page.locator(".axis.stale .stalenote")).to_contain_text("No fresh data", timeout=PATIENCE_MS)
    assert "repeating-linear-gradient" in page.locator(".axis .plot").first.evaluate(
        "node => getComputedStyle(node).backgroundImage"
    )
    expect(page.locator(".exceptions li", has_text="No report for 2 min")).to_have_count(1)
    page.unroute("**/v1/sites/brazos")
    expect(page.locator(".axis.stale")).to_have_count(0, timeout=PATIENCE_MS)
    page.route("**/v1/**", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=PATIENCE_MS)
    expect(page.locator(".strip.stale")).to_have_count(1)
    page.unroute_all(behavior="ignoreErrors")
    page.close()


def test_another_site_that_needs_a_look_is_named_and_one_click_away(browser: Browser, demo: Demo) -> None:
    page = browser.new_page()

    def gone(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["sites"] = [each | {"online": each["online"] and each["site"] != "pecos"} for each in told["sites"]]
        route.fulfill(response=answer, json=told)

    page.route("**/v1/sites", gone)
    page.goto(f"{demo.url}/#token={demo.token}")
    item = page.locator(".exceptions li", has_text="pecos: offline")
    expect(item).to_have_count(1, timeout=PATIENCE_MS)
    item.get_by_role("button").click()
    expect(page.locator(".site select")).to_have_value("pecos", timeout=PATIENCE_MS)
    page.unroute_all(behavior="ignoreErrors")
    page.close()


def test_all_of_it_is_done_from_the_keyboard(page: Page) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "New override":
            break
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert page.evaluate("document.activeElement.name") == "kind"
    page.keyboard.press("h")  # Hold
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("from the keyboard")
    page.keyboard.press("Enter")
    expect(dialog.locator(".preview")).to_contain_text("Power", timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("width", [420, 900])
def test_nothing_is_wider_than_a_small_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_selector(".sentence")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.set_viewport_size({"width": 1440, "height": 1000})
    assert wide <= 0


def test_a_mistake_in_the_form_is_said_in_the_form(page: Page) -> None:
    page.get_by_role("button", name="New override").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Megawatts").fill("-3")
    dialog.get_by_label("Reason").fill("a slip")
    dialog.get_by_role("button", name="Preview").click()
    expect(dialog.get_by_role("alert")).to_contain_text("value_w", timeout=PATIENCE_MS)
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_either_colour_scheme(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.get_by_role("button", name="New override").click()
    for _ in range(2):  # with the dialog open, then closed
        found = Axe().run(page)
        told = [(each["id"], [node["target"] for node in each["nodes"]]) for each in found.response["violations"]]
        assert told == []
        page.keyboard.press("Escape")


@pytest.mark.skipif(SHOTS is None, reason="on demand: WATTSHIFT_SCREENSHOTS=docs/img")
def test_the_pictures_of_the_docs_are_taken_at_the_height_of_the_scarcity(browser: Browser) -> None:
    with running("--miners", "60", "--speed", "30", "--for", "8m") as demo:
        page = browser.new_page(viewport={"width": 1440, "height": 1180})
        page.goto(f"{demo.url}/#token={demo.token}")
        expect(page.locator(".sentence")).to_contain_text("site at", timeout=PATIENCE_MS)
        until = time.monotonic() + 400
        while (ask(demo, "GET", "/v1/sites/brazos")["price_usd_per_mwh"] or 0) < 2_000:
            assert time.monotonic() < until
            time.sleep(2)
        cap = {"target": {"site": "brazos"}, "kind": "cap", "value_w": 150_000, "duration_s": 3_600}
        ask(demo, "POST", "/v1/overrides", cap | {"reason": "transformer runs hot", "ticket": "OPS-71"})
        expect(page.locator(".overrides tbody tr")).to_contain_text("4 of 4 confirmed", timeout=PATIENCE_MS)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.wait_for_timeout(500)
            page.screenshot(path=str(Path(SHOTS or "") / f"console-{scheme}.png"))
        page.close()


def test_without_a_token_there_is_a_door_and_a_wrong_one_is_told(browser: Browser, demo: Demo) -> None:
    view = browser.new_page()
    view.goto(demo.url)
    view.get_by_label("Token").fill("wrong")
    view.get_by_role("button", name="Enter").click()
    expect(view.get_by_role("alert")).to_contain_text("bearer token", timeout=PATIENCE_MS)
    view.close()


def test_the_policy_lets_nothing_else_in(demo: Demo) -> None:
    with urllib.request.urlopen(demo.url + "/", timeout=10) as answer:  # noqa: S310  http, loopback
        policy = answer.headers["Content-Security-Policy"]
        body = answer.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in body
