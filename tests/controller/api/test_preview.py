"""What an override would do, told before it is made; and large changes, which need the token of their preview."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from contract.messages import Mode
from controller.api.app import CONFIRM
from controller.forecast.known import Series
from tests.controller.api.stand import CAP, FixedPrice, Stand, deciding, standing, targets
from tests.controller.kit import BASE_W, RATED_W, report, until

QUARTER_MS = 900_000


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with standing(**deciding()) as made:
        made.join("alpha", "beta")
        await until(lambda: len(made.bus.orders("beta")) == 1)
        yield made


class TestPreview:
    async def test_it_tells_power_money_conflicts_and_permissives_and_changes_nothing(self, stand: Stand) -> None:
        await stand.override(kind="floor", value_w=1_500_000, target={"site": "alpha", "feeder": "main"})
        orders, held = len(stand.bus.published), stand.controller.overrides.entries()
        status, body, _ = await stand.call("POST", "/v1/overrides:preview", CAP)
        assert status == 200, body
        assert body["before_w"] == BASE_W + 2 * RATED_W
        assert body["after_w"] <= BASE_W + RATED_W
        assert body["change_mw"] == pytest.approx(-1.0, abs=0.05)
        usd = body["usd_per_h"]
        assert usd["expected"] < 0, "at 20 USD/MWh a bank earns"
        assert (usd["low"], usd["high"], body["price_usd_per_mwh"]) == (None, None, None), "this feed has no past"
        assert [(each["kind"], each["gives_way"] == each["override"]) for each in body["conflicts"]] == [
            ("floor", True)
        ]
        assert all(each["ok"] for each in body["permissives"])
        assert body["banks"] == ["bank-0", "bank-1"]
        assert body["confirm_required"] is False
        assert len(stand.bus.published) == orders
        assert stand.controller.overrides.entries() == held

    async def test_low_and_high_are_at_prices_as_they_really_moved(self) -> None:
        async with standing(**deciding()) as stand:
            feed = stand.controller.feeds.prices["fixed"]
            assert isinstance(feed, FixedPrice)
            quarters = 14 * 96
            chance = np.random.default_rng(1)
            start_ms = stand.clock.wall_ms() // QUARTER_MS * QUARTER_MS - (quarters - 1) * QUARTER_MS
            feed.past = Series(start_ms, QUARTER_MS, np.append(20.0 + chance.normal(0.0, 5.0, quarters - 1), 20.0))
            stand.join("alpha")
            await until(lambda: stand.bus.orders("alpha"))
            _, body, _ = await stand.call("POST", "/v1/overrides:preview", CAP)
            price, usd = body["price_usd_per_mwh"], body["usd_per_h"]
            assert price["expected"] == 20.0
            assert 10.0 < price["low"] < 16.0 < 24.0 < price["high"] < 30.0, price
            assert usd["low"] < usd["expected"] < usd["high"] < 0, "at a low price standing still costs more"

    async def test_what_stands_in_the_way_is_told(self, stand: Stand) -> None:
        stand.bus.deliver(report(seq=2, mode=Mode.LOCAL))
        _, body, _ = await stand.call("POST", "/v1/overrides:preview", CAP)
        told = {each["name"]: each["ok"] for each in body["permissives"]}
        assert told["mode"] is False
        assert told["online"] is True

    async def test_without_a_price_there_is_no_money_to_tell(self) -> None:
        async with standing(**deciding(None)) as stand:
            stand.join("alpha")
            _, body, _ = await stand.call("POST", "/v1/overrides:preview", CAP)
            assert body["usd_per_h"] is None


class TestConfirm:
    @pytest.fixture
    async def strict(self) -> AsyncIterator[Stand]:
        async with standing(http={"confirm_above_w": 500_000}, **deciding()) as made:
            made.join("alpha")
            await until(lambda: made.bus.orders())
            yield made

    async def test_a_large_change_needs_the_token_of_its_preview(self, strict: Stand) -> None:
        orders = len(strict.bus.published)
        status, problem, _ = await strict.call("POST", "/v1/overrides", CAP)
        assert (status, problem["field"]) == (428, "confirm_token")
        assert len(strict.bus.published) == orders
        _, seen, _ = await strict.call("POST", "/v1/overrides:preview", CAP)
        assert seen["confirm_required"] is True
        other = CAP | {"value_w": BASE_W, "confirm_token": seen["confirm_token"]}
        assert (await strict.call("POST", "/v1/overrides", other))[0] == 412, "a token is for what was looked at"
        status, _, _ = await strict.call("POST", "/v1/overrides", CAP | {"confirm_token": seen["confirm_token"]})
        assert status == 201

    async def test_an_expired_token_is_refused(self, strict: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(strict.app[CONFIRM], "valid_s", -0.001)
        _, seen, _ = await strict.call("POST", "/v1/overrides:preview", CAP)
        status, problem, _ = await strict.call("POST", "/v1/overrides", CAP | {"confirm_token": seen["confirm_token"]})
        assert (status, problem["field"]) == (412, "confirm_token")
        assert "older" in problem["detail"]

    @pytest.mark.parametrize("token", ["", "x", "9e99.00", "nan." + "0" * 64])
    async def test_a_made_up_token_is_refused(self, strict: Stand, token: str) -> None:
        assert (await strict.call("POST", "/v1/overrides", CAP | {"confirm_token": token}))[0] == 412

    @pytest.mark.parametrize("kind", ["emergency_stop", "lockout"])
    async def test_an_emergency_reduction_waits_for_nothing(self, strict: Stand, kind: str) -> None:
        await strict.override(kind=kind)
        assert targets(strict) == [0, 0]

    async def test_a_small_change_needs_none(self, strict: Stand) -> None:
        status, _, _ = await strict.call("POST", "/v1/overrides", CAP | {"value_w": BASE_W + 2 * RATED_W - 400_000})
        assert status == 201


async def test_deciding_a_preview_leaves_the_loop_free(stand: Stand) -> None:
    """Twenty previews at once, and no other task waits for more than one decision of one site, generously."""
    worst_s = 0.0
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        nonlocal worst_s
        while True:
            began_s = loop.time()
            await asyncio.sleep(0)
            worst_s = max(worst_s, loop.time() - began_s)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(stand.call("POST", "/v1/overrides:preview", CAP) for _ in range(20)))
    watching.cancel()
    assert {answer[0] for answer in answers} == {200}
    assert worst_s < 0.5
